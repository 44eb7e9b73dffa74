"""What the layers go through: conversions, transforms and counters of PyTorch and others, and whether each works.

    python scripts/check_conversions.py [--out results/operators/conversions.json] [--markdown]

Every cell is `works`, the sentence that the layer says instead, or `not installed: PACKAGE`.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import logging
import pickle
import platform
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.operators import Conv, GnConv, Involution, ODConv, SCConv
from nas.operators.counters import macs

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Conv": lambda: Conv(8, 12),
    "Conv, depthwise": lambda: Conv(8, 12, groups="depthwise"),
    "Involution": lambda: Involution(8, 12),
    "ODConv": lambda: ODConv(8, 12, groups=2),
    "SCConv": lambda: SCConv(8, 12),
    "GnConv": lambda: GnConv(8, 12),
    "GnConv, global": lambda: GnConv(8, 12, filter="global", grid=(8, 5)),
}
SIZES = (8, 9, 8)
Check = Callable[[nn.Module], Any]


def images(count: int) -> Tensor:
    return torch.randn(count, *SIZES)


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert found.shape == expected.shape, f"{list(found.shape)} instead of {list(expected.shape)}"
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def channels_last(layer: nn.Module) -> None:
    x = images(2)
    expected = layer(x)
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    near(layer(x.contiguous(memory_format=torch.channels_last)), expected)


def copies(layer: nn.Module) -> None:
    x, kept = images(2), io.BytesIO()
    torch.save(layer.state_dict(), kept)
    kept.seek(0)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        other.load_state_dict(torch.load(kept, weights_only=True))
        kept.seek(0)
        near(other(x), layer(x))


def deferred(layer: nn.Module) -> None:
    """Made on meta, then given memory and its start."""
    made = copy.deepcopy(layer).to("meta").to_empty(device="cpu")
    for module in made.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
    assert made(images(2)).isfinite().all()


def compiled(layer: nn.Module) -> None:
    torch._dynamo.reset()
    whole = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for count in (2, 3):
        near(whole(x := images(count)), layer(x))


def exported(layer: nn.Module) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (images(2),), dynamic_shapes=({0: batch},))
    near(program.module()(x := images(5)), layer(x))


def onnx(dynamo: bool, dynamic: bool) -> Check:
    def check(layer: nn.Module) -> None:
        import onnxruntime

        options: dict[str, Any] = {"verbose": False}
        if dynamic and dynamo:
            options["dynamic_shapes"] = ({0: torch.export.Dim("batch", min=1, max=64)},)
        elif dynamic:
            options |= {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "layer.onnx")
            torch.onnx.export(layer, (images(2),), path, dynamo=dynamo, **options)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for count in (2, 1, 5) if dynamic else (2,):
            x = images(count)
            (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
            near(torch.from_numpy(found), layer(x))

    return check


def jit_trace(layer: nn.Module) -> None:
    traced: Any = torch.jit.trace(layer, images(3))
    near(traced(x := images(5)), layer(x))


@torch.enable_grad()
def per_sample_gradients(layer: nn.Module) -> None:
    from torch.func import functional_call, grad, vmap

    x, values = images(3), {name: p.detach() for name, p in layer.named_parameters()}

    def loss(values: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(layer, values, (image[None],)).square().mean()

    found = vmap(grad(loss), (None, 0))(values, x)
    layer(x[1:2]).square().mean().backward()
    for name, p in layer.named_parameters():
        assert p.grad is not None
        near(found[name][1], p.grad, 1e-3)


def symbolic_trace(layer: nn.Module) -> None:
    for training in (False, True):
        network = nn.Sequential(nn.Conv2d(8, 8, 1), layer).train(training)
        torch.fx.symbolic_trace(network)(images(3))


def feature_extractor(layer: nn.Module) -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    network, x = nn.Sequential(nn.Conv2d(8, 8, 1), layer, nn.ReLU()).eval(), images(2)
    near(create_feature_extractor(network, ["1"])(x)["1"], network[:2](x))


def quantized(layer: nn.Module, prepare: Callable, convert: Callable) -> None:
    """Quantized around the layer, the output within a few levels of 256."""
    network, x = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), layer).eval(), images(4)
    expected = network(x)
    prepared = prepare(network, x)
    prepared(x)
    assert (convert(prepared)(x) - expected).norm() < 0.15 * expected.norm()


def fx_quantization(layer: nn.Module) -> None:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = "x86" if "x86" in torch.backends.quantized.supported_engines else "qnnpack"
    mapping = get_default_qconfig_mapping(torch.backends.quantized.engine)
    quantized(layer, lambda network, x: prepare_fx(network, mapping, (x,)), convert_fx)


def pt2e_quantization(layer: nn.Module) -> None:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e  # pyright: ignore
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86  # pyright: ignore

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    quantized(
        layer,
        lambda network, x: prepare_pt2e(torch.export.export(network, (x,)).module(), quantizer),
        convert_pt2e,
    )


def empty_batch(layer: nn.Module) -> None:
    assert layer(images(0)).shape[:2] == (0, 12)


def unbatched(layer: nn.Module) -> None:
    near(layer(x := images(1)[0]), layer(x[None])[0])


def fuse_conv_bn(layer: nn.Module) -> None:
    norm = nn.BatchNorm2d(12).eval()
    torch.nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
    near(torch.nn.utils.fusion.fuse_conv_bn_eval(layer, norm)(x := images(2)), norm(layer(x)))  # type: ignore


def fuse_for_inference(layer: nn.Module) -> None:
    from nas.networks.fuse import fuse_for_inference

    network = nn.Sequential(layer, nn.BatchNorm2d(12), nn.ReLU()).eval()
    torch.nn.init.normal_(network[1].running_mean)  # type: ignore[arg-type]
    near(fuse_for_inference(network)(x := images(2)), network(x))


def yolo(layer: nn.Module, alone: bool) -> None:
    from ultralytics.nn.modules.conv import Conv as YoloConv  # pyright: ignore
    from ultralytics.utils.torch_utils import fuse_conv_and_bn  # pyright: ignore

    block = YoloConv(8, 12, 3).eval()
    block.conv = layer
    if alone:
        expected = block(x := images(2))
        block.conv = fuse_conv_and_bn(block.conv, block.bn)
        near(block.forward_fuse(x), expected)


def thop(layer: nn.Module) -> None:
    """By itself and inside a network: thop goes another way for the model than for what is in it."""
    from thop import profile  # pyright: ignore

    x = images(1)
    for network in (layer, nn.Sequential(nn.Identity(), layer)):
        found, expected = profile(network, inputs=(x,), verbose=False)[0], macs(layer, x)
        assert found == expected, (found, expected)


def fvcore(layer: nn.Module) -> None:
    from fvcore.nn import FlopCountAnalysis  # pyright: ignore

    expected = macs(layer, images(1))
    found = FlopCountAnalysis(layer, images(1)).unsupported_ops_warnings(False).total()
    assert 0.8 * expected <= found < 1.4 * expected + 9 * 8 * 12 * 8, (found, expected)


CHECKS: dict[str, tuple[str, Check]] = {
    "unbatched [C, H, W]": ("", unbatched),
    "empty batch": ("", empty_batch),
    "channels_last": ("", channels_last),
    "deepcopy, pickle, state dict": ("", copies),
    "meta, then to_empty and reset_parameters": ("", deferred),
    "torch.compile(fullgraph)": ("", compiled),
    "torch.export, any batch": ("", exported),
    "torch.onnx.export, one batch size": ("onnxruntime", onnx(True, False)),
    "torch.onnx.export, any batch": ("onnxruntime", onnx(True, True)),
    "torch.onnx.export(dynamo=False), one batch size": ("onnxruntime", onnx(False, False)),
    "torch.onnx.export(dynamo=False), any batch": ("onnxruntime", onnx(False, True)),
    "torch.jit.trace, then another batch": ("", jit_trace),
    "vmap(grad), gradients per sample": ("", per_sample_gradients),
    "fx.symbolic_trace": ("", symbolic_trace),
    "torchvision create_feature_extractor": ("torchvision", feature_extractor),
    "prepare_fx, convert_fx": ("", fx_quantization),
    "prepare_pt2e, convert_pt2e": ("torchao", pt2e_quantization),
    "fuse_conv_bn_eval": ("", fuse_conv_bn),
    "YOLO's fuse(), layer as its conv": ("ultralytics", lambda layer: yolo(layer, True)),
    "nas.fuse_for_inference": ("", fuse_for_inference),
    "thop, ultralytics' GFLOPs": ("thop", thop),
    "fvcore": ("fvcore", fvcore),
}
"""What is done -> the package that it takes, and how."""


def result(check: str, layer: str) -> str:
    """What came of a check of a layer."""
    package, run = CHECKS[check]
    if package and not is_installed(package):
        return f"not installed: {package}"
    torch.manual_seed(0)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            run(LAYERS[layer]().eval())
    except Exception as error:  # whatever a converter raises is the result
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    finally:
        logging.disable(logging.NOTSET)
    return "works"


def is_installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def table(results: dict[str, dict[str, str]]) -> str:
    """In Markdown; sentences below it."""
    notes: list[str] = []
    lines = [f"| | {' | '.join(LAYERS)} |", f"|---|{'---|' * len(LAYERS)}"]
    for check, found in results.items():
        cells = []
        for layer, said in found.items():
            said = said.replace(f" into {layer.partition(',')[0]} ", " into the layer ")
            if said != "works" and said not in notes:
                notes.append(said)
            cells.append("yes" if said == "works" else f"({notes.index(said) + 1})")
        lines.append(f"| {check} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"({i + 1}) {note}  " for i, note in enumerate(notes))])


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in (
        *("torch", "torchvision", "onnx", "onnxscript", "onnxruntime"),
        *("torchao", "ultralytics", "ultralytics-thop", "thop", "fvcore"),
    ):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    results = {check: {layer: result(check, layer) for layer in LAYERS} for check in CHECKS}
    if options.out:
        content = {"versions": versions(), "results": results}
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(table(results) if options.markdown else json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
