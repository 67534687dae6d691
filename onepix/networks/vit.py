"""The small vision transformer for CIFAR of Hassani et al. (2021)."""

import math

from torch import nn

SIDE = 32  # of the images, in pixels


def vit_lite(depth: int, patch: int, classes: int = 10, channels: int = 3) -> nn.Module:
    """Return ViT-Lite-depth/patch for 32 × 32 images: 256 channels, 4 heads, MLPs of 512, learnt positions.

    Parameters
    ----------
    depth : int
        Number of encoder blocks.
    patch : int
        Height and width of the patches, in pixels: a divisor of 32.
    classes, channels : int
        Numbers of classes and of image channels.

    Returns
    -------
    nn.Module
        Torchvision's VisionTransformer. It maps scaled images (N, C, 32, 32) to logits (N, classes); with fresh
        weights, all logits are zero.

    Raises
    ------
    ValueError
        If `depth` is less than 1 or `patch` is not a divisor of 32.

    Notes
    -----
    Hassani et al., "Escaping the Big Data Paradigm with Compact Transformers" (2021). Millions of parameters, table 2:
    ViT-Lite-7/4 has 3.72, 6/4 3.19, 7/8 3.74, 7/16 3.89; torchvision's attention also has biases of queries, keys
    and values, 768 more parameters per block. As in the paper, attention drops out a tenth of its weights; unlike
    there, whole blocks are not dropped.
    """
    if depth < 1:
        raise ValueError(f"a ViT-Lite has a depth of at least 1, got {depth}")
    if patch < 1 or SIDE % patch:
        raise ValueError(f"a ViT-Lite for 32 × 32 images has patches of 1, 2, 4, 8, 16 or 32, got {patch}")
    from torchvision.models import VisionTransformer  # imported here, as it takes seconds

    network: nn.Module = VisionTransformer(
        image_size=SIDE,
        patch_size=patch,
        num_layers=depth,
        num_heads=4,
        hidden_dim=256,
        mlp_dim=512,
        attention_dropout=0.1,
        num_classes=classes,
    )
    if channels != 3:  # torchvision supports only colour images
        network.conv_proj = _patches(patch, channels)
    return network


def _patches(patch: int, channels: int) -> nn.Conv2d:
    """Return the layer that turns patches into tokens, initialised as in torchvision."""
    layer = nn.Conv2d(channels, 256, patch, patch)
    assert layer.bias is not None
    nn.init.trunc_normal_(layer.weight, std=math.sqrt(1 / (channels * patch**2)))
    nn.init.zeros_(layer.bias)
    return layer
