"""Figures of one run and of all runs, with captions for the report."""


rule figures:
    input:
        library("figures"),
        dataset=f"{DATA}/datasets/{{dataset}}/manifest.json",
        records=f"{RESULTS}/{{dataset}}/{{network}}/{{attack}}/summary/attacks.parquet",
        tables=expand(
            "{results}/{{dataset}}/{{network}}/{{attack}}/summary/{table}",
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
        "logs/figures/{dataset}/{network}/{attack}.log",
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
        "{JOB} figures --settings {params.settings:q} --dataset {input.dataset:q} --records {input.records:q}"
        " --output {output.pngs[0]:q} {input.propagation:q} {input.locality:q} 2>&1 | tee {log:q}"


rule charts:
    input:
        library("charts"),
        locality=f"{RESULTS}/tables/locality.csv",
        profile=f"{RESULTS}/tables/profile.csv",
        fields=f"{RESULTS}/tables/receptive_fields.csv",
        neighbourhood=f"{RESULTS}/tables/neighbourhood.csv",
    output:
        pngs=[chart(name) for name in CHARTS],
        pdfs=expand("{results}/charts/{chart}.pdf", results=RESULTS, chart=CHARTS),
    log:
        "logs/charts.log",
    conda:
        "../../environment.yml"
    params:
        settings=canonical(CHART),
    message:
        "draw the charts of all runs"
    shell:
        "{JOB} charts --settings {params.settings:q} --locality {input.locality:q} --profile {input.profile:q}"
        " --fields {input.fields:q} --neighbourhood {input.neighbourhood:q} --output {output.pngs[0]:q}"
        " 2>&1 | tee {log:q}"
