"""Preparation: how an image is brought to a network that is evaluated, the same in training, evaluation and exports.

As timm's validate.py does it: the shorter side is resized to floor(side / crop), the centre square of `side` pixels cut
out, each channel normalised. Nothing is decoded at a smaller scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nas.data.images.reading import centre_square, resized_side

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preparation:
    """`mean` and `std` of each channel, of values in 0..1; `crop` is the share of the shorter side that is kept."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    interpolation: str = "bilinear"

    @staticmethod
    def from_dict(described: Mapping[str, Any]) -> Preparation:
        return Preparation(
            tuple(described["mean"]), tuple(described["std"]), described["crop"], described["interpolation"]
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def channels(self) -> int:
        return len(self.mean)

    def pixels(self, image: Image.Image, side: int) -> Tensor:
        """The centre of an image as uint8 [channels, side, side]."""
        mode = "L" if self.channels == 1 else "RGB"
        resampling = RESAMPLING[self.interpolation]
        return to_tensor(centre_square(image.convert(mode), side, resized_side(side, self.crop), resampling))

    def normaliser(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """A function from images in 0..255 [N, C, H, W] to float32 with mean 0 and deviation 1 of each channel."""
        scale = 1 / (255 * torch.tensor(self.std, device=device)[:, None, None])
        offset = torch.tensor(self.mean, device=device)[:, None, None] * 255 * scale
        return lambda images: images.float() * scale - offset


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 [C, H, W]"""
    values = np.asarray(image)
    return torch.from_numpy((values[:, :, None] if values.ndim == 2 else values).transpose(2, 0, 1).copy())
