"""Changes of pixels all over an image, and what windowed evaluation computes of them."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from onepix.engine.windows import WindowedNetwork

Changes = tuple[Tensor, Tensor, Tensor, Tensor]
FUSED = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)  # not in every build of PyTorch
CONVOLUTIONS = (F.conv2d, FUSED, getattr(FUSED, "binary", None))


def pictures(count: int, shape: tuple[int, int, int], dtype: torch.dtype = torch.float64) -> Tensor:
    channels, height, width = shape
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, height, width, channels, generator=generator, dtype=dtype).permute(0, 3, 1, 2)


def changes(images: Tensor, inner: int = 12) -> Changes:
    """Change pixels along the whole edge (every ninth of a long one) and within."""
    count, channels, height, width = images.shape
    generator = torch.Generator().manual_seed(11)
    rows, columns = (
        {*range(0, extent, 1 if extent < 20 else 9), 1, extent - 2, extent - 1} for extent in (height, width)
    )
    edge = {*itertools.product(rows, (0, width - 1)), *itertools.product((0, height - 1), columns)}
    within = {(int(torch.randint(height, (), generator=generator)), column % width) for column in range(inner)}
    pixels = torch.tensor(sorted(edge | within))
    owners = torch.randint(count, (len(pixels),), generator=generator)
    values = 5 * torch.randn(len(pixels), channels, generator=generator, dtype=images.dtype)
    return owners, pixels[:, 0], pixels[:, 1], values


class Positions(TorchFunctionMode):
    """Notes how many positions of every convolution's output are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.extents: list[tuple[int, int]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in CONVOLUTIONS:
            self.extents.append(tuple(result.shape[2:]))
        return result


def computed(network: nn.Module, shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    images = pictures(2, shape, next(network.parameters()).dtype)
    windowed = WindowedNetwork(network, shape)
    with torch.inference_mode():
        clean = windowed.clean(images)
        with Positions() as positions:
            windowed(clean, *changes(images))
    return positions.extents
