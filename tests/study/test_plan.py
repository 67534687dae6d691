"""`onepix plan`: counts, keys and times by hand; what Snakemake says is tested with the workflow."""

import dataclasses

import pytest
from analytic import blank, rule

from onepix.attacks.attack import attack_images, budget
from onepix.config.attacks import DifferentialEvolution, RandomSearch, Scan
from onepix.config.study import parse
from onepix.study.check import CheckedPair
from onepix.study.plan import (
    ATTACK,
    Estimate,
    Job,
    Workflow,
    changed_keys,
    estimate,
    estimates,
    in_short,
    passes_per_image,
    wall_time,
)
from onepix.study.plan_table import cells, duration, notes, rule_rows, show, sums

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


def attacks(why=("new",)):
    """The jobs of LeNet's two chunks of four images."""
    ids = {CHUNKS[0]: [0, 1, 2, 3], CHUNKS[1]: [4, 5, 6, 7]}
    return [job(ATTACK, why, chunk, image_ids=ids[chunk]) for chunk in CHUNKS]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tried(monkeypatch):
    """In place of trials: LeNet makes 600 passes per second. The list fills with what is tried, and with threads."""
    found = []

    def check_pair(_config, dataset, network, sample, fetch=False, threads=None):
        assert (sample, fetch) == (1, False)
        found.append((dataset, network, threads))
        return CheckedPair(dataset, network, passes=600.0)

    monkeypatch.setattr("onepix.study.plan.check_pair", check_pair)
    return found


@pytest.mark.parametrize(
    ("settings", "shape", "expected"),
    [
        (DifferentialEvolution(), (32, 32, 3), 40_400),  # 400 × 101
        (DifferentialEvolution(population=200, generations=0), (7, 5, 1), 200),
        (DifferentialEvolution(budget=1000), (7, 5, 1), 1000),
        (DifferentialEvolution(population=10, generations=9, budget=1000), (7, 5, 1), 100),
        (RandomSearch(method="random_search"), (7, 5, 3), 40_400),
        (RandomSearch(method="random_search", budget=77), (7, 5, 3), 77),
        (Scan(method="scan"), (7, 5, 3), 282),  # 8 colours × 35 positions, and two backward passes
        (Scan(method="scan"), (7, 5, 1), 72),
        (Scan(method="scan", gradient=False), (7, 5, 1), 70),
        (Scan(method="scan", colours="grid", levels=3), (7, 5, 3), 947),  # 27 colours
        (Scan(method="scan", colours="palette", palette_size=6), (7, 5, 3), 212),
        (Scan(method="scan", refine=2), (7, 5, 3), 474),  # and 16 rounds × 2 positions × 6 moves
        (Scan(method="scan", refine=1000), (7, 5, 1), 1192),  # and 16 × 35 × 2: there are no more positions
        (Scan(method="scan", refine=1000), (32, 32, 3), 16_354),  # 8194, and 16 × 85 × 6: no more fit into a round
        (Scan(method="scan", budget=100), (7, 5, 3), 100),
    ],
)
def test_the_most_candidates_of_an_attack(settings, shape, expected):
    assert budget(settings, shape) == expected


@pytest.mark.parametrize(
    ("settings", "fewer"),
    [(Scan(method="scan", refine=2), 1), (DifferentialEvolution(population=8, generations=2), 0)],
)
def test_an_attack_that_never_succeeds_takes_them_all(settings, fewer):
    """With two classes there is one backward pass, of the two that a plan reckons with."""
    never = rule(lambda images: images.sum((1, 2, 3)) * 0 - 1)
    records = attack_images(never, blank(2, 7, 5), settings).records
    assert records["queries"].tolist() == records["budget"].tolist() == [budget(settings, (7, 5, 3)) - fewer] * 2


def test_an_image_is_attacked_once_per_target():
    scan = {"method": "scan", "target": "all"}
    config = study(attacks={"de": {"population": 200, "generations": 5}, "all": scan, "one": {**scan, "target": 3}})
    assert passes_per_image(config, RUN, None, None) == 1200
    assert passes_per_image(config, ("sample", "lenet", "all"), (7, 5, 1), 10) == 9 * 72
    assert passes_per_image(config, ("sample", "lenet", "one"), (7, 5, 1), 10) == 72
    assert passes_per_image(config, ("sample", "lenet", "one"), None, 10) is None, "the images' size is not known"
    assert passes_per_image(config, ("sample", "lenet", "all"), (7, 5, 1), None) is None


