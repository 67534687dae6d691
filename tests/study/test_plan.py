"""`onepix plan`: counts, keys and estimates by hand; what Snakemake says is tested with the workflow."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from analytic import blank, rule

from onepix.attacks.attack import attack_images, budget
from onepix.config.attacks import DifferentialEvolution, RandomSearch, Scan
from onepix.config.study import parse
from onepix.files.records import SCHEMA, write_records
from onepix.study.estimates import (
    ATTACK,
    CONTROLS,
    FOLLOW,
    LOCALITY,
    Estimate,
    Measured,
    Part,
    Rate,
    Shares,
    Size,
    earlier,
    estimate_run,
    measure,
    passes_an_image,
    size_of,
)
from onepix.study.plan import Job, Workflow, changed_keys, in_short
from onepix.study.plan_table import added, amount, cells, duration, notes, rule_rows, show, size, sums

RUN = ("sample", "lenet", "de")
CHUNKS = ("000000-000003", "000004-000007")


def study(**changes):
    values = {
        "datasets": {"sample": {"source": "bundled"}},
        "networks": {"lenet": {"architecture": "lenet"}, "resnet20": {"architecture": "resnet20"}},
        "attacks": {"de": {"population": 200, "generations": 5}},
        "runs": [
            {"dataset": "sample", "networks": ["lenet"], "attacks": ["de"], "images": "0-7"},
            {"dataset": "sample", "networks": ["resnet20"], "attacks": ["de"], "images": "0-3"},
        ],
        "images_per_job": 4,
        **changes,
    }
    return parse(values, "study.yaml")


def job(name, why=("new",), chunk=CHUNKS[0], run=RUN, **settings):
    wildcards = dict(zip(("dataset", "network", "attack"), run, strict=True))
    return Job(name, {**wildcards, "chunk": chunk}, settings, tuple(why))


def whole_workflow(why=("new",)):
    """All jobs of LeNet's two chunks of four images."""
    ids = {CHUNKS[0]: [0, 1, 2, 3], CHUNKS[1]: [4, 5, 6, 7]}
    attacks = [job(ATTACK, why, chunk, image_ids=ids[chunk]) for chunk in CHUNKS]
    maps = [job(name, chunk=chunk) for name in (FOLLOW, LOCALITY, CONTROLS) for chunk in CHUNKS]
    return Workflow((*attacks, *maps), {})


MEASURED = Measured(
    (32, 32, 3),
    10,
    start_up=2.0,
    rates={
        ATTACK: Rate(0.001, "finished jobs"),
        FOLLOW: Rate(0.5, "finished jobs"),
        LOCALITY: Rate(0.0001, "finished jobs"),
        CONTROLS: Rate(0.5, "tried now on cpu"),
    },
    sizes={FOLLOW: Size(1000, 10), CONTROLS: Size(1000, 10), LOCALITY: Size(0, 5120)},
)


@pytest.mark.parametrize(
    ("settings", "shape", "expected"),
    [
        (DifferentialEvolution(), (32, 32, 3), 40_400),  # 400 × 101
        (DifferentialEvolution(population=200, generations=0), (7, 5, 1), 200),
        (DifferentialEvolution(budget=1000), (7, 5, 1), 1000),
        (DifferentialEvolution(population=10, generations=9, budget=1000), (7, 5, 1), 100),
        (RandomSearch(method="random_search"), (7, 5, 3), 40_400),
        (RandomSearch(method="random_search", budget=77), (7, 5, 3), 77),
        (Scan(method="scan"), (7, 5, 3), 280),  # 8 colours × 35 positions
        (Scan(method="scan"), (7, 5, 1), 70),
        (Scan(method="scan", colours="grid", levels=3), (7, 5, 3), 945),  # 27 colours
        (Scan(method="scan", colours="palette", palette_size=6), (7, 5, 3), 210),
        (Scan(method="scan", refine=2), (7, 5, 3), 472),  # and 16 rounds × 2 positions × 6 moves
        (Scan(method="scan", refine=1000), (7, 5, 1), 1190),  # and 16 × 35 × 2: there are no more positions
        (Scan(method="scan", refine=1000), (32, 32, 3), 16_352),  # 8192, and 16 × 85 × 6: no more fit into a round
        (Scan(method="scan", budget=100), (7, 5, 3), 100),
    ],
)
def test_the_most_candidates_of_an_attack(settings, shape, expected):
    assert budget(settings, shape) == expected


