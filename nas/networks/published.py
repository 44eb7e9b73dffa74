"""The published networks by name, their checkpoints, and all of them in timm's registry as `opnas_<name>`.

PUBLISHED maps a name to its genotype; `build_model(PUBLISHED[name])` builds the network. Importing this module
registers the networks with timm (see `nas.networks.timm_models`), which the lighter `nas.space.published` does not.
"""

from __future__ import annotations

import nas.networks.timm_models  # noqa: F401  registers the networks
from nas.networks.published_checkpoint import load_published_checkpoint
from nas.space.published import PUBLISHED

__all__ = ["PUBLISHED", "load_published_checkpoint"]
