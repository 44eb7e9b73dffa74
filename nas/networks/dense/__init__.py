"""Detectors and segmenters of our backbones: torchvision's, with any operator in the slots of neck and head."""

from nas.networks.dense.build import build_dense, freeze_stages
from nas.space.dense import PUBLISHED_DENSE, DenseSpec

__all__ = ["PUBLISHED_DENSE", "DenseSpec", "build_dense", "freeze_stages"]