def test_what_a_run_takes(tried):
    """8 images × 1,200 candidates at 600 per second; ResNet-20's chunk is finished, and nobody waits for its trial."""
    finished = job(ATTACK, (), run=("sample", "resnet20", "de"), image_ids=[0, 1, 2, 3])
    lenet, resnet = estimates(study(), Workflow((*attacks(), finished)))
    assert lenet == Estimate(RUN, 8, 8, 9600, 600.0)
    assert lenet.seconds == 16
    assert resnet == Estimate(("sample", "resnet20", "de"), 0, 4, 0, None)
    assert resnet.seconds == 0
    assert tried == [("sample", "lenet", 1)]


def test_a_network_is_tried_once_with_the_threads_of_its_jobs(tried):
    runs = [{"dataset": "sample", "networks": ["lenet"], "attacks": ["de", "more"], "images": 3}]
    config = study(attacks={"de": {}, "more": {"method": "random_search", "budget": 7}}, runs=runs)
    of_both = [job(ATTACK, run=("sample", "lenet", name), image_ids=[3]) for name in config.attacks]
    first, second = estimates(config, Workflow(tuple(dataclasses.replace(each, threads=2) for each in of_both)))
    assert (first.passes, second.passes) == (40_400, 7)
    assert first.rate == second.rate == 600
    assert tried == [("sample", "lenet", 2)]


def test_without_a_trial_times_are_not_known(tried):
    lenet, _ = estimates(study(), Workflow(tuple(attacks())), trial=False)
    assert lenet == Estimate(RUN, 8, 8, 9600, None, "")
    assert lenet.seconds is None
    assert tried == []


def test_some_chunks_are_finished():
    first, second = attacks()
    finished = job(ATTACK, (), CHUNKS[0], image_ids=first.settings["image_ids"])
    assert estimate(study(), RUN, [finished, second], CheckedPair(*RUN[:2])) == Estimate(RUN, 4, 8, 4800, None)


def test_what_a_trial_learns_of_a_dataset_counts():
    config = study(attacks={"de": {"method": "scan"}}, datasets={"sample": {"source": "arrays", "path": "mine.npz"}})
    seen = CheckedPair(*RUN[:2], shape=(7, 5, 1), classes=10, passes=7.0)
    assert estimate(config, RUN, attacks(), seen) == Estimate(RUN, 8, 8, 8 * 72, 7.0)


@pytest.mark.parametrize(
    ("found", "unknown"),
    [
        ({"fault": "no.npz: No such file"}, "sample × lenet: no.npz: No such file"),
        ({"fetches": ["a: b", "c"]}, "sample × lenet: to be fetched: a: b; c"),
        ({}, ""),
    ],
)
def test_what_is_not_known_is_told_with_the_reason(found, unknown):
    config = study(attacks={"de": {"method": "scan"}}, datasets={"sample": {"source": "arrays", "path": "mine.npz"}})
    result = estimate(config, RUN, attacks(), CheckedPair(*RUN[:2], **found))
    assert result == Estimate(RUN, 8, 8, None, None, unknown)
    assert cells(result) == [*RUN, "8 of 8", "?", "?", "?", "?"]


def test_images_that_a_rule_will_choose_are_not_known():
    found = estimate(study(), RUN, [], CheckedPair(*RUN[:2]))
    assert (found.images, found.of, found.passes, found.seconds) == (None, None, None, None)
    assert found.unknown.startswith("sample × lenet × de: a rule will choose the images")
    assert cells(found) == [*RUN, "?", "?", "?", "?", "?"]
    assert sums([found, Estimate(RUN, 0, 4, 0)]) == ["sum", "", "", "?", "", "?", "", "?"]


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


