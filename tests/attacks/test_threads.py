"""Results do not depend on the number of threads: with the bundled networks, every bit is compared."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

import onepix
from onepix.layers.effective_field import effective_fields
from onepix.layers.propagation import propagation_maps


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bits(found):
    """Return all numbers in a result as bytes."""
    if dataclasses.is_dataclass(found):
        found = dataclasses.asdict(found)
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list | tuple):
        return [bits(each) for each in found]
    if isinstance(found, torch.Tensor):
        found = found.numpy()
    return found.tobytes() if isinstance(found, np.ndarray) else repr(found)


def by_threads(compute: Callable[[], object]) -> list[object]:
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(compute())
    return found


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["lenet", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_attacks(name, precision):
    network, images = onepix.bundled_network(name), onepix.bundled_images()
    network, images = onepix.bundled_network(name), onepix.bundled_images()
    one = images.images[3:4], images.labels[3:4]
    engine = {"precision": precision}

    def attacked():
        table, changed = onepix.attack(network, *one, population=64, generations=1, engine=engine)
        assert table["eligible"].all()
        maps = onepix.scan(network, *one, budget=128, engine=engine)
        return bits([table.to_json(double_precision=15), changed, maps["margin"].values, maps["flips"].values])

    first, second = by_threads(attacked)
    assert first == second


@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_propagation_and_receptive_fields(name):
    """Of a gradient, the last bits may differ: oneDNN divides the backward pass of a convolution among threads."""
    network = onepix.bundled_network(name)
    images = torch.from_numpy(onepix.bundled_images().images[:2])
    changed = images.clone()
    changed[:, 7, 9] = torch.tensor([255, 0, 255], dtype=torch.uint8)
    first, second = by_threads(lambda: bits(list(propagation_maps(network, images, changed, "auto", 16))))
    assert first == second
    for one, other in zip(*by_threads(lambda: effective_fields(network, images, "auto")), strict=True):
        torch.testing.assert_close(one.gradient, other.gradient, rtol=0, atol=2e-6)
