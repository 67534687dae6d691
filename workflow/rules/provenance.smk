"""Where every result comes from: the whole configuration, and a table of all manifests."""


rule configuration:
    input:
        library("configuration"),
    output:
        page=provenance_report("configuration", LAYOUT.configuration("html")),
        file=provenance_report("configuration", LAYOUT.configuration("yaml")),
    log:
        layout.log("configuration"),
    conda:
        "../../environment.yml"
    params:
        settings=settings("configuration"),
    message:
        "record the configuration"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs configuration --settings {params.settings:q} --output {output.file:q}'
        " 2>&1 | tee {log:q}"


rule provenance:
    input:
        library("provenance"),
        manifests=lambda wildcards: RUNS.all_manifests(),
    output:
        page=provenance_report("provenance", LAYOUT.provenance("html")),
        table=provenance_report("provenance", LAYOUT.provenance("csv")),
    log:
        layout.log("provenance"),
    conda:
        "../../environment.yml"
    message:
        "gather where every result comes from"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs provenance --output {output.table:q} {input.manifests:q} 2>&1 | tee {log:q}'
