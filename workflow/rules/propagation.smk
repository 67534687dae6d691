"""Propagation maps: every attack, and every matched control, followed through every layer; receptive fields."""


rule propagation:
    input:
        library("propagation"),
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
        gpu=GPU,
        mem_mb=growing(6000),
        runtime=growing(60),
    params:
        settings=canonical({"layers": CONFIG.propagation.layers, "engine": PASSES}),
    message:
        "propagation maps of {wildcards.network}, {wildcards.attack}: {wildcards.dataset} {wildcards.chunk}"
    shell:
        "{JOB} propagation --settings {params.settings:q} --dataset {input.dataset:q} --network {input.network:q}"
        " --attack {input.attack:q} --output {output:q} 2>&1 | tee {log:q}"


rule controls:
    input:
        library("controls"),
        dataset=f"{DATA}/datasets/{{dataset}}/manifest.json",
        network=f"{DATA}/networks/{{network}}/manifest.json",
        locality=f"{RESULTS}/{{dataset}}/{{network}}/{{attack}}/locality/{{chunk}}.json",
    output:
        f"{RESULTS}/{{dataset}}/{{network}}/{{attack}}/controls/{{chunk}}.json",
    log:
        "logs/controls/{dataset}/{network}/{attack}/{chunk}.log",
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        gpu=GPU,
        mem_mb=growing(6000),
        runtime=growing(60),
    params:
        settings=canonical({"layers": CONFIG.propagation.layers, "engine": PASSES, "seed": CONFIG.statistics.seed}),
    message:
        "matched controls of {wildcards.network}, {wildcards.attack}: {wildcards.dataset} {wildcards.chunk}"
    shell:
        "{JOB} controls --settings {params.settings:q} --dataset {input.dataset:q}"
        " --network {input.network:q} --locality {input.locality:q} --output {output:q} 2>&1 | tee {log:q}"


rule receptive_fields:
    input:
        library("receptive_fields"),
        dataset=f"{DATA}/datasets/{{dataset}}/manifest.json",
        network=f"{DATA}/networks/{{network}}/manifest.json",
        images=chosen_images,
    output:
        manifest=f"{RESULTS}/{{dataset}}/{{network}}/receptive_fields.json",
        table=f"{RESULTS}/{{dataset}}/{{network}}/receptive_fields.csv",
    log:
        "logs/receptive_fields/{dataset}/{network}.log",
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        gpu=GPU,
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        settings=lambda wildcards: canonical(
            {
                "layers": CONFIG.propagation.layers,
                "device": CONFIG.engine.device,
                "image_ids": first_images(wildcards.dataset, wildcards.network),
            }
        ),
    message:
        "receptive fields of {wildcards.network} on {wildcards.dataset}"
    shell:
        "{JOB} receptive_fields --settings {params.settings:q} --dataset {input.dataset:q}"
        " --network {input.network:q} --output {output.manifest:q} 2>&1 | tee {log:q}"
