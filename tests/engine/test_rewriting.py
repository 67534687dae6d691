"""Networks rewritten for screening: they answer as before, by less work."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from onepix.engine.rewriting import repeat_channels, rewrite
from onepix.engine.tracing import trace


def rewritten(network: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """Return the rewritten network, which answers as the network does."""
    traced = trace(network.eval(), shape)
    rewrite(traced, shape)
    images = torch.randn(3, *shape)
    with torch.no_grad():
        torch.testing.assert_close(traced(images), network(images), rtol=1e-5, atol=1e-5)
    return traced


def test_repeated_channels_by_hand():
    maps = torch.arange(8.0).reshape(1, 2, 2, 2)
    expected = maps[:, [0, 0, 0, 1, 1, 1]]
    assert torch.equal(repeat_channels(maps, 3), expected)
    assert repeat_channels(maps, 3).is_contiguous(memory_format=torch.channels_last)


def test_a_depthwise_convolution_has_one_kernel_for_each_channel():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1, groups=3),
        nn.Conv2d(6, 24, (3, 5), padding="same", dilation=2, groups=6, bias=False),
        nn.Conv2d(24, 24, 3, groups=24),
        nn.Conv2d(24, 48, 3, groups=12),
    )
    traced = rewritten(network, (3, 17, 22))
    layers = [traced.get_submodule(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    assert [(layer.in_channels, layer.out_channels, layer.groups) for layer in layers] == [
        *((6, 6, 6), (24, 24, 24), (24, 24, 24)),
        (24, 48, 12),  # two channels for each group: as it was
    ]
    assert [layer.groups for layer in network] == [3, 6, 24, 12]


def linear_tokens(traced: nn.Module, shape: tuple[int, int, int]) -> list[int]:
    """Return how many tokens each linear layer sees, in order."""
    seen: list[int] = []
    for module in traced.modules():
        if isinstance(module, nn.Linear) and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1:-1].numel()))
    traced(torch.randn(1, *shape))
    return seen


def vision_transformer() -> nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(8, 2, 2, 2, 8, 12, num_classes=5)
    nn.init.normal_(network.heads.head.weight)
    return network


def test_the_last_block_computes_the_token_of_the_class_only():
    traced = rewritten(vision_transformer(), (3, 8, 8))
    assert linear_tokens(traced, (3, 8, 8)) == [17, 17, 1, 1, 1]  # 16 patches and the class; the head sees one vector


class Mixing(nn.Module):
    """Reads the first token, and by a second way the others; or something else that has an index of 0."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.layer, self.norm = way, nn.Linear(4, 4), nn.LayerNorm((6, 4))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.layer(images[:, 0])
        if self.way == "others":
            return tokens[:, 0] + tokens.mean(1)
        if self.way == "norm":
            return self.norm(tokens)[:, 0]
        if self.way == "written":
            changed = torch.relu_(tokens)
            return changed[:, 0] + tokens[:, 1]
        return (tokens @ tokens.mT)[:, 0]


@pytest.mark.parametrize("way", ["others", "norm", "written", "product"])
def test_what_needs_all_tokens_gets_them(way):
    torch.manual_seed(0)
    traced = rewritten(Mixing(way), (2, 6, 4))
    assert linear_tokens(traced, (2, 6, 4)) == [6]
