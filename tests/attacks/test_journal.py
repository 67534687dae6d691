"""Attacks that are finished are kept, found again under the same origin only, and never done twice."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from analytic import blank, rule

from onepix.attacks.attack import attack_images
from onepix.attacks.journal import Journal
from onepix.attacks.search import CALIBRATION
from onepix.config.attacks import DifferentialEvolution, RandomSearch, Scan
from onepix.config.engine import Engine
from onepix.datasets.bundled import load_bundled
from onepix.engine.evaluator import Evaluator
from onepix.files.atomic import replacing
from onepix.images import ImageSet
from onepix.jobs import attack as job_of_attack
from onepix.jobs import datasets as fetch_dataset
from onepix.jobs import networks as fetch_network
from onepix.networks.build import build
from onepix.networks.classifier import Classifier

ENGINE = Engine(precision="float32", micro_batch=16)
METHODS = {
    "de": DifferentialEvolution(population=12, generations=5, pixels=2),
    "budget": DifferentialEvolution(population=12, generations=5, stop="budget", true_threshold=0.2),
    "targeted": DifferentialEvolution(population=12, generations=3, target="all"),
    "random": RandomSearch(method="random_search", budget=60),
    "scan": Scan(method="scan", stop="first"),
    "palette": Scan(method="scan", colours="palette", palette_size=5, refine=4),
}


@pytest.fixture(scope="module")
def resnet() -> Classifier:
    torch.manual_seed(2)
    return Classifier(build("resnet8", classes=4), (0.5,) * 3, (0.25,) * 3).eval()


@pytest.fixture(scope="module")
def images(resnet) -> ImageSet:
    """Random images that are not square, all but one labelled as the network sees them."""
    pictures = np.random.default_rng(3).integers(0, 256, (7, 7, 5, 3)).astype(np.uint8)
    seen = resnet(torch.from_numpy(pictures)).argmax(1).numpy()
    seen[2] = (seen[2] + 1) % 4
    return ImageSet(pictures, seen, np.arange(7) * 3, tuple("abcd"), "made by a test")


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal(tmp_path / "run/journal", {"seed": 0, "network": "3a"})


def attacked(resnet, images, method, journal=None):
    settings = METHODS[method]
    return attack_images(resnet, images, settings, ENGINE, keep_maps=isinstance(settings, Scan), journal=journal)


def same(found, expected) -> None:
    """Compare every bit of two sets of results."""
    pd.testing.assert_frame_equal(found.records, expected.records, check_exact=True)
    assert found.evaluation == expected.evaluation
    assert (found.maps is None) == (expected.maps is None)
    if found.maps is not None:
        for name in ("colours", "margins", "classes"):
            assert getattr(found.maps, name).tobytes() == getattr(expected.maps, name).tobytes()


class Killed(BaseException):
    pass


def killed_after(monkeypatch, entries: int) -> None:
    """Let the process die when so many attacks have been written down, in the middle of a round's."""
    count = 0

    def writes(path):
        nonlocal count
        if count == entries:
            raise Killed
        count += 1
        return replacing(path)

    monkeypatch.setattr("onepix.attacks.journal.replacing", writes)


def nothing_is_evaluated(monkeypatch) -> None:
    def never(*_):
        raise AssertionError("a candidate was evaluated")

    monkeypatch.setattr(Evaluator, "screen", never)
    monkeypatch.setattr(Evaluator, "exact", never)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("entries", [0, 1, 4])
def test_an_attack_that_is_killed_goes_on(monkeypatch, resnet, images, journal, method, entries, capsys):
    expected = attacked(resnet, images, method)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_after(patch, entries)
        attacked(resnet, images, method, journal)
    written = list(journal.folder.rglob("*.npz"))
    assert len(written) == entries
    before = {path: path.stat().st_mtime_ns for path in written}
    capsys.readouterr()
    same(attacked(resnet, images, method, journal), expected)
    eligible = int(expected.records["eligible"].sum())
    line = f"attack: {entries} of {eligible} attacks are in the journal\n"
    assert capsys.readouterr().err.count(line) == (entries > 0)
    assert len(list(journal.folder.rglob("*.npz"))) == eligible
    assert {path: path.stat().st_mtime_ns for path in written} == before, "done once"


