"""How outputs of rules are declared as parts of the report."""


def run_figure(name):
    """Declare a figure of a run as part of the report."""
    return report(
        LAYOUT.figure(RUN, name, "png"),
        caption=f"../report/{'strip' if name.startswith('strip_') else name}.rst",
        category="Figures",
        subcategory="{network}",
        labels={"figure": name.replace("_", " "), "dataset": "{dataset}", "attack": "{attack}"},
    )


def chart(name):
    """Declare a chart of all runs as part of the report."""
    return report(
        LAYOUT.chart(name, "png"),
        caption=f"../report/{name}.rst",
        category="Figures",
        subcategory="all networks",
        labels={"figure": name.replace("_", " "), "dataset": "all", "attack": "all"},
    )


def provenance_report(name, path):
    """Declare a file as part of the report, which shows pages and offers other files for download."""
    return report(
        path,
        caption=f"../report/{name}.rst",
        category="Provenance",
        labels={"what": name, "as": path.suffix[1:]},
    )
