"""Public: see `nas.networks.published`."""

from nas.networks.published import PUBLISHED, load_published_checkpoint

__all__ = ["PUBLISHED", "load_published_checkpoint"]
