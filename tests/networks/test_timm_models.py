"""The networks in timm's registry keep to what timm asks of its models, one of each family."""

from __future__ import annotations

import json
from typing import Any

import pytest
import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.optim import create_optimizer_v2
from torch import nn

import nas.networks.published
from nas.networks.model import build_model
from nas.networks.published import PUBLISHED
from nas.space import specs
from nas.space.dilation import dilated
from nas.space.genotype import Genotype

FAMILIES = {
    "rednet26": ([64, 256, 512, 1024, 2048], [2, 4, 8, 16, 32]),
    "od_resnet18_1x": ([64, 64, 128, 256, 512], [2, 4, 8, 16, 32]),
    "od_mobilenetv2_050_4x": ([8, 16, 16, 48, 160], [2, 4, 8, 16, 32]),
    "scnet50_v1d": ([64, 256, 512, 1024, 2048], [2, 4, 8, 16, 32]),
    "hornet_tiny_gf": ([64, 128, 256, 512], [4, 8, 16, 32]),
}
FOUND = Genotype(
    stem=specs.Stem(kind="small", width=8),
    stages=(
        (specs.Basic(width=16, operator=specs.Involution(kernel_size=3)),),
        (specs.Bottleneck(width=32, operator=specs.SCConv(pooling=2), stride=2),),
        (specs.Gated(width=48, operator=specs.GnConv(order=3), stride=2),),
    ),
    head=specs.Head(kind="norm", dropout=0.1),
)


def create(name: str, **options: Any) -> Any:
    return timm.create_model(name, **options)


def test_every_published_network_is_registered():
    names = set(timm.list_models("opnas*"))
    assert names == {"opnas", *(f"opnas_{name}" for name in nas.networks.published.PUBLISHED)}
    assert not timm.list_models("opnas*", pretrained=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_forward_default_cfg_and_classifier(name):
    model = create(f"opnas_{name}").eval()
    config, state = model.default_cfg, model.state_dict()
    assert config["architecture"] == f"opnas_{name}" and model.num_classes == config["num_classes"] == 1000
    assert state[f"{config['classifier']}.weight"] is not None and model.get_classifier() is model.head.fc
    assert state[f"{config['first_conv']}.weight"].shape[1] == config["input_size"][0]
    data = resolve_model_data_config(model)
    assert data["input_size"] == (3, 224, 224) and data["crop_pct"] == 0.875
    x = torch.randn(1, *config["input_size"])
    with torch.no_grad():
        features = model.forward_features(x)
        assert features.shape == (1, model.num_features, *config["pool_size"])
        logits = model(x)
        assert logits.shape == (1, 1000) and torch.equal(logits, model.forward_head(features))
        hidden = model.forward_head(features, pre_logits=True)
        assert hidden.shape == (1, model.head_hidden_size)
        assert torch.equal(model.get_classifier()(hidden), logits)
        model.reset_classifier(0)
        assert model.num_classes == 0 and torch.equal(model(x), hidden)
        model.reset_classifier(0, "")
        assert model(x).shape == features.shape
        model.reset_classifier(7, "avgmax")
        assert model(x).shape == (1, 7)
        model.reset_classifier(7, "")
        dense = model(x)
        assert dense.shape == (1, 7, *config["pool_size"])


@pytest.mark.parametrize("name", FAMILIES)
def test_arguments_and_backward(name):
    options = {"num_classes": 5, "in_chans": 1, "drop_rate": 0.25, "drop_path_rate": 0.2, "global_pool": "max"}
    model = create(f"opnas_{name}", **options)
    assert model.head.dropout.p == 0.25 and model.head.pool == "max"
    rates = [module.rate for module in model.modules() if type(module).__name__ == "DropPath"]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.2) and rates == sorted(rates)
    y = model.train()(torch.randn(2, 1, 64, 64))
    assert y.shape == (2, 5)
    y.mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_features(name):
    channels, reductions = FAMILIES[name]
    x = torch.randn(1, 3, 96, 128)
    torch.manual_seed(0)
    backbone = create(f"opnas_{name}", features_only=True).eval()
    assert backbone.feature_info.channels() == channels and backbone.feature_info.reduction() == reductions
    maps = backbone(x)
    for y, width, reduction in zip(maps, channels, reductions, strict=True):
        assert y.shape == (1, width, 96 // reduction, 128 // reduction)
    for how, outputs in {"last": (-2, -1), "getter": (1, 3)}.items():
        torch.manual_seed(0)
        options = {"feature_cls": "getter"} if how == "getter" else {}
        some = create(f"opnas_{name}", features_only=True, out_indices=outputs, **options).eval()
        for y, i in zip(some(x), outputs, strict=True):
            torch.testing.assert_close(y, maps[i])
    torch.manual_seed(0)
    model = create(f"opnas_{name}").eval()
    last, intermediates = model.forward_intermediates(x)
    torch.testing.assert_close(last, model.forward_features(x))
    for y, z in zip(intermediates, maps, strict=True):
        torch.testing.assert_close(y, z)
    early = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
    assert len(early) == 1 and torch.equal(early[0], intermediates[1])
    with pytest.raises(ValueError, match="out_indices = "):
        create(f"opnas_{name}", features_only=True, out_indices=(0, 5))


@pytest.mark.parametrize("name", FAMILIES)
def test_grad_checkpointing_computes_the_same(name):
    torch.manual_seed(0)
    model = create(f"opnas_{name}", num_classes=3, drop_rate=0.0).double().train()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    grads, buffers, before = [], [], {key: value.clone() for key, value in model.state_dict().items()}
    for enable in (False, True):
        model.load_state_dict(before)
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        grads.append({key: parameter.grad.clone() for key, parameter in model.named_parameters()})
        buffers.append({key: value.clone() for key, value in model.named_buffers()})
    for key, value in buffers[0].items():  # batch norms count the batch once
        torch.testing.assert_close(buffers[1][key], value, msg=key)
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad, msg=key)


