"""Encoders: image [B, h, w, c] -> H0 [B, h', w', D], shared by all arms."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax

Array = jax.Array
Module = Any  # a flax module class
MOMENTUM = 0.9  # of BatchNorm's running statistics


def norm_layer(name: str, train: bool, mask: Array | None) -> Module:
    """BatchNorm over the unmasked rows, as in the ResNets of the collapse literature, or GroupNorm, per example."""
    if name == "batch":
        rows = None if mask is None else mask[:, None, None, None]
        return lambda: partial(nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM), mask=rows)
    return partial(nn.GroupNorm, num_groups=None, group_size=8)


class ConvEncoder(nn.Module):
    """Three 3x3 convolutions (width, 2 width, D channels), each with a norm and ReLU; strides 1, 2, 1.

    Images of 32 pixels and more take stride 2 in every layer, so that 32x32 and 8x8 both come out 4x4.
    """

    features: int
    width: int
    norm: str

    @nn.compact
    def __call__(self, image: Array, train: bool, mask: Array | None = None) -> Array:
        norm = norm_layer(self.norm, train, mask)
        strides = (2, 2, 2) if image.shape[1] >= 32 else (1, 2, 1)
        z = image
        for channels, stride in zip((self.width, 2 * self.width, self.features), strides):
            z = nn.Conv(channels, (3, 3), (stride, stride), use_bias=False)(z)
            z = nn.relu(norm()(z))
        return z


class BasicBlock(nn.Module):
    """ResNet's basic block: two 3x3 convolutions and a shortcut, projected where shape changes."""

    channels: int
    stride: int
    norm: str

    @nn.compact
    def __call__(self, x: Array, train: bool, mask: Array | None = None) -> Array:
        norm = norm_layer(self.norm, train, mask)
        conv = partial(nn.Conv, use_bias=False)
        z = conv(self.channels, (3, 3), (self.stride, self.stride))(x)
        z = conv(self.channels, (3, 3))(nn.relu(norm()(z)))
        z = norm()(z)
        if x.shape != z.shape:
            x = norm()(conv(self.channels, (1, 1), (self.stride, self.stride))(x))
        return nn.relu(x + z)


class ResNet18Encoder(nn.Module):
    """ResNet-18 for 32x32 images (3x3 stem, no pooling; He 2016) without its last stage, which the arm replaces.

    Stages of 64, 128 and 256 channels, two blocks each, strides 1, 2, 2; a 1x1 convolution to D channels if D != 256.
    """

    features: int
    width: int  # channels of the first stage; 64 in the paper
    norm: str

    @nn.compact
    def __call__(self, image: Array, train: bool, mask: Array | None = None) -> Array:
        norm = norm_layer(self.norm, train, mask)
        z = nn.relu(norm()(nn.Conv(self.width, (3, 3), use_bias=False)(image)))
        for stage, stride in enumerate((1, 2, 2)):
            for block in range(2):
                z = BasicBlock(self.width * 2**stage, stride if block == 0 else 1, self.norm)(z, train, mask)
        if z.shape[-1] != self.features:
            z = nn.relu(norm()(nn.Conv(self.features, (1, 1), use_bias=False)(z)))
        return z


class IdentityEncoder(nn.Module):
    """No encoder: the flattened image, through one linear map if its size is not D. For theory and tests."""

    features: int
    width: int
    norm: str

    @nn.compact
    def __call__(self, image: Array, train: bool, mask: Array | None = None) -> Array:
        z = image.reshape(image.shape[0], 1, 1, -1)
        return z if z.shape[-1] == self.features else nn.Dense(self.features, use_bias=False)(z)


ENCODERS: dict[str, Module] = {"conv": ConvEncoder, "resnet18": ResNet18Encoder, "identity": IdentityEncoder}
