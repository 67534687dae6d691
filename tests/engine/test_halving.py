"""Where memory runs out, micro-batches are halved, and results are those of the smaller micro-batch."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from refusals import refusal
from strange_networks import Tiny, plain

from onepix.config.engine import Passes
from onepix.datasets.bundled import load_bundled
from onepix.engine.devices import halving
from onepix.jobs import transfer
from onepix.layers.effective_field import effective_fields
from onepix.layers.propagation import BY_IMAGE, propagation_maps
from onepix.networks.classifier import Classifier

CPU = (
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)
ERRORS = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "cpu": RuntimeError(CPU),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "python": MemoryError(),
}


PLANNED = 2  # images of the first run, which plans what is followed; there is room for it


class Crowded(Tiny):
    """A network on a machine that has room for a few images; it notes how many it was given."""

    def __init__(self, room, error):
        super().__init__()
        self.load_state_dict(plain().state_dict())
        self.room, self.error, self.sizes = room, error, []

    def forward(self, x):
        self.sizes.append(len(x))
        maps = self.conv(x)
        if len(x) > self.room and len(x) > PLANNED * (len(self.sizes) == 1):
            raise self.error
        return self.fc(maps.relu().mean((2, 3)))


def crowded(room, error="gpu"):
    return Classifier(Crowded(room, ERRORS[error]), 0.5, 0.25, "crowded").eval()


def noise(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 8, 8, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("error", ERRORS)
def test_propagation_halves_its_batch_and_gives_the_maps_of_the_smaller_one(error):
    """What was followed before memory ran out is followed again, so that all maps have one shape's rounding."""
    classifier = crowded(5, error)
    clean, attacked = noise(7), noise(7, 1)
    with pytest.warns(UserWarning, match="network crowded: out of memory; continuing with micro-batches of 4"):
        found = propagation_maps(classifier, clean, attacked, micro_batch=16)
    assert classifier.network.sizes == [PLANNED, 16, 8, 4, 4, 4, 4]
    expected = propagation_maps(crowded(5), clean, attacked, micro_batch=4)
    whole = propagation_maps(crowded(99), clean, attacked, micro_batch=16)
    assert [layer.name for layer in found] == [layer.name for layer in expected]
    assert {"conv", "fc"} <= {layer.name for layer in found}
    for layer, same, other in zip(found, expected, whole, strict=True):
        for name in BY_IMAGE:
            assert torch.equal(getattr(layer, name), getattr(same, name)), "to the last bit, in the same shape"
            # Another shape may be summed in another order: a few roundings of float32.
            torch.testing.assert_close(getattr(layer, name), getattr(other, name), rtol=1e-5, atol=1e-6)


def test_memory_that_runs_out_later_is_noticed_too():
    """The last batch meets a fuller device."""
    classifier = crowded(16)
    network = classifier.network
    network.register_forward_pre_hook(lambda *_: setattr(network, "room", 4 if len(network.sizes) >= 2 else 16))
    with pytest.warns(UserWarning, match="continuing"):
        found = propagation_maps(classifier, noise(9), noise(9, 1), micro_batch=8)
    assert network.sizes == [PLANNED, 8, 8, 4, 4, 4, 4, 4]
    expected = propagation_maps(crowded(4), noise(9), noise(9, 1), micro_batch=4)
    assert torch.equal(found[0].maximum, expected[0].maximum)


def test_effective_fields_halve_their_batch():
    classifier, images = crowded(3), noise(6)
    with pytest.warns(UserWarning, match="micro-batches of 2"):
        found = effective_fields(classifier, images, micro_batch=4)
    assert classifier.network.sizes == [PLANNED, 4, 2, 2, 2]
    for field, same in zip(found, effective_fields(crowded(3), images, micro_batch=2), strict=True):
        assert torch.equal(field.gradient, same.gradient)


@pytest.mark.parametrize("error", ERRORS)
def test_no_memory_for_one_image_is_told(error):
    with pytest.warns(UserWarning, match="continuing"):
        told = refusal(effective_fields, crowded(0, error), noise(6))
    assert told == "network crowded: out of memory, even with one image per forward pass"
    with pytest.warns(UserWarning, match="continuing"):
        assert refusal(propagation_maps, crowded(0, error), noise(6), noise(6)) == told


def test_transfer_halves_its_batch(tmp_path, monkeypatch):
    pictures = dataclasses.replace(load_bundled().select(range(12)), images=noise(12).numpy())
    records = pd.DataFrame(
        {"image_id": np.arange(12), "rows": [[i % 8] for i in range(12)], "columns": [[1]] * 12}
        | {"values": [[[255, 0, i]] for i in range(12)]}
    )
    classifier = crowded(5)
    labels = classifier.network.fc(classifier.network.features(classifier.scaled(noise(12)))).argmax(1).numpy()
    pictures = dataclasses.replace(pictures, labels=labels)
    monkeypatch.setattr(transfer, "read_images", lambda _: pictures)
    monkeypatch.setattr(transfer, "checked_data", lambda path: path)
    monkeypatch.setattr(transfer, "_successes", lambda _: records)
    monkeypatch.setattr(transfer, "keep_memory", lambda: None)
    settings = transfer.TransferJob(target="b", seed=0, engine=Passes(device="cpu", micro_batch=16)).model_dump_json()
    attack = Path("results/sample/a/de/attack/0-24.json")
    tables = []
    for room in (99, 5):
        network = crowded(room)
        monkeypatch.setattr(transfer, "load_network_file", lambda *_, network=network: network)
        output = tmp_path / f"{room}.csv"
        with pytest.warns(UserWarning, match="of 4") if room == 5 else pytest.MonkeyPatch.context():
            transfer.run(settings, Path("d.json"), Path("n.json"), [attack], output)
        tables.append(pd.read_csv(output))
    assert network.network.sizes == [16, 8, *[4] * 10]  # one for the number of classes, then three times twelve
    pd.testing.assert_frame_equal(*tables)
    assert len(tables[0]) == 12


def test_another_error_is_not_taken_for_a_lack_of_memory():
    def broken(_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        halving(broken, 8, "x")