def test_one_row_per_rule_with_each_reason_once():
    jobs = (
        job(ATTACK, why=("attacks.de.generations: 4 → 5", "onepix/pixels.py changed")),
        job(ATTACK, why=("attacks.de.generations: 4 → 5",)),
        job(ATTACK, why=("new",)),
        job("propagation", why=("after attack",)),
        job("locality", why=()),
    )
    assert rule_rows(Workflow(jobs)) == [
        ["attack", "3", "attacks.de.generations: 4 → 5; new; onepix/pixels.py changed"],
        ["propagation", "1", "after attack"],
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0, "0 s"),
        (0.3, "< 1 s"),
        (59, "59 s"),
        (90, "1.5 min"),
        (5400, "1.5 h"),
        (259200, "3.0 d"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_what_is_printed(capsys):
    workflow = Workflow((*attacks(("attacks.de.generations: 4 → 5",)), job("locality", ("after attack",))))
    second = Estimate(("sample", "resnet20", "de"), 0, 4, 0)
    third = Estimate(("sample", "[nin]", "de"), 4, 4, 4800, 0.5)
    show(workflow, [Estimate(RUN, 8, 8, 9600, 600.0), second, third])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "rule jobs why",
        "attack 2 attacks.de.generations: 4 → 5",
        "locality 1 after attack",
        "",
        "dataset network attack images per image ≤ passes ≤ passes/s time ≤",
        "sample lenet de 8 of 8 1,200 9,600 600 16 s",
        "sample resnet20 de 0 of 4 – 0 – –",
        "sample [nin] de 4 of 4 1,200 4,800 0.5 2.7 h",
        "sum 12 of 16 14,400 2.7 h",
        "",
        "≤: at most. Images classified wrongly are not attacked, and attacks may end at a success.",
        "Passes per second were measured just now, without the checks in float32 that attacks add. Times are for "
        "one job at a time.",
        "Only attacks are counted; the jobs of other rules take time, too.",
    ]


@pytest.mark.parametrize(
    ("settings", "each", "said"),
    [
        ({"budget": 500}, 500, "after 500 of 1,200 candidates"),
        ({"budget": 1200}, 1200, ""),
        ({"method": "scan", "budget": 512, "target": "all"}, 9 * 512, "after 512 of 8,194 candidates"),
        ({"method": "scan", "budget": 512, "refine": 32}, 512, "after 512 of 11,266 candidates"),
        ({"method": "scan", "stop": "first"}, 8194, ""),
        ({"method": "scan", "gradient": False, "budget": 512}, 512, "after 512 of 8,192 candidates"),
        ({"method": "random_search", "budget": 50}, 50, ""),
    ],
)
def test_what_a_budget_costs(settings, each, said):
    """LeNet's 8 images of 32 × 32, with 10 classes."""
    method = {"population": 200, "generations": 5} if "method" not in settings else {}
    found = estimate(study(attacks={"de": {**method, **settings}}), RUN, attacks(), CheckedPair(*RUN[:2]))
    assert (found.each, found.passes) == (each, 8 * each)
    assert cells(found)[4:6] == [f"{each:,}", f"{8 * each:,}"]
    lines = [line for line in notes(Workflow(tuple(attacks())), [found, found]) if "budget" in line]
    if not said:
        assert lines == []
        return
    budget = settings["budget"]
    assert lines == [
        f'de: its budget ends each attack {said}; what these do not find is "not found within {budget} candidates".'
    ]


@pytest.mark.parametrize(
    ("at_once", "seconds", "said"),
    [
        (1, 46, []),  # 16 s in two chunks, and 30 s in one
        (2, 30, ["Here, 2 of 3 attack jobs run at once: all attacks take 30 s at most."]),
        (
            4,
            30,
            [
                "Here, 3 of 3 attack jobs run at once: all attacks take 30 s at most.",
                "4 attack jobs could run at once; a smaller images_per_job makes more, shorter jobs.",
            ],
        ),
    ],
)
def test_attacks_side_by_side(at_once, seconds, said):
    """LeNet's two chunks of 8 s run beside or after ResNet-20's of 30 s."""
    other = ("sample", "resnet20", "de")
    workflow = Workflow((*attacks(), job(ATTACK, run=other, image_ids=[0, 1])), at_once)
    runs = [Estimate(RUN, 8, 8, 9600, 600.0), Estimate(other, 2, 2, 2400, 80.0)]
    assert wall_time(workflow, runs) == seconds
    assert list(notes(workflow, runs))[2:] == said
    assert wall_time(workflow, [*runs, Estimate(other)]) is None, "one is not known"


def test_notes_say_what_the_table_holds_and_no_more():
    drawing = Workflow((Job("figures", {}, {}, ("new",)),))
    assert list(notes(drawing, [Estimate(RUN, 0, 8, 0)])) == [
        "Only attacks are counted; the jobs of other rules take time, too."
    ]
    twice = [Estimate((*RUN[:2], name), 8, 8, unknown="sample × lenet: no") for name in ("de", "scan")]
    assert list(notes(Workflow(tuple(attacks())), twice))[1:] == ["sample × lenet: no"]


def test_nothing_to_do(capsys):
    show(Workflow((job(ATTACK, why=()),)), iter([]))
    assert capsys.readouterr().out == "nothing would run: all results exist and match the configuration\n"
