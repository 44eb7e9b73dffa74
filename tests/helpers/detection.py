"""Small detectors of scattered digits for the tests: an experiment of some seconds."""

from __future__ import annotations

from nas.config.reading import loads
from nas.space.search_space import SearchSpace

DETECTION = """\
space:
  stem: {kind: mobilenet, width: 8}
  operators:
    conv3: {op: conv}
    dw3: {op: conv, groups: depthwise}
    gn2: {op: gnconv, order: 2}
  stages:
    - {block: basic, depth: 1, width: [8, 16], operator: [conv3, dw3]}
    - {block: basic, depth: 1, width: [8, 16], operator: [conv3, dw3]}
    - {block: basic, depth: 1, width: 16, operator: conv3}
  dense: {neck: [dw3, conv3, gn2], head: [dw3, conv3], fpn_channels: [8, 16], anchors: [12, 20, 28, 40, 56]}
objectives:
  - {name: box_ap}
  - {name: num_params}
search: {sampler: nsga2, num_trials: 3, seed: 3}
proxy: {task: detection, dataset: scattered_digits, epochs: 2, batch_size: 4, resolution: 64, num_scenes: 10}
resources: {max_concurrent: 1}
"""
CONFIG = loads(DETECTION, "detection.yaml")
SPACE = SearchSpace(CONFIG.space)