@pytest.mark.parametrize(
    "settings", [Scan(method="scan", refine=2), DifferentialEvolution(population=8, generations=2)]
)
def test_an_attack_that_never_succeeds_takes_them_all(settings):
    never = rule(lambda images: images.sum((1, 2, 3)) * 0 - 1)
    records = attack_images(never, blank(2, 7, 5), settings).records
    assert records["queries"].tolist() == [budget(settings, (7, 5, 3))] * 2


def test_an_image_is_attacked_once_a_target():
    scan = {"method": "scan", "target": "all"}
    config = study(attacks={"de": {"population": 200, "generations": 5}, "all": scan, "one": {**scan, "target": 3}})
    assert passes_an_image(config, RUN, Measured()) == 1200
    assert passes_an_image(config, ("sample", "lenet", "all"), Measured((7, 5, 1), 10)) == 9 * 70
    assert passes_an_image(config, ("sample", "lenet", "one"), Measured((7, 5, 1), 10)) == 70
    assert passes_an_image(config, ("sample", "lenet", "one"), Measured()) is None, "the images' size is not known"
    assert passes_an_image(config, ("sample", "lenet", "all"), Measured((7, 5, 1))) is None


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (
            {"attack": {"generations": 4, "seed": 0}},
            {"attack": {"generations": 5, "seed": 0}},
            ["attacks.de.generations: 4 → 5"],
        ),
        ({"image_ids": [4, 5, 6, 9]}, {"image_ids": [4, 5, 6]}, ["runs.0.images: 4-6, 9 → 4-6"]),
        ({"network": {"weights": "a"}}, {"network": {"weights": "b"}}, ["networks.lenet.weights: a → b"]),
        ({"dataset": {"split": "test"}}, {"dataset": {"split": "train"}}, ["datasets.sample.split: test → train"]),
        ({"layers": "auto"}, {"layers": ["*conv*"]}, ['propagation.layers: auto → ["*conv*"]']),
        ({"engine": {"micro_batch": "auto"}}, {"engine": {"micro_batch": 8}}, ["engine.micro_batch: auto → 8"]),
        ({"seed": 0, "dpi": 80}, {"seed": 1, "dpi": 90}, ["statistics.seed: 0 → 1", "figures.dpi: 80 → 90"]),
        ({"statistics": {"seed": 3}}, {"statistics": {"seed": 4}}, ["statistics.seed: 3 → 4"]),
        ({"device": "auto"}, {"device": "cpu"}, ["engine.device: auto → cpu"]),
        ({"existing": None}, {"existing": "copy"}, ["existing_cifar10: null → copy"]),
        (
            {"runs": [{"images": "0-3"}, {"images": "0-7"}]},
            {"runs": [{"images": "0-3"}, {"images": "0-9"}]},
            ["runs.1.images: 0-7 → 0-9"],
        ),
        (
            {"attack": {"budget": 10}},
            {"attack": {"stop": "flip"}},
            ["attacks.de.budget: 10 → –", "attacks.de.stop: – → flip"],
        ),
        ({}, {"attack": {}}, ["its parameters changed"]),
        ({"attack": {}}, {"attack": {}}, ["its parameters changed"]),
    ],
)
def test_keys_are_named_as_the_configuration_spells_them(before, now, expected):
    wildcards = {"dataset": "sample", "network": "lenet", "attack": "de", "chunk": CHUNKS[0]}
    assert list(changed_keys(study(), wildcards, before, now)) == expected


