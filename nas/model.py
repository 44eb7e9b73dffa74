"""Public: see `nas.networks.model`."""

from nas.networks.model import Network, build_model, fuse_for_inference

__all__ = ["Network", "build_model", "fuse_for_inference"]
