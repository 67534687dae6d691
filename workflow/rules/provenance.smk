"""Where every result comes from: the configuration as a whole, and what the manifests say."""


rule record_configuration:
    input:
        library("jobs/trace.py"),
    output:
        page=provenance_report("configuration", f"{RESULTS}/configuration.html"),
        file=provenance_report("configuration", f"{RESULTS}/configuration.yaml"),
    log:
        "logs/record_configuration.log",
    conda:
        "../../environment.yml"
    params:
        settings=whole_configuration(),
    message:
        "record the configuration"
    shell:
        "python -m onepix record-configuration --settings {params.settings:q} --output {output.file:q} 2>&1 | tee {log:q}"


rule gather_provenance:
    input:
        library("jobs/trace.py"),
        manifests=all_manifests,
    output:
        page=provenance_report("provenance", f"{RESULTS}/tables/provenance.html"),
        table=provenance_report("provenance", f"{RESULTS}/tables/provenance.csv"),
    log:
        "logs/gather_provenance.log",
    conda:
        "../../environment.yml"
    message:
        "gather where every result comes from"
    shell:
        "python -m onepix gather-provenance --output {output.table:q} {input.manifests:q} 2>&1 | tee {log:q}"
