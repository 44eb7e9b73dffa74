"""Public: see `nas.networks.published`, and `nas.space.dense` for detectors and segmenters."""

from nas.networks.published import PUBLISHED, load_published_checkpoint
from nas.space.dense import PUBLISHED_DENSE

__all__ = ["PUBLISHED", "PUBLISHED_DENSE", "load_published_checkpoint"]
