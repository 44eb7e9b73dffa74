"""A file as `nas evaluate` keeps it of what a network confuses."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

MATRIX = [[8, 2, 0], [1, 9, 0], [0, 4, 6]]


def write_mistakes(folder: Path, **changes: Any) -> dict[str, Any]:
    """Write it into the folder of a trained network."""
    file = io.BytesIO()
    Image.new("L", (8, 8), 200).save(file, "PNG")
    image = {"file": None, "label": "cat", "predicted": "dog", "png": base64.b64encode(file.getvalue()).decode()}
    kept = {
        **{"weights": "last epoch", "data": "digits", "resolution": 32, "num_images": 30, "num_wrong": 7},
        **{"class_names": ["cat", "dog", "cow"], "matrix": MATRIX},
        "pairs": [{"label": "cow", "predicted": "dog", "count": 4, "of": 10}],
        "images": [image | {"index": index, "probability": 0.9 - index / 100} for index in (3, 11)],
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mistakes.json").write_text(json.dumps(kept), encoding="utf-8")
    return kept
