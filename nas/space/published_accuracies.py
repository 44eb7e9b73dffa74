"""published_accuracies: what the authors state for their networks on ImageNet, from search_spaces/accuracies.json."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

FILE = resources.files("search_spaces") / "accuracies.json"


@cache
def published_accuracies() -> dict[str, Any]:
    """`networks`: name -> top1 as a fraction, num_params, num_macs, paper, training; `resolution` and `num_classes` of
    all of them. Networks whose accuracy hangs on more images than ImageNet-1k are left out."""
    return json.loads(FILE.read_text(encoding="utf-8"))
