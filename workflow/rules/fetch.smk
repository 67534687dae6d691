"""Images and networks, fetched once and checked."""


rule cifar10:
    input:
        library("cifar10"),
    output:
        LAYOUT.cifar10(),
    log:
        layout.log("cifar10"),
    conda:
        "../../environment.yml"
    params:
        settings=settings("cifar10"),
    message:
        "fetch CIFAR-10"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs cifar10 --settings {params.settings:q} --output {output:q} 2>&1 | tee {log:q}'


rule datasets:
    input:
        library("datasets"),
        own=lambda wildcards: RUNS.own_images(wildcards.dataset),
        cifar10=lambda wildcards: RUNS.cifar10_of(wildcards.dataset),
    output:
        LAYOUT.dataset("{dataset}"),
    log:
        layout.log("datasets", "{dataset}"),
    conda:
        "../../environment.yml"
    params:
        settings=settings("datasets"),
    message:
        "fetch {wildcards.dataset}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs datasets --settings {params.settings:q} --output {output:q} {input.cifar10:q}'
        " 2>&1 | tee {log:q}"


# Before the dataset is fetched, images that a rule chooses are not known, and Snakemake cannot know the chunks.
checkpoint selection:
    input:
        library("selection"),
        dataset=LAYOUT.dataset("{dataset}"),
    output:
        LAYOUT.selection("{dataset}", "{selection}"),
    log:
        layout.log("selection", "{dataset}", "{selection}"),
    conda:
        "../../environment.yml"
    params:
        settings=settings("selection"),
    message:
        "choose images of {wildcards.dataset}: {wildcards.selection}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs selection'
        " --settings {params.settings:q} --dataset {input.dataset:q} --output {output:q}"
        " 2>&1 | tee {log:q}"


rule training:
    input:
        library("training"),
        code=lambda wildcards: told(RUNS.own_code, wildcards.network),
        cifar10=LAYOUT.cifar10(),
    output:
        LAYOUT.trained("{network}"),
    log:
        layout.log("training", "{network}"),
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        gpu=GPU,
        mem_mb=growing(8000),
        runtime=growing(720),
    params:
        settings=settings("training"),
    message:
        "train {wildcards.network}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs training'
        " --settings {params.settings:q} --cifar10 {input.cifar10:q} --output {output:q}"
        " 2>&1 | tee {log:q}"


rule networks:
    input:
        library("networks"),
        own=lambda wildcards: RUNS.own_weights(wildcards.network),
        code=lambda wildcards: told(RUNS.own_code, wildcards.network),
        trained=lambda wildcards: RUNS.trained_weights(wildcards.network),
    output:
        LAYOUT.network("{network}"),
    log:
        layout.log("networks", "{network}"),
    conda:
        "../../environment.yml"
    params:
        settings=settings("networks"),
    message:
        "fetch {wildcards.network}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs networks --settings {params.settings:q} --output {output:q} {input.trained:q}'
        " 2>&1 | tee {log:q}"
