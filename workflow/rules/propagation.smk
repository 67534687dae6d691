"""Propagation maps: every attack, and every matched control, followed through every layer; receptive fields."""


rule propagation:
    input:
        library("propagation"),
        dataset=LAYOUT.dataset("{dataset}"),
        network=LAYOUT.network("{network}"),
        attack=LAYOUT.chunk("attack", RUN, "{chunk}"),
    output:
        LAYOUT.chunk("propagation", RUN, "{chunk}"),
    log:
        layout.log("propagation", "{dataset}", "{network}", "{attack}", "{chunk}"),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(6000),
        runtime=growing(60),
    params:
        settings=settings("propagation"),
    message:
        "propagation maps of {wildcards.network}, {wildcards.attack}: {wildcards.dataset} {wildcards.chunk}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs propagation'
        " --settings {params.settings:q} --dataset {input.dataset:q} --network {input.network:q}"
        " --attack {input.attack:q} --output {output:q} 2>&1 | tee {log:q}"


rule controls:
    input:
        library("controls"),
        dataset=LAYOUT.dataset("{dataset}"),
        network=LAYOUT.network("{network}"),
        locality=LAYOUT.chunk("locality", RUN, "{chunk}"),
    output:
        LAYOUT.chunk("controls", RUN, "{chunk}"),
    log:
        layout.log("controls", "{dataset}", "{network}", "{attack}", "{chunk}"),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(6000),
        runtime=growing(60),
    params:
        settings=settings("controls"),
    message:
        "matched controls of {wildcards.network}, {wildcards.attack}: {wildcards.dataset} {wildcards.chunk}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs controls --settings {params.settings:q} --dataset {input.dataset:q}'
        " --network {input.network:q} --locality {input.locality:q} --output {output:q} 2>&1 | tee {log:q}"


rule receptive_fields:
    input:
        library("receptive_fields"),
        dataset=LAYOUT.dataset("{dataset}"),
        network=LAYOUT.network("{network}"),
        images=lambda wildcards: [chosen(wildcards.dataset, name) for name in RUNS.chosen(**wildcards)],
    output:
        manifest=LAYOUT.receptive_fields("{dataset}", "{network}"),
        table=LAYOUT.receptive_fields("{dataset}", "{network}", "csv"),
    log:
        layout.log("receptive_fields", "{dataset}", "{network}"),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        settings=settings("receptive_fields"),
    message:
        "receptive fields of {wildcards.network} on {wildcards.dataset}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs receptive_fields --settings {params.settings:q} --dataset {input.dataset:q}'
        " --network {input.network:q} --output {output.manifest:q} 2>&1 | tee {log:q}"
