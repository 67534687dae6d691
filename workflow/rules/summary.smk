"""Tables: of one run, and of all runs together."""


rule summarise:
    input:
        library("jobs/summarise.py"),
        attack=manifests("attack"),
        propagation=manifests("propagation"),
        locality=manifests("locality"),
        controls=manifests("controls"),
    output:
        expand(
            "{results}/{{dataset}}/{{network}}/{{attack}}/tables/{table}",
            results=RESULTS,
            table=["attacks.parquet", *RUN_TABLES],
        ),
    log:
        "logs/summarise/{dataset}/{network}/{attack}.log",
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: canonical({**wildcards, "statistics": CONFIG.statistics}),
        chunks=lambda wildcards, input: " ".join(repeated(stage, input[stage]) for stage in STAGES),
        folder=lambda wildcards, output: str(Path(output[0]).parent),
    shell:
        "python -m onepix summarise --settings {params.settings:q} {params.chunks} --output {params.folder:q} 2>&1 | tee {log:q}"


rule gather_tables:
    input:
        library("jobs/gather.py"),
        tables=tables_to_gather,
    output:
        report(
            f"{RESULTS}/tables/{{table}}",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        "logs/gather_tables/{table}.log",
    wildcard_constraints:
        table="|".join(map(re.escape, [*RUN_TABLES, "receptive_fields.csv"])),
    conda:
        "../../environment.yml"
    params:
        tables=lambda wildcards, input: repeated("table", input.tables),
    shell:
        "python -m onepix gather-tables {params.tables} --output {output:q} 2>&1 | tee {log:q}"