@pytest.mark.parametrize("name", FAMILIES)
def test_layer_decay_groups_follow_the_depth(name):
    with torch.device("meta"):
        model = create(f"opnas_{name}")
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, weight_decay=0.05, layer_decay=0.9)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    by_part = [max(scale[id(p)] for p in part.parameters()) for part in (model.stem, *model.stages, model.head.fc)]
    assert by_part == sorted(by_part) and by_part[-1] == 1.0 and len(set(by_part)) == len(by_part)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert all(decays[id(p)] == (0.0 if p.dim() <= 1 else 0.05) for p in model.parameters())


@pytest.mark.parametrize("name", ["rednet26", "hornet_tiny_gf"])
def test_pretrained_from_a_file_with_another_head_and_input(name, tmp_path):
    from helpers import golden

    state = {key: value.float() for key, value in golden.filled_state_dict(name).items()}
    torch.save({"state_dict": state}, tmp_path / "published.pth")
    overlay = {"file": str(tmp_path / "published.pth")}
    whole = create(f"opnas_{name}", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    expected = build_model(PUBLISHED[name]).eval()
    nas.networks.published.load_published_checkpoint(expected, name, state)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(whole(x), expected(x))
        tuned = create(
            f"opnas_{name}", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=5, in_chans=1
        ).eval()
        assert tuned(x[:, :1]).shape == (1, 5)
        backbone = create(f"opnas_{name}", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True).eval()
        torch.testing.assert_close(backbone(x)[-1], expected.forward_features(x))
    torch.save(whole.state_dict(), tmp_path / "ours.pth")
    again = create(f"opnas_{name}", checkpoint_path=tmp_path / "ours.pth").eval()
    with torch.no_grad():
        assert torch.equal(again(x), expected(x))


def test_any_genotype_by_file_object_or_json(tmp_path):
    file = tmp_path / "found.json"
    file.write_text(FOUND.to_json())
    for genotype in (str(file), file, FOUND, json.loads(FOUND.to_json())):
        model = create("opnas", genotype=genotype, num_classes=4, in_chans=1)
        assert model.genotype == FOUND and model.head.dropout.p == 0.1
        assert model(torch.randn(2, 1, 20, 20)).shape == (2, 4)
    backbone = create("opnas", genotype=FOUND, features_only=True)
    assert backbone.feature_info.channels() == [16, 32, 48] and backbone.feature_info.reduction() == [1, 2, 4]
    assert [list(y.shape) for y in backbone(torch.randn(1, 3, 16, 16))] == [
        [1, 16, 16, 16],
        [1, 32, 8, 8],
        [1, 48, 4, 4],
    ]
    with pytest.raises(ValueError, match="genotype: missing"):
        create("opnas")
    with pytest.raises(ValueError, match="neither a genotype file nor a published network"):
        create("opnas", genotype="rednet51")


@pytest.mark.parametrize(("stride", "reductions"), [(16, [4, 8, 16, 16]), (8, [4, 8, 8, 8])])
@pytest.mark.parametrize("name", ["scnet50", "scnet50_v1d", "rednet26", "od_resnet18_1x", "resnet50"])
def test_dilated_backbones_keep_their_weights(name, stride, reductions):
    backbone = create(f"opnas_{name}", features_only=True, out_indices=(1, 2, 3, 4), output_stride=stride)
    assert backbone.feature_info.reduction() == reductions
    assert [y.shape[-1] for y in backbone(torch.randn(2, 3, 64, 64))] == [64 // r for r in reductions]
    plain = create(f"opnas_{name}", features_only=True, out_indices=(1, 2, 3, 4))
    assert {k: v.shape for k, v in backbone.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}


def test_the_rule_of_dilation():
    genotype: Any = dilated(PUBLISHED["scnet50"], 8)
    assert [sorted({b.operator.dilation for b in stage}) for stage in genotype.stages] == [[1], [1], [1, 2], [2, 4]]
    assert [stage[0].operator.dilation for stage in genotype.stages] == [1, 1, 1, 2]
    assert all(block.stride == 1 for stage in genotype.stages[2:] for block in stage)
    assert dilated(PUBLISHED["scnet50"], 32) == PUBLISHED["scnet50"]
    for network, stride, words in (
        ("hornet_tiny_7x7", 16, "gated"),
        ("rednet26", 12, "power of 2"),
        ("rednet26", 2, "stem"),
    ):
        with pytest.raises(ValueError, match=words):
            dilated(PUBLISHED[network], stride)


def test_dilated_resnet_is_torchvisions():
    import torchvision

    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    ours = create("opnas_resnet50", output_stride=8).eval()
    nas.networks.published.load_published_checkpoint(ours, "resnet50", theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_wrong_pooling_and_indices():
    model = build_model(FOUND, 4)
    with pytest.raises(ValueError, match=r"global_pool = 'mean'.*'avgmax'"):
        model.reset_classifier(4, "mean")
    with pytest.raises(ValueError, match=r"indices = \[3\]: allowed are -3 to 2"):
        model.forward_intermediates(torch.randn(1, 3, 16, 16), indices=[3])
    with pytest.raises(ValueError, match="output_fmt"):
        model.forward_intermediates(torch.randn(1, 3, 16, 16), output_fmt="NLC")
    assert isinstance(model.get_classifier(), nn.Linear)