def test_of_many_keys_the_kind_comes_first_and_the_rest_is_counted():
    before = {"attack": {"method": "scan", **{f"old{n}": n for n in range(4)}}}
    now = {"attack": {"method": "random_search", **{f"new{n}": n for n in range(4)}}}
    found = list(changed_keys(study(), {"attack": "de"}, before, now))
    assert found[0] == "attacks.de.method: scan → random_search"
    assert len(found) == 6
    assert found[-1] == "4 more keys"


def test_files_in_short():
    assert in_short({"b", "a"}) == "a, b"
    assert in_short("dbca") == "a, b and 2 more"


def test_what_a_run_takes():
    """Of 8 images half are attacked, and of those half fall."""
    found = estimate_run(study(), whole_workflow(), RUN, MEASURED, Shares(0.5, 0.5, 8))
    assert (found.images, found.of) == (8, 8)
    assert found.parts[ATTACK] == Part(2, 9600, pytest.approx(2 * 2 + 9.6), 0)
    assert found.parts[FOLLOW] == Part(2, 4, pytest.approx(2 * 2 + 2), 2 * 1000 + 40)
    assert found.parts[LOCALITY] == Part(2, 2048, pytest.approx(2 * 2 + 0.2048), 2 * 5120)
    assert found.parts[CONTROLS] == Part(2, 2, pytest.approx(2 * 2 + 1), 2 * 1000 + 20)
    assert found.source == "finished jobs, tried now on cpu"
    assert found.unknown == ""
    whole = added(found.parts.values())
    assert whole.seconds == pytest.approx(13.6 + 6 + 4.2048 + 5)
    assert whole.bytes == 2040 + 10240 + 2020


def test_what_is_not_measured_is_not_known():
    measured = Measured((32, 32, 3), 10, rates={ATTACK: Rate(0.001, "finished jobs")}, unknown="no trial")
    found = estimate_run(study(), whole_workflow(), RUN, measured, Shares())
    assert found.parts[ATTACK].seconds == pytest.approx(9.6)
    assert found.parts[FOLLOW] == Part(2, 8, None, None)
    assert found.unknown == "no trial"
    assert added(found.parts.values()).seconds is None


def test_a_scan_keeps_maps_of_all_colours():
    config = study(attacks={"de": {"method": "scan"}})
    found = estimate_run(config, whole_workflow(), RUN, Measured((7, 5, 1), 10), Shares())
    assert found.parts[ATTACK].units == 8 * 70
    assert found.parts[ATTACK].bytes == 8 * 70 * (1 + 4 + 2), "flips, margin and class seen"


def test_images_that_a_rule_will_choose_are_not_known():
    found = estimate_run(study(), Workflow((), {}), RUN, MEASURED, Shares())
    assert (found.images, found.of, found.parts) == (None, None, {})
    assert found.unknown.startswith("sample × lenet × de: a rule chooses the images")
    assert cells(found) == [*RUN, "?", "?", "?", "?", "?", "?", "–"]
    assert sums([found])[3:] == ["?", "?", "?", "?", "?", "?", ""]


@pytest.fixture
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finished_chunk(folder, rule_, chunk, run=RUN, engine=None, **facts):
    manifest = folder.joinpath("results", *run, rule_, f"{chunk}.json")
    manifest.parent.mkdir(parents=True, exist_ok=True)
    settings = {"engine": engine or {"precision": "auto"}}
    manifest.write_text(json.dumps({"data": f"{chunk}.zarr", "sha256": "", "settings": settings, **facts}))
    return manifest.relative_to(folder)


def records(manifest, eligible, success, queries):
    table = pd.DataFrame({field.name: pd.Series([None] * len(eligible), dtype=object) for field in SCHEMA})
    table = table.assign(image_id=range(len(eligible)), eligible=eligible, success=success, queries=queries)
    write_records(table, manifest.with_suffix(".parquet"))


