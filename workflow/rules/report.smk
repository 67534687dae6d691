"""Figures of one run and of all runs, with captions for the report."""


rule figures:
    input:
        library("figures"),
        dataset=LAYOUT.dataset("{dataset}"),
        records=LAYOUT.summary(RUN, runs.RECORDS),
        tables=[LAYOUT.summary(RUN, table) for table in ("layers.csv", "comparison.csv", "separation.csv")],
        propagation=manifests("propagation"),
        locality=manifests("locality"),
    output:
        pngs=[run_figure(name) for name in RUNS.figures],
        pdfs=[LAYOUT.figure(RUN, name, "pdf") for name in RUNS.figures],
    log:
        layout.log("figures", "{dataset}", "{network}", "{attack}"),
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        settings=settings("figures"),
    message:
        "draw {wildcards.network}, {wildcards.attack}: {wildcards.dataset}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs figures'
        " --settings {params.settings:q} --dataset {input.dataset:q} --records {input.records:q}"
        " --output {output.pngs[0]:q} {input.propagation:q} {input.locality:q} 2>&1 | tee {log:q}"


rule charts:
    input:
        library("charts"),
        locality=LAYOUT.table("locality.csv"),
        profile=LAYOUT.table("profile.csv"),
        fields=LAYOUT.table(runs.FIELD_TABLE),
        neighbourhood=LAYOUT.table("neighbourhood.csv"),
    output:
        pngs=[chart(name) for name in runs.CHARTS],
        pdfs=[LAYOUT.chart(name, "pdf") for name in runs.CHARTS],
    log:
        layout.log("charts"),
    conda:
        "../../environment.yml"
    params:
        settings=settings("charts"),
    message:
        "draw the charts of all runs"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs charts'
        " --settings {params.settings:q} --locality {input.locality:q} --profile {input.profile:q}"
        " --fields {input.fields:q} --neighbourhood {input.neighbourhood:q} --output {output.pngs[0]:q}"
        " 2>&1 | tee {log:q}"
