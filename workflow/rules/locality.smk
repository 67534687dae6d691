"""Position maps: the colour of every success, moved to every position."""


rule locality:
    input:
        library("locality"),
        dataset=LAYOUT.dataset("{dataset}"),
        network=LAYOUT.network("{network}"),
        attack=LAYOUT.chunk("attack", RUN, "{chunk}"),
    output:
        LAYOUT.chunk("locality", RUN, "{chunk}"),
    log:
        layout.log("locality", "{dataset}", "{network}", "{attack}", "{chunk}"),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        settings=settings("locality"),
    message:
        "position maps of {wildcards.network}, {wildcards.attack}: {wildcards.dataset} {wildcards.chunk}"
    shell:
        '"$ONEPIX_PYTHON" -m onepix.jobs locality'
        " --settings {params.settings:q} --dataset {input.dataset:q} --network {input.network:q}"
        " --attack {input.attack:q} --output {output:q} 2>&1 | tee {log:q}"
