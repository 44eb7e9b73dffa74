"""Average precision of detectors by COCO's rules."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

Said = Mapping[str, Tensor]
"""boxes [K, 4] (left, top, right, bottom in pixels), labels [K] from 1, and of what a detector says scores [K]."""


def average_precision(said: Sequence[Said], truths: Sequence[Said], num_classes: int, side: int) -> dict[str, float]:
    """COCO's average precision of boxes on pictures of `side` pixels, 0 to 1: `box_ap` over IoU 0.5 to 0.95, `box_ap50`
    at 0.5. Needs the extra `dense`."""
    from faster_coco_eval import COCO, COCOeval_faster

    found = [
        {"image_id": number, "category_id": label, "bbox": box, "score": score}
        for number, one in enumerate(said, start=1)
        for box, label, score in zip(_corners(one), one["labels"].tolist(), one["scores"].tolist(), strict=True)
    ]
    if not found:
        return {"box_ap": 0.0, "box_ap50": 0.0}
    boxes = [
        {"image_id": number, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for number, one in enumerate(truths, start=1)
        for box, label in zip(_corners(one), one["labels"].tolist(), strict=True)
    ]
    told: dict[str, Any] = {
        "info": {},
        "images": [{"id": number, "height": side, "width": side} for number in range(1, len(truths) + 1)],
        "categories": [{"id": label, "name": str(label)} for label in range(1, num_classes + 1)],
        "annotations": [{"id": number} | box for number, box in enumerate(boxes, start=1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(told)
        judge = COCOeval_faster(truth, truth.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {"box_ap": float(judge.stats[0]), "box_ap50": float(judge.stats[1])}


def _corners(one: Said) -> list[list[float]]:
    """Left, top, width and height of its boxes."""
    boxes = one["boxes"].float().cpu()
    return [[left, top, right - left, bottom - top] for left, top, right, bottom in boxes.tolist()]
