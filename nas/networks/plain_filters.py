"""Global filters as convolutions: what an export computes, wherever it is loaded and in whatever number format."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.networks.model import Network
from nas.operators.gnconv import GlobalLocalFilter


class PlainGlobalLocalFilter(nn.Module):
    """A `GlobalLocalFilter` for maps of one size [N,C,H,W], its filter [C/2,1,H,W] as large as they are.

    Multiplying the spectrum is convolving with the filter's impulse response around the borders of the map: no complex
    numbers, and nothing that belongs to a device or a number format.
    """

    def __init__(self, given: GlobalLocalFilter, height: int, width: int):
        super().__init__()
        self.local, self.spectral = given.local, given.spectral
        self.dw, self.pre_norm, self.post_norm = given.dw, given.pre_norm, given.post_norm
        spectrum = given._weight(height, width // 2 + 1).detach().double().contiguous()
        response = torch.fft.irfft2(torch.view_as_complex(spectrum), s=(height, width))
        self.response = nn.Parameter(response.flip(1, 2)[:, None].to(given.complex_weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        local, spectral = self.pre_norm(x).split((self.local, self.spectral), 1)
        local = functional.conv2d(local, self.dw.weight, padding=1, groups=self.local)
        around = torch.cat((spectral[:, :, 1:], spectral), 2)
        around = torch.cat((around[:, :, :, 1:], around), 3)
        spectral = functional.conv2d(around, self.response, groups=self.spectral)
        both = torch.stack((local[:, : self.spectral], spectral), 2).flatten(1, 2)
        return self.post_norm(torch.cat((both, local[:, self.spectral :]), 1))


def with_plain_filters(model: Network, images: Tensor) -> Network:
    """The network, in place, with its global filters for maps as they are with these images [N,C,H,W]."""
    filters = {name: part for name, part in model.named_modules() if isinstance(part, GlobalLocalFilter)}
    sizes: dict[str, torch.Size] = {}
    handles = [part.register_forward_pre_hook(partial(_note, sizes, name)) for name, part in filters.items()]
    if handles:
        with torch.no_grad():
            model(images)
    for handle in handles:
        handle.remove()
    for name, part in filters.items():
        model.set_submodule(name, PlainGlobalLocalFilter(part, *sizes[name][2:]))
    return model


def _note(sizes: dict[str, torch.Size], name: str, module: nn.Module, given: tuple[Tensor, ...]) -> None:
    sizes[name] = given[0].shape
