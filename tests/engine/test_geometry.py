"""Windows and receptive fields compute the same geometry by code of their own: each is the other's oracle."""

import pytest
import torch

from onepix.engine.windows import WindowedNetwork
from onepix.layers.receptive_field import receptive_fields
from onepix.networks.build import build

SHAPE = (3, 32, 32)


@pytest.mark.parametrize(
    ("architecture", "least"), [("lenet", 3), ("resnet20", 12), ("nin", 8), ("allconv", 3), ("densenet-bc-40-12", 14)]
)
def test_a_window_is_the_forward_cone_of_its_pixel(architecture, least):
    """Output i sees pixel r if start + i · jump ≤ r ≤ start + i · jump + size − 1; a window is all such i."""
    network = build(architecture).eval()
    fields = receptive_fields(network, SHAPE)
    axes = {node.target: axes for node, axes in WindowedNetwork(network, SHAPE)._plan.axes.items()}
    compared = {name: (axes[name], field) for name, field in fields.items() if name in axes}
    assert len(compared) >= least
    pixels = torch.arange(SHAPE[1])
    for name, (pair, field) in compared.items():
        for axis, size, jump, start in zip(pair, field.size, field.jump, field.start, strict=True):
            assert (axis.first, axis.last, axis.jump) == (-start - size + 1, -start, jump), name
            for pixel, begin in enumerate(axis.start(pixels).tolist()):
                seen = [i for i in range(axis.extent) if start + i * jump <= pixel <= start + i * jump + size - 1]
                assert set(seen) <= set(range(begin, begin + axis.size)), (name, pixel)
