"""Figures of one run and of all runs, with captions for the report."""


rule draw:
    input:
        library("jobs/draw.py"),
        dataset=f"{DATA}/datasets/{{dataset}}/manifest.json",
        tables=expand(
            "{results}/{{dataset}}/{{network}}/{{attack}}/tables/{table}",
            results=RESULTS,
            table=["attacks.parquet", "layers.csv", "comparison.csv", "separation.csv"],
        ),
        propagation=manifests("propagation"),
        locality=manifests("locality"),
    output:
        [run_figure(name) for name in RUN_FIGURES],
        expand(
            "{results}/{{dataset}}/{{network}}/{{attack}}/figures/{figure}.pdf",
            results=RESULTS,
            figure=RUN_FIGURES,
        ),
    log:
        "logs/draw/{dataset}/{network}/{attack}.log",
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: canonical({**wildcards, **FIGURE_SETTINGS}),
        tables=lambda wildcards, input: str(Path(input.tables[0]).parent),
        chunks=lambda wildcards, input: " ".join(repeated(stage, input[stage]) for stage in ("propagation", "locality")),
        folder=lambda wildcards, output: str(Path(output[0]).parent),
    shell:
        "python -m onepix draw --settings {params.settings:q} --dataset {input.dataset:q} --tables {params.tables:q}"
        " {params.chunks} --output {params.folder:q} 2>&1 | tee {log:q}"


rule draw_locality_chart:
    input:
        library("jobs/draw_all.py"),
        table=f"{RESULTS}/tables/locality.csv",
    output:
        report(
            f"{RESULTS}/figures/locality_chart.png",
            caption="../report/locality_chart.rst",
            category="Figures",
            subcategory="all networks",
            labels={"figure": "locality chart", "dataset": "all", "attack": "all"},
        ),
        f"{RESULTS}/figures/locality_chart.pdf",
    log:
        "logs/draw_locality_chart.log",
    conda:
        "../../environment.yml"
    params:
        settings=canonical(FIGURE_SETTINGS),
        stem=lambda wildcards, output: str(Path(output[0]).with_suffix("")),
    shell:
        "python -m onepix draw-locality-chart --settings {params.settings:q} --table {input.table:q}"
        " --output {params.stem:q} 2>&1 | tee {log:q}"


rule draw_distance_profile:
    input:
        library("jobs/draw_all.py"),
        table=f"{RESULTS}/tables/profile.csv",
    output:
        report(
            f"{RESULTS}/figures/distance_profile.png",
            caption="../report/distance_profile.rst",
            category="Figures",
            subcategory="all networks",
            labels={"figure": "distance profile", "dataset": "all", "attack": "all"},
        ),
        f"{RESULTS}/figures/distance_profile.pdf",
    log:
        "logs/draw_distance_profile.log",
    conda:
        "../../environment.yml"
    params:
        settings=canonical(FIGURE_SETTINGS),
        stem=lambda wildcards, output: str(Path(output[0]).with_suffix("")),
    shell:
        "python -m onepix draw-distance-profile --settings {params.settings:q} --table {input.table:q}"
        " --output {params.stem:q} 2>&1 | tee {log:q}"


rule draw_receptive_fields:
    input:
        library("jobs/draw_all.py"),
        table=f"{RESULTS}/tables/receptive_fields.csv",
        neighbourhood=f"{RESULTS}/tables/neighbourhood.csv",
    output:
        report(
            f"{RESULTS}/figures/receptive_fields.png",
            caption="../report/receptive_fields.rst",
            category="Figures",
            subcategory="all networks",
            labels={"figure": "receptive fields", "dataset": "all", "attack": "all"},
        ),
        f"{RESULTS}/figures/receptive_fields.pdf",
    log:
        "logs/draw_receptive_fields.log",
    conda:
        "../../environment.yml"
    params:
        settings=canonical(FIGURE_SETTINGS),
        stem=lambda wildcards, output: str(Path(output[0]).with_suffix("")),
    shell:
        "python -m onepix draw-receptive-fields --settings {params.settings:q} --table {input.table:q}"
        " --neighbourhood {input.neighbourhood:q} --output {params.stem:q} 2>&1 | tee {log:q}"
