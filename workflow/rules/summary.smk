"""Tables: of one run, and of all runs together."""


rule summary:
    input:
        library("summary"),
        attack=manifests("attack"),
        propagation=manifests("propagation"),
        locality=manifests("locality"),
        controls=manifests("controls"),
    output:
        tables=[LAYOUT.summary(RUN, file) for file in (runs.RECORDS, *runs.RUN_TABLES)],
    log:
        layout.log("summary", "{dataset}", "{network}", "{attack}"),
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        settings=settings("summary"),
    message:
        "summarise {wildcards.network}, {wildcards.attack}: {wildcards.dataset}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs summary --settings {params.settings:q} --output {output.tables[0]:q}'
        " {input.attack:q} {input.propagation:q} {input.locality:q} {input.controls:q} 2>&1 | tee {log:q}"


rule tables:
    input:
        library("tables"),
        tables=lambda wildcards: RUNS.tables_to_gather(wildcards.table),
    output:
        report(
            LAYOUT.table("{table}"),
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        layout.log("tables", "{table}"),
    wildcard_constraints:
        table="|".join(map(re.escape, [*runs.RUN_TABLES, runs.FIELD_TABLE])),
    conda:
        "../../environment.yml"
    message:
        "gather {wildcards.table}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs tables --output {output:q} {input.tables:q} 2>&1 | tee {log:q}'
