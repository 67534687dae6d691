"""Sharing between networks: the same vulnerable positions, and successes that flip another network too."""


rule transfer:
    input:
        library("jobs/transfer.py"),
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
        gpu=1,
    params:
        settings=lambda wildcards: canonical(
            {"target": wildcards.network, "seed": CONFIG.statistics.seed, "engine": CONFIG.engine}
        ),
        chunks=lambda wildcards, input: repeated("attack", input.attack),
    shell:
        "python -m onepix transfer --settings {params.settings:q} --dataset {input.dataset:q}"
        " --network {input.network:q} {params.chunks} --output {output:q} 2>&1 | tee {log:q}"


rule share:
    input:
        library("jobs/share.py"),
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
        "logs/share/{dataset}/{attack}.log",
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: canonical({**wildcards, "statistics": CONFIG.statistics}),
        inputs=lambda wildcards, input: " ".join(
            repeated(option, input[option]) for option in ("transfer", "locality", "scan")
        ),
    shell:
        "python -m onepix share --settings {params.settings:q} {params.inputs} --output {output:q} 2>&1 | tee {log:q}"


rule draw_sharing:
    input:
        library("jobs/share.py"),
        table=f"{RESULTS}/sharing/{{dataset}}/{{attack}}.csv",
    output:
        report(
            f"{RESULTS}/sharing/{{dataset}}/{{attack}}.png",
            caption="../report/sharing.rst",
            category="Figures",
            subcategory="all networks",
            labels={"figure": "sharing", "dataset": "{dataset}", "attack": "{attack}"},
        ),
        f"{RESULTS}/sharing/{{dataset}}/{{attack}}.pdf",
    log:
        "logs/draw_sharing/{dataset}/{attack}.log",
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: canonical({**wildcards, **FIGURE_SETTINGS}),
        stem=lambda wildcards, output: str(Path(output[0]).with_suffix("")),
    shell:
        "python -m onepix draw-sharing --settings {params.settings:q} --table {input.table:q} --output {params.stem:q}"
        " 2>&1 | tee {log:q}"
