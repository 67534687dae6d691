"""Where every result comes from: the configuration as a whole, and what the manifests say."""


rule configuration:
    input:
        library("configuration"),
    output:
        page=provenance_report("configuration", f"{RESULTS}/configuration.html"),
        file=provenance_report("configuration", f"{RESULTS}/configuration.yaml"),
    log:
        "logs/configuration.log",
    conda:
        "../../environment.yml"
    params:
        settings=whole_configuration(),
    message:
        "record the configuration"
    shell:
        "{JOB} configuration --settings {params.settings:q} --output {output.file:q} 2>&1 | tee {log:q}"


rule provenance:
    input:
        library("provenance"),
        manifests=all_manifests,
    output:
        page=provenance_report("provenance", f"{RESULTS}/provenance.html"),
        table=provenance_report("provenance", f"{RESULTS}/provenance.csv"),
    log:
        "logs/provenance.log",
    conda:
        "../../environment.yml"
    message:
        "gather where every result comes from"
    shell:
        "{JOB} provenance --output {output.table:q} {input.manifests:q} 2>&1 | tee {log:q}"
