"""Propagation maps: every attack followed through every layer."""


rule propagate:
    input:
        library("jobs/propagate.py"),
        dataset=f"{DATA}/datasets/{{dataset}}/manifest.json",
        network=f"{DATA}/networks/{{network}}/manifest.json",
        attack=f"{RESULTS}/{{dataset}}/{{network}}/{{attack}}/attack/{{chunk}}.json",
    output:
        f"{RESULTS}/{{dataset}}/{{network}}/{{attack}}/propagation/{{chunk}}.json",
    log:
        "logs/propagation/{dataset}/{network}/{attack}/{chunk}.log",
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        gpu=1,
    params:
        settings=canonical({"propagation": CONFIG.propagation, "engine": CONFIG.engine}),
    shell:
        "python -m onepix propagate --settings {params.settings:q} --dataset {input.dataset:q} --network {input.network:q}"
        " --attack {input.attack:q} --output {output:q} 2>&1 | tee {log:q}"