def test_chunks_that_are_attacked_already_are_counted_by_their_records(in_a_folder):
    manifest = finished_chunk(in_a_folder, "attack", CHUNKS[0])
    records(manifest, [True, True, False, True], [True, False, None, False], [5, 9, 0, 9])
    found = estimate_run(study(), whole_workflow(why=()), RUN, MEASURED, Shares(1, 0.25, 4))
    assert found.parts[ATTACK] == Part(0, 0, 0, 0)
    assert found.parts[FOLLOW].units == 3 + 4, "the other chunk has no records: all of it, at most"
    assert found.parts[LOCALITY].units == (1 + 4 * 0.25) * 1024
    assert found.parts[CONTROLS].units == 1 + 4 * 0.25
    assert cells(found)[3:6] == ["0 of 8", "0", "–"]
    assert found.advice == ""


def test_shares_of_earlier_records(in_a_folder):
    assert earlier(study(), RUN) == Shares(1, 1, 0)
    records(finished_chunk(in_a_folder, "attack", CHUNKS[0]), [True, True, False, True], [True, False, None, False], 9)
    assert earlier(study(), RUN) == Shares(0.75, pytest.approx(1 / 3), 4)
    torn = finished_chunk(in_a_folder, "attack", CHUNKS[1]).with_suffix(".parquet")
    torn.write_bytes(b"PAR1")
    assert earlier(study(), RUN) == Shares(), "what is torn tells nothing"


def test_rates_of_finished_jobs(in_a_folder):
    """The shortest job of the study tells what it takes to start: 3 seconds."""
    network = (in_a_folder / "data/networks/lenet/manifest.json").relative_to(in_a_folder)
    attacked = [finished_chunk(in_a_folder, "attack", chunk) for chunk in (*CHUNKS, "000008-000011")]
    for manifest, queries in zip(attacked, ([4000, 5700], [100, 100], [9999, 1]), strict=True):
        records(manifest, [True, True], [True, False], queries)
    other = finished_chunk(in_a_folder, "propagation", CHUNKS[0], image_ids=[0, 1], engine={"precision": "float32"})
    follow = finished_chunk(in_a_folder, "propagation", CHUNKS[1], image_ids=[4, 5])
    store = follow.with_suffix(".zarr")
    (store / "c").mkdir(parents=True)
    (store / "zarr.json").write_bytes(b" " * 70)
    (store / "c" / "0").write_bytes(b" " * 300)
    seconds = {network: 3.0, attacked[0]: 100.0, attacked[1]: 10.0, attacked[2]: 0.01, follow: 16.0, other: 999.0}
    workflow = Workflow(whole_workflow().jobs, seconds)
    found = measure(study(), workflow, RUN[:2], trial=False)
    assert (found.shape, found.classes, found.start_up) == ((32, 32, 3), 10, 3.0)
    assert found.rates[ATTACK] == Rate(pytest.approx((100 - 3) / 9700), "finished jobs")
    assert found.rates[FOLLOW] == Rate(pytest.approx((16 - 3) / 2), "finished jobs")
    assert found.rates[LOCALITY] == found.rates[ATTACK], "both screen candidates"
    assert found.rates[CONTROLS] == found.rates[FOLLOW], "both follow images"
    assert found.sizes == {FOLLOW: Size(70, 150), CONTROLS: Size(70, 150), LOCALITY: Size(0, 5 * 1024)}
    assert found.unknown == ""


def test_short_jobs_serve_where_there_is_no_trial(in_a_folder):
    manifest = finished_chunk(in_a_folder, "attack", CHUNKS[0])
    records(manifest, [True], [True], [200])
    found = measure(study(), Workflow(whole_workflow().jobs, {manifest: 10.0}), RUN[:2], trial=False)
    assert found.rates[ATTACK] == Rate(10 / 200, "short finished jobs")
    assert FOLLOW not in found.rates
    assert "no finished job to tell the speed by, and no trial" in found.unknown


