"""Position maps: the colour of every success, moved to every position."""


rule locality:
    input:
        library("locality"),
        dataset=f"{DATA}/datasets/{{dataset}}/manifest.json",
        network=f"{DATA}/networks/{{network}}/manifest.json",
        attack=f"{RESULTS}/{{dataset}}/{{network}}/{{attack}}/attack/{{chunk}}.json",
    output:
        f"{RESULTS}/{{dataset}}/{{network}}/{{attack}}/locality/{{chunk}}.json",
    log:
        "logs/locality/{dataset}/{network}/{attack}/{chunk}.log",
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        gpu=GPU,
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        settings=canonical({"engine": CONFIG.engine}),
    message:
        "position maps of {wildcards.network}, {wildcards.attack}: {wildcards.dataset} {wildcards.chunk}"
    shell:
        "{JOB} locality --settings {params.settings:q} --dataset {input.dataset:q} --network {input.network:q}"
        " --attack {input.attack:q} --output {output:q} 2>&1 | tee {log:q}"
