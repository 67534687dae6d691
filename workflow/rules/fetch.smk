"""Images and networks, fetched once and checked."""


rule cifar10:
    input:
        library("cifar10"),
    output:
        f"{DATA}/cifar10.json",
    log:
        "logs/cifar10.log",
    conda:
        "../../environment.yml"
    params:
        settings=canonical({"existing": CONFIG.existing_cifar10}),
    message:
        "fetch CIFAR-10"
    shell:
        "{JOB} cifar10 --settings {params.settings:q} --output {output:q} 2>&1 | tee {log:q}"


rule datasets:
    input:
        library("datasets"),
        own=own_images,
        cifar10=cifar10_of_dataset,
    output:
        f"{DATA}/datasets/{{dataset}}/manifest.json",
    log:
        "logs/datasets/{dataset}.log",
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: canonical(dataset_settings(CONFIG.datasets[wildcards.dataset])),
    message:
        "fetch {wildcards.dataset}"
    shell:
        "{JOB} datasets --settings {params.settings:q} --output {output:q} {input.cifar10:q}" " 2>&1 | tee {log:q}"


# Images chosen by a rule are known once the dataset is: until then, Snakemake does not know which chunks there are.
checkpoint selection:
    input:
        library("selection"),
        dataset=f"{DATA}/datasets/{{dataset}}/manifest.json",
    output:
        f"{DATA}/selection/{{dataset}}/{{selection}}.txt",
    log:
        "logs/selection/{dataset}/{selection}.log",
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: canonical({"images": SELECTIONS[wildcards.selection].rule}),
    message:
        "choose images of {wildcards.dataset}: {wildcards.selection}"
    shell:
        "{JOB} selection --settings {params.settings:q} --dataset {input.dataset:q} --output {output:q} 2>&1 | tee {log:q}"


rule training:
    input:
        library("training"),
        cifar10=f"{DATA}/cifar10.json",
    output:
        f"{DATA}/training/{{network}}.safetensors",
    log:
        "logs/training/{network}.log",
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        gpu=GPU,
        mem_mb=growing(8000),
        runtime=growing(720),
    params:
        settings=lambda wildcards: canonical(
            {
                "network": CONFIG.networks[wildcards.network].model_dump(mode="json", exclude={"sha256"}),
                "device": CONFIG.engine.device,
            }
        ),
    message:
        "train {wildcards.network}"
    shell:
        "{JOB} training --settings {params.settings:q} --cifar10 {input.cifar10:q} --output {output:q} 2>&1 | tee {log:q}"


rule networks:
    input:
        library("networks"),
        own=own_weights,
        trained=trained_weights,
    output:
        f"{DATA}/networks/{{network}}/manifest.json",
    log:
        "logs/networks/{network}.log",
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: canonical({"network": network_settings(CONFIG.networks[wildcards.network])}),
    message:
        "fetch {wildcards.network}"
    shell:
        "{JOB} networks --settings {params.settings:q} --output {output:q} {input.trained:q}" " 2>&1 | tee {log:q}"
