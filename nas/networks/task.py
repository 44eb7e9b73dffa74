"""The network of a genotype for the pictures of a search: a classifier, or a detector."""

from __future__ import annotations

from torch import nn

from nas.networks.model import build_model
from nas.space.genotype import Genotype


def build_network(
    genotype: Genotype, num_classes: int, in_channels: int, side: int, drop_path: float = 0.0
) -> nn.Module:
    """`nas.networks.model.build_model`, or of a genotype with a `dense` part a `nas.networks.dense.detectors.Detector`
    for pictures of `side` pixels; freshly initialised."""
    if genotype.dense is None:
        return build_model(genotype, num_classes, in_channels, drop_path)
    from nas.networks.dense.detectors import Detector  # torchvision's detectors take seconds to import

    return Detector(genotype.loaded(), num_classes, in_channels, side, drop_path)


def build_measured(
    genotype: Genotype, num_classes: int, in_channels: int, side: int, drop_path: float = 0.0
) -> nn.Module:
    """What costs are counted and measured of: the whole of a classifier, a detector up to the maps of its heads, see
    `nas.networks.dense.detectors.Maps`."""
    network = build_network(genotype, num_classes, in_channels, side, drop_path)
    if genotype.dense is None:
        return network
    from nas.networks.dense.detectors import Detector, Maps

    assert isinstance(network, Detector)
    return Maps(network)