@pytest.fixture
def tried_here(monkeypatch, in_a_folder):
    threads = torch.get_num_threads()
    monkeypatch.setattr("onepix.study.estimates.in_new_process", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr("onepix.study.check.TRIED", 0.01)
    monkeypatch.setenv("ONEPIX_OFFLINE", "")  # set by a trial; this takes it back
    monkeypatch.setenv("ONEPIX_CACHE", str(in_a_folder / "cache"))
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("tried_here")
def test_a_trial(capsys):
    found = measure(study(), whole_workflow(), RUN[:2], trial=True)
    assert {name: rate.source for name, rate in found.rates.items()} == dict.fromkeys(
        (ATTACK, FOLLOW, LOCALITY, CONTROLS), "tried now on cpu"
    )
    assert found.rates[FOLLOW].seconds > found.rates[ATTACK].seconds > 0
    # Two float32 maps of each layer, before compression: conv 28 × 28 twice (ReLU), pool 14 × 14, …
    raw = 8 * (2 * 28**2 + 14**2 + 2 * 10**2 + 5**2)
    assert 100 < found.sizes[FOLLOW].image < raw
    assert found.sizes[FOLLOW].chunk > 10_000, "what describes some 20 arrays"
    assert found.sizes[LOCALITY] == Size(0, 5 * 1024)
    assert capsys.readouterr().err == "", "no progress bar"


@pytest.mark.usefixtures("tried_here")
def test_a_trial_of_what_is_not_at_hand_says_what_would_be_fetched():
    config = study(datasets={"sample": {"source": "torchvision:CIFAR100"}})
    found = measure(config, whole_workflow(), RUN[:2], trial=True)
    assert (found.rates, found.shape) == ({}, None)
    assert found.unknown.startswith("sample × lenet: to be fetched: sample: ")


@pytest.mark.usefixtures("tried_here")
def test_cifar10_need_not_be_at_hand():
    found = measure(study(datasets={"sample": {"source": "cifar10"}}), whole_workflow(), RUN[:2], trial=True)
    assert (found.shape, found.classes, found.unknown) == ((32, 32, 3), 10, "")
    assert found.rates[ATTACK].source == "tried now on cpu"


@pytest.mark.usefixtures("tried_here")
def test_a_trial_that_fails_says_why():
    config = study(networks={"lenet": {"architecture": "lenett"}, "resnet20": {"architecture": "resnet20"}})
    assert "no weights are bundled for it" in measure(config, whole_workflow(), RUN[:2], trial=True).unknown


@pytest.mark.usefixtures("in_a_folder")
def test_no_trial_of_what_would_not_run(monkeypatch):
    monkeypatch.setattr("onepix.study.estimates.in_new_process", lambda *_: pytest.fail("a trial"))
    assert measure(study(), whole_workflow(), ("sample", "resnet20"), trial=True).unknown == ""


def test_the_size_of_a_store(tmp_path):
    (tmp_path / "000_conv" / "max").mkdir(parents=True)
    (tmp_path / "zarr.json").write_bytes(b" " * 10)
    (tmp_path / "000_conv" / "zarr.json").write_bytes(b" " * 5)
    (tmp_path / "000_conv" / "max" / "0").write_bytes(np.zeros(300, np.uint8).tobytes())
    assert size_of(tmp_path, 3) == Size(15, 100)


@pytest.mark.parametrize(
    ("seconds", "advised"),
    [
        (0.01, True),  # 4 images × 1,200 × 0.01 s = 48 s; ids end at 7, so that 8 a job are all
        (0.02, False),  # 96 s
    ],
)
def test_advice_only_where_jobs_are_short(seconds, advised):
    measured = Measured((32, 32, 3), 10, rates={ATTACK: Rate(seconds, "finished jobs")})
    advice = estimate_run(study(), whole_workflow(), RUN, measured, Shares()).advice
    assert ("images_per_job: 8 instead of 4" in advice) == advised


def test_advice_makes_jobs_of_two_minutes():
    """An image takes 1,200 × 0.0125 s = 15 s, and of each block of four ids, two are wanted: a job takes 30 s."""
    chunks = [f"{first:06d}-{first + 3:06d}" for first in range(0, 400, 4)]
    jobs = [job(ATTACK, chunk=chunk, image_ids=[int(chunk[:6]), int(chunk[:6]) + 2]) for chunk in chunks]
    measured = Measured((32, 32, 3), 10, start_up=5, rates={ATTACK: Rate(0.0125, "finished jobs")})
    found = estimate_run(study(), Workflow(tuple(jobs), {}), RUN, measured, Shares())
    assert "images_per_job: 16 instead of 4" in found.advice, "4 × 30 s are two minutes"
    assert "run again" not in found.advice
    jobs[0] = job(ATTACK, why=(), chunk=chunks[0], image_ids=[0, 2])
    found = estimate_run(study(), Workflow(tuple(jobs), {}), RUN, measured, Shares())
    assert found.advice.endswith("finished chunks would run again, since theirs is another size")
    one = Workflow((jobs[1],), {})
    assert estimate_run(study(), one, RUN, measured, Shares()).advice == "", "there is only one chunk"


def test_a_row_a_rule_with_each_reason_once():
    jobs = (
        job(ATTACK, why=("attacks.de.generations: 4 → 5", "onepix/pixels.py changed")),
        job(ATTACK, why=("attacks.de.generations: 4 → 5",)),
        job(ATTACK, why=("new",)),
        job(FOLLOW, why=("after attack",)),
        job(LOCALITY, why=()),
    )
    assert rule_rows(Workflow(jobs, {})) == [
        ["attack", "3", "attacks.de.generations: 4 → 5; new; onepix/pixels.py changed"],
        ["propagation", "1", "after attack"],
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "?"), (0, "0 s"), (59, "59 s"), (90, "1.5 min"), (5400, "1.5 h"), (259200, "3.0 d")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(None, "?"), (1500, "2 kB"), (2.5e6, "2.5 MB"), (2.5e9, "2.5 GB"), (3e12, "3.0 TB")]
)
def test_sizes(number, text):
    assert size(number) == text


