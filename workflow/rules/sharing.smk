"""Sharing between networks: the same vulnerable positions, and successes that also flip another network."""


rule transfer:
    input:
        library("transfer"),
        dataset=LAYOUT.dataset("{dataset}"),
        network=LAYOUT.network("{network}"),
        attack=lambda wildcards: RUNS.attacks_of_others(run_of(wildcards)),
    output:
        LAYOUT.transfer(RUN),
    log:
        layout.log("transfer", "{dataset}", "{network}", "{attack}"),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        settings=settings("transfer"),
    message:
        "others' successes on {wildcards.network}, {wildcards.attack}: {wildcards.dataset}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs transfer --settings {params.settings:q} --dataset {input.dataset:q}'
        " --network {input.network:q} --output {output:q} {input.attack:q} 2>&1 | tee {log:q}"


rule sharing:
    input:
        library("sharing"),
        transfer=lambda wildcards: RUNS.transfers(**wildcards),
        vulnerable=lambda wildcards: RUNS.vulnerable(**wildcards),
    output:
        report(
            LAYOUT.sharing("{dataset}", "{attack}"),
            caption="../report/sharing_table.rst",
            category="Tables",
            labels={"table": "sharing, {dataset}, {attack}"},
        ),
    log:
        layout.log("sharing", "{dataset}", "{attack}"),
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        settings=settings("sharing"),
    message:
        "what networks share on {wildcards.dataset}, {wildcards.attack}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs sharing --settings {params.settings:q} --output {output:q} {input.transfer:q}'
        " {input.vulnerable:q} 2>&1 | tee {log:q}"


rule sharing_figures:
    input:
        library("sharing_figures"),
        table=LAYOUT.sharing("{dataset}", "{attack}"),
    output:
        png=report(
            LAYOUT.sharing_figure("{dataset}", "{attack}", "png"),
            caption="../report/sharing.rst",
            category="Figures",
            subcategory="all networks",
            labels={"figure": "sharing", "dataset": "{dataset}", "attack": "{attack}"},
        ),
        pdf=LAYOUT.sharing_figure("{dataset}", "{attack}", "pdf"),
    log:
        layout.log("sharing_figures", "{dataset}", "{attack}"),
    conda:
        "../../environment.yml"
    params:
        settings=settings("sharing_figures"),
    message:
        "draw what networks share on {wildcards.dataset}, {wildcards.attack}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs sharing_figures'
        " --settings {params.settings:q} --table {input.table:q} --output {output.png:q}"
        " 2>&1 | tee {log:q}"
