"""Figures of one run and of all runs, with captions for the report."""


rule draw:
    input:
        library("jobs/draw.py"),
        dataset=f"{DATA}/datasets/{{dataset}}/manifest.json",
        records=f"{RESULTS}/{{dataset}}/{{network}}/{{attack}}/tables/attacks.parquet",
        tables=expand(
            "{results}/{{dataset}}/{{network}}/{{attack}}/tables/{table}",
            results=RESULTS,
            table=["layers.csv", "comparison.csv", "separation.csv"],
        ),
        propagation=manifests("propagation"),
        locality=manifests("locality"),
    output:
        pngs=[run_figure(name) for name in RUN_FIGURES],
        pdfs=expand(
            "{results}/{{dataset}}/{{network}}/{{attack}}/figures/{figure}.pdf",
            results=RESULTS,
            figure=RUN_FIGURES,
        ),
    log:
        "logs/draw/{dataset}/{network}/{attack}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        settings=lambda wildcards: canonical(
            {**wildcards, "figures": CONFIG.figures, "confidence": CONFIG.statistics.confidence}
        ),
    message:
        "draw {wildcards.network}, {wildcards.attack}: {wildcards.dataset}"
    shell:
        "python -m onepix draw --settings {params.settings:q} --dataset {input.dataset:q} --records {input.records:q}"
        " --output {output.pngs[0]:q} {input.propagation:q} {input.locality:q} 2>&1 | tee {log:q}"


rule draw_locality_chart:
    input:
        library("jobs/draw_all.py"),
        table=f"{RESULTS}/tables/locality.csv",
    output:
        png=report(
            f"{RESULTS}/figures/locality_chart.png",
            caption="../report/locality_chart.rst",
            category="Figures",
            subcategory="all networks",
            labels={"figure": "locality chart", "dataset": "all", "attack": "all"},
        ),
        pdf=f"{RESULTS}/figures/locality_chart.pdf",
    log:
        "logs/draw_locality_chart.log",
    conda:
        "../../environment.yml"
    params:
        settings=canonical(CHART),
    message:
        "draw the locality chart"
    shell:
        "python -m onepix draw-locality-chart --settings {params.settings:q} --table {input.table:q}"
        " --output {output.png:q} 2>&1 | tee {log:q}"


rule draw_distance_profile:
    input:
        library("jobs/draw_all.py"),
        table=f"{RESULTS}/tables/profile.csv",
    output:
        png=report(
            f"{RESULTS}/figures/distance_profile.png",
            caption="../report/distance_profile.rst",
            category="Figures",
            subcategory="all networks",
            labels={"figure": "distance profile", "dataset": "all", "attack": "all"},
        ),
        pdf=f"{RESULTS}/figures/distance_profile.pdf",
    log:
        "logs/draw_distance_profile.log",
    conda:
        "../../environment.yml"
    params:
        settings=canonical(CHART),
    message:
        "draw the distance profile"
    shell:
        "python -m onepix draw-distance-profile --settings {params.settings:q} --table {input.table:q}"
        " --output {output.png:q} 2>&1 | tee {log:q}"


rule draw_receptive_fields:
    input:
        library("jobs/draw_all.py"),
        table=f"{RESULTS}/tables/receptive_fields.csv",
        neighbourhood=f"{RESULTS}/tables/neighbourhood.csv",
    output:
        png=report(
            f"{RESULTS}/figures/receptive_fields.png",
            caption="../report/receptive_fields.rst",
            category="Figures",
            subcategory="all networks",
            labels={"figure": "receptive fields", "dataset": "all", "attack": "all"},
        ),
        pdf=f"{RESULTS}/figures/receptive_fields.pdf",
    log:
        "logs/draw_receptive_fields.log",
    conda:
        "../../environment.yml"
    params:
        settings=canonical(CHART),
    message:
        "draw receptive fields"
    shell:
        "python -m onepix draw-receptive-fields --settings {params.settings:q} --table {input.table:q}"
        " --neighbourhood {input.neighbourhood:q} --output {output.png:q} 2>&1 | tee {log:q}"
