"""Tables: of one run, and of all runs together."""


rule summary:
    input:
        library("summary"),
        attack=manifests("attack"),
        propagation=manifests("propagation"),
        locality=manifests("locality"),
        controls=manifests("controls"),
    output:
        tables=expand(
            "{results}/{{dataset}}/{{network}}/{{attack}}/summary/{table}",
            results=RESULTS,
            table=["attacks.parquet", *RUN_TABLES],
        ),
    log:
        "logs/summary/{dataset}/{network}/{attack}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        settings=lambda wildcards: canonical({**wildcards, "statistics": CONFIG.statistics}),
    message:
        "summarise {wildcards.network}, {wildcards.attack}: {wildcards.dataset}"
    shell:
        "{JOB} summary --settings {params.settings:q} --output {output.tables[0]:q}"
        " {input.attack:q} {input.propagation:q} {input.locality:q} {input.controls:q} 2>&1 | tee {log:q}"


rule tables:
    input:
        library("tables"),
        tables=tables_to_gather,
    output:
        report(
            f"{RESULTS}/tables/{{table}}",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        "logs/tables/{table}.log",
    wildcard_constraints:
        table="|".join(map(re.escape, [*RUN_TABLES, "receptive_fields.csv"])),
    conda:
        "../../environment.yml"
    message:
        "gather {wildcards.table}"
    shell:
        "{JOB} tables --output {output:q} {input.tables:q} 2>&1 | tee {log:q}"
