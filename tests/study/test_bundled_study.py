"""The bundled study, config/config.yaml: what it promises is found within its budget."""

import pytest
from studies import ROOT

from onepix.attacks.attack import attack_images
from onepix.config.selection import parse_ids
from onepix.config.study import Config, load
from onepix.datasets.bundled import load_bundled
from onepix.networks.weights import bundled, load_network_file
from onepix.study.runs import Runs

NETWORKS = ("lenet", "resnet20")


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "config/config.yaml")


def test_two_jobs_of_each_network_run_side_by_side(config):
    runs = Runs(config, lambda index: parse_ids(config.runs[index].images))
    chunks = {run[1:]: [len(ids) for ids in runs.chunks(run).values()] for run in runs.indices}
    assert chunks == {
        (network, attack): sizes
        for network in NETWORKS
        for attack, sizes in (("scan", [50, 50]), ("one-pixel", [25, 25]))
    }


def test_the_paper_s_attack_ends_at_the_paper_s_threshold(config):
    attack = config.attacks["one-pixel"]
    assert (attack.method, attack.variant, attack.population) == ("differential_evolution", "paper", 400)
    assert (attack.stop, attack.true_threshold, attack.differential_weight) == ("threshold", 0.05, 0.5)


@pytest.mark.parametrize("network", ["lenet", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_twenty_successes_of_each_network(config, network):
    classifier = load_network_file(bundled()[network], "cpu")
    records = attack_images(classifier, load_bundled(), config.attacks["scan"], config.engine).records
    assert records["success"].sum() >= 20
    assert records["queries"].max() <= records["budget"].max() == 512
    assert (records.loc[records["success"].fillna(False), "queries_to_success"] <= 512).all()