def test_amounts():
    assert amount(Part(0, 0, 0, 0)) == "–"
    assert amount(Part(2, 9600, 90, 0)) == "1.5 min"
    assert amount(Part(2, 9600, 90, 2.5e6)) == "1.5 min, 2.5 MB"
    assert amount(Part(2, 9600, None, None)) == "?"
    assert amount(Part(2, 9600, None, 2.5e6)) == "?, 2.5 MB"


def test_what_is_printed(capsys):
    config, workflow = study(), whole_workflow(why=("attacks.de.generations: 4 → 5",))
    found = estimate_run(config, workflow, RUN, MEASURED, Shares(0.5, 0.5, 8))
    second = Estimate(("sample", "resnet20", "de"), 4, 4, found.parts, Shares(), "finished jobs")
    show(workflow, [found, second])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == ["rule jobs why", "attack 2 attacks.de.generations: 4 → 5", "propagate 2 new"]
    head = lines.index("dataset network attack images passes ≤ attacks ≤ propagation maps position maps controls rates")
    assert lines[head + 1] == (
        "sample lenet de 8 of 8 9,600 14 s 6 s, 2 kB 4 s, 10 kB 5 s, 2 kB finished jobs, tried now on cpu"
    )
    assert lines[head + 3] == "sum 12 of 12 19,200 27 s 12 s, 4 kB 8 s, 20 kB 10 s, 4 kB"
    assert any("its 8 earlier records tell: 50% could be attacked, 50% of those fell" in line for line in lines)
    assert "No earlier records of sample × resnet20 × de" in "\n".join(lines)
    assert "In all 58 s, 29 kB, one job at a time: divide by the number of jobs at a time." in lines
    assert any("screening alone" in line for line in lines)


def test_training_is_named_as_not_counted():
    jobs = (Job("train", {"network": "lenet"}, {}, ("new",)), Job("draw", {}, {}, ("new",)))
    assert list(notes(Workflow(jobs, {}), [])) == ["Not counted: train, fetching, records, tables and figures."]


def test_nothing_to_do(capsys):
    show(Workflow((job(ATTACK, why=()),), {}), iter([]))
    assert capsys.readouterr().out == "nothing would run: all results are there, made as the configuration says\n"
