"""Files of detection: what goes together, and what does not is named where it stands."""

from __future__ import annotations

import pytest

from helpers.detection import DETECTION
from nas.config.reading import dump, loads

WRONG = [  # text, what stands in its place, what the message says
    ("task: detection, ", "", "16:18: proxy.dataset: 'scattered_digits': has boxes, and is for task: detection"),
    (
        "scattered_digits",
        "digits",
        "proxy.dataset: 'digits': is for classification; allowed for detection are scattered",
    ),
    ("dataset: scattered_digits, ", "", "proxy: dataset = 'digits': is for classification; allowed for detection are"),
    ("resolution: 64", "resolution: 32", "proxy.resolution: 32: allowed is 64 or more for scattered_digits"),
    ("epochs: 2", "mixup: [0.0, 0.2]", "proxy.mixup: is for classification, detection has none"),
    ("epochs: 2", "max_images_per_class: 3", "proxy.max_images_per_class: is for classification"),
    ("epochs: 2", "inherit: nearest", "proxy.inherit: is for classification, detection has none"),
    ("epochs: 2", "layer_decay: 0.9", "proxy.layer_decay: is for classification"),
    ("epochs: 2", "augment: [shift, crop_flip]", "proxy.augment: 'crop_flip': allowed for detection are none, shift"),
    ("num_scenes: 10", "num_scenes: 2", "proxy.num_scenes: 2 is not allowed; allowed: 10 or more"),
    ("box_ap", "top1", "objectives: top1 is of classifiers, space.dense makes detectors; write box_ap"),
    ("box_ap", "zero_cost", "objectives: zero_cost is not what evaluator train says of a network; write box_ap"),
    ("num_params}", "latency_ms, form: fused}", "objectives: latency_ms: form of detectors is plain only"),
    ("search:", "evaluator: zero_cost\nsearch:", "evaluator: zero_cost judges classifiers, and the networks of space"),
    ("search:", "evaluator: [zero_cost, train]\nsearch:", "evaluator: zero_cost judges classifiers"),
    ("search:", "evaluator: supernet\nsearch:", "evaluator: supernet judges classifiers"),
    ("num_params}", "num_params}\nconstraints: {box_ap: {min: 0.1}}", "constraints.box_ap: 'box_ap' is not allowed"),
    (
        "search:",
        "retrain: {dataset: scattered_digits}\nsearch:",
        "retrain.dataset: .*, and no detector is retrained yet",
    ),
    ("anchors: [12,", "anchors: [4, 12,", "space.dense.anchors: .*5"),
    ("neck: [dw3,", "neck: [conv3,", "space.dense.neck: the list names an entry twice"),
    ("neck: [dw3, conv3, gn2], ", "", "space.dense.neck: missing; space.dense needs 'neck'"),
    ("head:", "heads:", "space.dense.heads: unknown key; did you mean 'head'?"),
]


@pytest.mark.parametrize("old, new, message", WRONG, ids=[f"{i}-{new[:20]}" for i, (_, new, _) in enumerate(WRONG)])
def test_what_does_not_go_with_detection_is_named(old, new, message):
    assert old in DETECTION
    with pytest.raises(ValueError, match=message):
        loads(DETECTION.replace(old, new), "detection.yaml")


def test_detection_without_detectors_and_detectors_without_detection():
    start, end = DETECTION.index("  dense:"), DETECTION.index("objectives:")
    plain = DETECTION[:start] + DETECTION[end:]
    with pytest.raises(ValueError, match=r"15:15: proxy.task: detection needs detectors; space.dense says"):
        loads(plain, "detection.yaml")
    with pytest.raises(ValueError, match=r"objectives: box_ap is of detectors, there is no space.dense; write top1"):
        loads(plain, "detection.yaml")
    start, end = DETECTION.index("proxy:"), DETECTION.index("resources:")
    with pytest.raises(
        ValueError, match=r"task: the networks of space.dense are detectors; write proxy.task: detection"
    ):
        loads(DETECTION[:start] + DETECTION[end:], "detection.yaml")


def test_what_a_detection_says_is_box_ap():
    config = loads(DETECTION, "detection.yaml")
    assert loads(dump(config), "again.yaml") == config
    assert (config.trained, config.evaluators[-1].figure) == ("box_ap", "box_ap")
    assert [objective.maximize for objective in config.objectives] == [True, False]
    own = loads(DETECTION.replace("box_ap", "score").replace("search:", "evaluator: mine:judge\nsearch:"), "own.yaml")
    assert own.evaluators[-1].figure == "score" and not own.trains
