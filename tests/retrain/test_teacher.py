"""A teacher sees the student's images with its own mean and deviation, and refuses what it cannot take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from nas.data.preparation import IMAGENET_MEAN, IMAGENET_STD, Preparation
from nas.retrain.job import RetrainError
from nas.retrain.teacher import Teacher, load_teacher

OURS = Preparation(IMAGENET_MEAN, IMAGENET_STD)


def test_a_white_image_is_white_to_the_teacher():
    """1.0 in each channel for a mean and a deviation of 0.5, whatever the student's are."""
    teacher = Teacher(nn.Identity(), OURS, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    white = OURS.normaliser(torch.device("cpu"))(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8))
    assert torch.allclose(teacher(white), torch.ones(2, 3, 4, 4), atol=1e-5)


def test_a_teacher_of_a_fixed_size_or_with_other_classes_is_refused(tmp_path):
    arguments: dict[str, Any] = {"depth": 1, "embed_dim": 48, "num_heads": 3, "num_classes": 10}
    model = timm.create_model("vit_tiny_patch16_224", **arguments)
    save_for_hf(model, str(tmp_path), model_args=arguments)
    source: Any = SimpleNamespace(num_classes=10, class_names=tuple("0123456789"), preparation=OURS)
    device = torch.device("cpu")
    load_teacher(str(tmp_path), source, [224], device)
    with pytest.raises(RetrainError, match="takes no images of 64 pixels"):
        load_teacher(str(tmp_path), source, [224, 64], device)
    source.num_classes = 9
    with pytest.raises(RetrainError, match="knows 10 classes, the images have 9"):
        load_teacher(str(tmp_path), source, [224], device)