@pytest.mark.parametrize("method", METHODS)
def test_what_is_finished_is_not_evaluated_again(monkeypatch, resnet, images, journal, method):
    expected = attacked(resnet, images, method, journal)
    nothing_is_evaluated(monkeypatch)
    same(attacked(resnet, images, method, journal), expected)


def test_entries_go_by_image_and_target_and_not_by_chunk(monkeypatch, resnet, images, journal):
    for ids in ([0, 3], [9, 12, 15, 18], [6]):
        attacked(resnet, images.select(ids), "targeted", journal)
    expected = attacked(resnet, images, "targeted")
    nothing_is_evaluated(monkeypatch)
    same(attacked(resnet, images, "targeted", journal), expected)
    assert (len(expected.records), expected.records["eligible"].sum()) == (21, 18)


def test_what_was_evaluated_is_counted_once(resnet, images, journal, monkeypatch):
    """Candidates evaluated in both processes together are those of an undisturbed one; only rounds are lost.

    Each image has a sample of further candidates, by which screening is calibrated.
    """
    evaluated = 0
    screen = Evaluator.screen

    def counted(self, pictures, owners, candidates):
        nonlocal evaluated
        evaluated += len(candidates)
        return screen(self, pictures, owners, candidates)

    monkeypatch.setattr(Evaluator, "screen", counted)
    first = attacked(resnet, images.select([0, 3, 9]), "de", journal)
    assert evaluated == first.records["queries"].sum() + 3 * CALIBRATION
    both = attacked(resnet, images, "de", journal)
    assert evaluated == both.records["queries"].sum() + 6 * CALIBRATION


@pytest.mark.parametrize("change", [{"seed": 1}, {"network": "3b"}, {"threads": 2}])
def test_entries_of_another_origin_are_not_used(resnet, images, journal, change, capsys):
    attacked(resnet, images, "random", journal)
    other = Journal(journal.folder, {**journal.origin, **change})
    for path in journal.folder.rglob("*.npz"):
        path.write_bytes(b"poison")
    assert "journal" not in capsys.readouterr().err
    same(attacked(resnet, images, "random", other), attacked(resnet, images, "random"))
    assert len(list(journal.folder.iterdir())) == 2


def test_how_candidates_are_evaluated_is_part_of_the_origin(resnet, images, journal):
    for micro_batch in (16, 8):
        engine = Engine(precision="float32", micro_batch=micro_batch)
        attack_images(resnet, images, METHODS["random"], engine, journal=journal)
    assert len(list(journal.folder.iterdir())) == 2


def test_the_order_of_an_origin_means_nothing(tmp_path):
    origins = {"a": 1, "b": [0.1, "x"]}, {"b": [0.1, "x"], "a": 1}
    assert Journal(tmp_path, origins[0]).path == Journal(tmp_path, origins[1]).path


@pytest.fixture
def fields() -> dict[str, torch.Tensor]:
    """What is known of three attacks, with values that lose something as text or in another type."""
    return {
        "fitness": torch.tensor([torch.inf, 0.1, -1e-42]),
        "margins": torch.tensor([[torch.nan, 1 / 3], [-0.0, 1e38], [1.0, 2.0]]),
        "values": torch.tensor([[[255, 0, 1]], [[2, 3, 4]], [[5, 6, 7]]], dtype=torch.uint8),
        "queries": torch.tensor([2**40, 1, 2]),
        "reached": torch.tensor([True, False, True]),
    }


KEYS = [(0, -1), (7, 3), (7, 4)]


def test_an_entry_survives_to_the_last_bit(journal, fields):
    journal.write(KEYS, fields, [0, 2])
    found = {name: torch.zeros_like(tensor) for name, tensor in fields.items()}
    assert journal.restore(KEYS, found) == [1]
    for name, tensor in fields.items():
        assert found[name][[0, 2]].numpy().tobytes() == tensor[[0, 2]].numpy().tobytes()
        assert not found[name][1].any()
    assert {path.name for path in journal.path.iterdir()} == {"0-untargeted.npz", "7-4.npz"}


def test_a_torn_entry_is_not_there(journal, fields):
    """Whichever byte is lost or altered; and a folder, or nothing, in its place."""
    journal.write(KEYS, fields, [0])
    (path,) = journal.path.iterdir()
    whole = path.read_bytes()
    found = {name: torch.zeros_like(tensor) for name, tensor in fields.items()}
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place])
        assert journal.restore(KEYS[:1], found) == [0]
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert journal.restore(KEYS[:1], found) == [0]
    assert not any(tensor.any() for tensor in found.values())
    path.unlink()
    path.mkdir()
    assert journal.restore(KEYS[:1], found) == [0]
    path.rmdir()
    path.write_bytes(whole)
    assert journal.restore(KEYS[:1], found) == []


