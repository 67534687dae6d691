include: "workflow/rules/common.smk"
include: "workflow/rules/reported.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/attack.smk"
include: "workflow/rules/propagation.smk"
include: "workflow/rules/locality.smk"
include: "workflow/rules/sharing.smk"
include: "workflow/rules/summary.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/provenance.smk"


rule all:
    default_target: True
    input:
        RUNS.targets,
