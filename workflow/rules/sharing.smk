"""Sharing between networks: the same vulnerable positions, and successes that flip another network too."""


rule transfer:
    input:
        library("transfer"),
        dataset=f"{DATA}/datasets/{{dataset}}/manifest.json",
        network=f"{DATA}/networks/{{network}}/manifest.json",
        attack=attacks_of_others,
    output:
        f"{RESULTS}/{{dataset}}/{{network}}/{{attack}}/transfer.csv",
    log:
        "logs/transfer/{dataset}/{network}/{attack}.log",
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        gpu=GPU,
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        settings=lambda wildcards: canonical(
            {"target": wildcards.network, "seed": CONFIG.statistics.seed, "engine": PASSES}
        ),
    message:
        "others' successes on {wildcards.network}, {wildcards.attack}: {wildcards.dataset}"
    shell:
        "{JOB} transfer --settings {params.settings:q} --dataset {input.dataset:q}"
        " --network {input.network:q} --output {output:q} {input.attack:q} 2>&1 | tee {log:q}"


rule sharing:
    input:
        library("sharing"),
        transfer=lambda wildcards: [
            f"{RESULTS}/{wildcards.dataset}/{network}/{wildcards.attack}/transfer.csv"
            for network in networks_of(wildcards.dataset, wildcards.attack)
        ],
        locality=vulnerable("locality"),
        scan=vulnerable("scan"),
    output:
        report(
            f"{RESULTS}/sharing/{{dataset}}/{{attack}}.csv",
            caption="../report/sharing_table.rst",
            category="Tables",
            labels={"table": "sharing, {dataset}, {attack}"},
        ),
    log:
        "logs/sharing/{dataset}/{attack}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        settings=lambda wildcards: canonical({**wildcards, "statistics": part(Intervals, CONFIG.statistics)}),
    message:
        "what networks share on {wildcards.dataset}, {wildcards.attack}"
    shell:
        "{JOB} sharing --settings {params.settings:q} --output {output:q} {input.transfer:q}"
        " {input.locality:q} {input.scan:q} 2>&1 | tee {log:q}"


rule sharing_figures:
    input:
        library("sharing_figures"),
        table=f"{RESULTS}/sharing/{{dataset}}/{{attack}}.csv",
    output:
        png=report(
            f"{RESULTS}/sharing_figures/{{dataset}}/{{attack}}.png",
            caption="../report/sharing.rst",
            category="Figures",
            subcategory="all networks",
            labels={"figure": "sharing", "dataset": "{dataset}", "attack": "{attack}"},
        ),
        pdf=f"{RESULTS}/sharing_figures/{{dataset}}/{{attack}}.pdf",
    log:
        "logs/sharing_figures/{dataset}/{attack}.log",
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: canonical({**wildcards, **CHART}),
    message:
        "draw what networks share on {wildcards.dataset}, {wildcards.attack}"
    shell:
        "{JOB} sharing_figures --settings {params.settings:q} --table {input.table:q} --output {output.png:q}"
        " 2>&1 | tee {log:q}"