def test_a_torn_entry_is_attacked_again(resnet, images, journal):
    expected = attacked(resnet, images, "scan", journal)
    for path in sorted(journal.path.parent.rglob("*.npz"))[:3]:
        path.write_bytes(path.read_bytes()[:100])
    same(attacked(resnet, images, "scan", journal), expected)


def test_entries_without_maps_do_not_serve_where_maps_are_wanted(resnet, images, journal):
    attack_images(resnet, images, METHODS["scan"], ENGINE, journal=journal)
    same(attacked(resnet, images, "scan", journal), attacked(resnet, images, "scan"))


def test_what_has_served_is_removed(journal, fields):
    """Of the images that are done, whatever the origin, and what writers that were killed left of them."""
    other = Journal(journal.folder, {"seed": 1})
    for each in (journal, other):
        each.write(KEYS, fields, [0, 1, 2])
    left = journal.path / ".7-3.npz.abcd1234"
    left.mkdir()
    journal.remove([7])
    assert {path.name for path in journal.folder.rglob("*.npz")} == {"0-untargeted.npz"}
    assert not left.exists()
    journal.remove([70])
    assert len(list(journal.folder.rglob("*.npz"))) == 2
    journal.remove([0])
    assert not journal.folder.exists()
    journal.remove([0])


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """Return manifests of two networks and two datasets."""
    folder, places = tmp_path_factory.mktemp("data"), {}
    for name in ("lenet", "resnet20"):
        places[name] = folder / name / "manifest.json"
        fetch_network.run(json.dumps({"network": {"architecture": name}}), places[name])
    for name in ("sample", "other"):
        places[name] = folder / name / "manifest.json"
        fetch_dataset.run(json.dumps({"dataset": {"source": "bundled"}}), places[name])
    changed = json.loads(places["other"].read_text()) | {"sha256": "0" * 64}
    places["other"].write_text(json.dumps(changed))
    return places


@pytest.fixture
def place(fetched, tmp_path, monkeypatch):
    """Return what tells where a job looks for what is finished."""

    class Looked(BaseException):
        pass

    def looks(*_, journal, **__):
        raise Looked(journal.with_facts().path)

    def of_job(network="lenet", dataset="sample", images=(0, 1), output="000000-000003", engine=None, **attack):
        job = {"attack": {"population": 4, **attack}, "image_ids": images, "engine": engine or {}}
        monkeypatch.setattr(job_of_attack, "attack_images", looks)
        monkeypatch.setattr(job_of_attack, "read_images", lambda _: load_bundled())
        with pytest.raises(Looked) as caught:
            job_of_attack.run(
                json.dumps(job), fetched[dataset], fetched[network], tmp_path / f"run/attack/{output}.json"
            )
        return caught.value.args[0]

    return of_job


def test_whatever_defines_a_result_is_in_its_key(place, tmp_path, monkeypatch):
    """And the chunk is not."""
    places = [place(), place(generations=7), place(seed=1), place(engine={"micro_batch": 8}), place(dataset="other")]
    places += [place(network="resnet20"), place(pixels=2)]
    for name, value in (
        ("source_digest", lambda _: "edited"),
        ("versions", lambda: {"torch": "3"}),
        ("torch.cpu.get_capabilities", lambda: {"avx512_bf16": False}),
        ("torch.get_num_threads", lambda: 7),
        ("platform.machine", lambda: "a calculator"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name if "." in name else f"onepix.jobs.attack.{name}", value)
            places.append(place())
    assert len(set(places)) == len(places) == 12
    assert place(images=(7, 8, 9), output="000005-000009") == places[0]
    assert places[0].parent == tmp_path / "run/journal"


def test_without_an_eligible_image_nothing_is_written(journal):
    done = attack_images(rule(lambda x: x[:, 0, 0, 0]), blank(2, 3, 4, label=1), METHODS["random"], journal=journal)
    assert not done.records["eligible"].any()
    assert not journal.folder.exists()


def test_a_library_call_keeps_no_journal(resnet, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attacked(resnet, images, "random")
    assert list(tmp_path.iterdir()) == []
