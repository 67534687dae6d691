"""Images and networks, fetched once and checked."""


rule fetch_cifar10:
    input:
        library("datasets/cifar10.py"),
    output:
        f"{DATA}/cifar10.json",
    log:
        "logs/fetch_cifar10.log",
    conda:
        "../../environment.yml"
    params:
        folder=lambda wildcards, output: Path(output[0]).with_suffix(""),
        existing=repeated("existing", filter(None, [CONFIG.existing_cifar10])),
    shell:
        "python -m onepix fetch-cifar10 {params.folder:q} {params.existing} --output {output:q} 2>&1 | tee {log:q}"


rule fetch_dataset:
    input:
        library("jobs/fetch_dataset.py"),
        own=own_images,
        cifar10=cifar10_of_dataset,
    output:
        f"{DATA}/datasets/{{dataset}}/manifest.json",
    log:
        "logs/fetch_dataset/{dataset}.log",
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: canonical({"dataset": CONFIG.datasets[wildcards.dataset]}),
        cifar10=lambda wildcards, input: repeated("cifar10", [Path(file).with_suffix("") for file in input.cifar10]),
        downloads=f"{DATA}/torchvision",
    shell:
        "python -m onepix fetch-dataset --settings {params.settings:q} {params.cifar10} --downloads {params.downloads:q}"
        " --output {output:q} 2>&1 | tee {log:q}"


# Images chosen by a rule are known once the dataset is: until then, Snakemake does not know which chunks there are.
checkpoint select_images:
    input:
        library("jobs/select.py"),
        dataset=f"{DATA}/datasets/{{dataset}}/manifest.json",
    output:
        f"{DATA}/datasets/{{dataset}}/{{selection}}.txt",
    log:
        "logs/select_images/{dataset}/{selection}.log",
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: canonical({"images": SELECTIONS[wildcards.selection]}),
    shell:
        "python -m onepix select --settings {params.settings:q} --dataset {input.dataset:q} --output {output:q} 2>&1 | tee {log:q}"


rule train:
    input:
        library("jobs/train.py"),
        cifar10=f"{DATA}/cifar10.json",
    output:
        f"{DATA}/trained/{{network}}.safetensors",
    log:
        "logs/train/{network}.log",
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        gpu=1,
    params:
        settings=lambda wildcards: canonical({"network": CONFIG.networks[wildcards.network], "engine": CONFIG.engine}),
        cifar10=lambda wildcards, input: Path(input.cifar10).with_suffix(""),
    shell:
        "python -m onepix train --settings {params.settings:q} --cifar10 {params.cifar10:q} --output {output:q} 2>&1 | tee {log:q}"


rule fetch_network:
    input:
        library("jobs/fetch_network.py"),
        own=own_weights,
        trained=trained_weights,
    output:
        f"{DATA}/networks/{{network}}/manifest.json",
    log:
        "logs/fetch_network/{network}.log",
    conda:
        "../../environment.yml"
    params:
        settings=lambda wildcards: canonical({"network": CONFIG.networks[wildcards.network]}),
        trained=lambda wildcards, input: repeated("trained", input.trained),
    shell:
        "python -m onepix fetch-network --settings {params.settings:q} {params.trained} --output {output:q} 2>&1 | tee {log:q}"
