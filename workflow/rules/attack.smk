"""One-pixel attacks: one job per chunk of images."""


rule attack:
    input:
        library("attack"),
        dataset=LAYOUT.dataset("{dataset}"),
        network=LAYOUT.network("{network}"),
    output:
        LAYOUT.chunk("attack", RUN, "{chunk}"),
    log:
        layout.log("attack", "{dataset}", "{network}", "{attack}", "{chunk}"),
    # The longest jobs first, side by side: what follows fills the gaps, and no long job is left to run alone at the end.
    priority: 1
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        settings=settings("attack"),
    message:
        "attack {wildcards.network} by {wildcards.attack}: {wildcards.dataset} {wildcards.chunk}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs attack'
        " --settings {params.settings:q} --dataset {input.dataset:q} --network {input.network:q}"
        " --output {output:q} 2>&1 | tee {log:q}"
