"""One-pixel attacks, a chunk of images a job."""


rule attack:
    input:
        library("attack"),
        dataset=f"{DATA}/datasets/{{dataset}}/manifest.json",
        network=f"{DATA}/networks/{{network}}/manifest.json",
    output:
        f"{RESULTS}/{{dataset}}/{{network}}/{{attack}}/attack/{{chunk}}.json",
    log:
        "logs/attack/{dataset}/{network}/{attack}/{chunk}.log",
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        gpu=GPU,
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        settings=lambda wildcards: canonical(
            {
                "attack": attack_settings(CONFIG.attacks[wildcards.attack]),
                "image_ids": chunks(wildcards.dataset, wildcards.network, wildcards.attack)[wildcards.chunk],
                "engine": CONFIG.engine,
            }
        ),
    message:
        "attack {wildcards.network} by {wildcards.attack}: {wildcards.dataset} {wildcards.chunk}"
    shell:
        "{JOB} attack --settings {params.settings:q} --dataset {input.dataset:q} --network {input.network:q}"
        " --output {output:q} 2>&1 | tee {log:q}"
