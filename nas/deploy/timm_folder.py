"""Export in timm's layout: model.safetensors, config.json, labels, a model card; and its upload to Hugging Face.

`import nas.published; timm.create_model("local-dir:FOLDER", pretrained=True)` gives the network with its weights.
"""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from nas.base.errors import UserError
from nas.base.extensions import keep
from nas.base.files import write_atomically
from nas.data.images.reading import resized_side
from nas.deploy.trained import TrainedNetwork
from nas.measure.cost import num_macs, num_params
from nas.training.result import WEIGHTS, save_weights

PACKAGES = ("opnas", "torch", "timm", "torchvision")


def export_timm(trained: TrainedNetwork, folder: Path) -> Path:
    """Write the network to `folder` as timm and Hugging Face expect it, with its card; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(trained.model(), folder / WEIGHTS)
    write_atomically(folder / "config.json", json.dumps(timm_config(trained), indent=1))
    write_atomically(folder / "genotype.json", trained.genotype.to_json())
    write_atomically(folder / "README.md", model_card(trained))
    keep(folder, trained.code)
    return folder


def timm_config(trained: TrainedNetwork) -> dict[str, Any]:
    """config.json in timm's layout: architecture, arguments, and how images are prepared."""
    described, preparation = trained.described, trained.preparation
    sides = [described["in_channels"], trained.resolution, trained.resolution]
    network = trained.model()
    return {
        "architecture": "opnas",
        "num_classes": described["num_classes"],
        "num_features": network.num_features,
        "model_args": {"genotype": described["genotype"], "in_chans": described["in_channels"]},
        "label_names": trained.class_names,
        "pretrained_cfg": {
            "tag": described["key"],
            "custom_load": False,
            "input_size": sides,
            "fixed_input_size": False,
            "interpolation": preparation.interpolation,
            "crop_pct": preparation.crop,
            "crop_mode": "center",
            "mean": list(preparation.mean),
            "std": list(preparation.std),
            "num_classes": described["num_classes"],
            "pool_size": None,
            "first_conv": "stem.0",
            "classifier": "head.fc",
        },
    }


def model_card(trained: TrainedNetwork) -> str:
    """README.md of an export: what the network is, how it was found and trained, what was measured."""
    described, training = trained.described, trained.described["training"]
    side, preparation = trained.resolution, trained.preparation
    model = trained.model()
    macs = num_macs(model, (described["in_channels"], side, side))
    stages = [
        " ".join(f"{block.kind}({_operator(block)}, {block.width})" for block in stage)
        for stage in trained.genotype.stages
    ]
    versions = {name: metadata.version(name) for name in PACKAGES}
    proxy = described.get("proxy_top1")
    lines = [
        "---",
        "tags: [image-classification, timm, opnas]",
        "library_name: timm",
        "---",
        f"# opnas {described['key']}",
        "",
        "An image classification network found by a search over operators with opnas.",
        "",
        "| | |",
        "|---|---|",
        f"| architecture key | {described['key']} |",
        f"| parameters | {num_params(model):,} |",
        f"| MACs at {side}x{side} | {macs:,} |",
        f"| classes | {described['num_classes']} |",
        f"| weights | {trained.of_epoch} |",
        f"| top-1 at {side}x{side} | {_accuracy(described, 'top1')} |",
        f"| top-5 at {side}x{side} | {_accuracy(described, 'top5')} |",
        f"| images | shorter side to {resized_side(side, preparation.crop)} ({preparation.interpolation}), centre "
        f"{side}x{side}, mean {_numbers(preparation.mean)}, std {_numbers(preparation.std)} |",
        f"| top-1 of the search's proxy | {'none' if proxy is None else f'{proxy:.4f}'} |",
        f"| trained on | {training['dataset']} |",
        *([f"| started from | {described['weights_from']} |"] if described.get("weights_from") else []),
        f"| recipe | {training['recipe'] or 'none by name'} |",
        f"| epochs, seconds, images/s | {described['epochs']}, {described['seconds']:.0f}, "
        f"{described['images_per_second']:.0f} |",
        f"| seed | {training['seed']} |",
        f"| exported with | {', '.join(f'{name} {version}' for name, version in versions.items())}, "
        f"Python {platform.python_version()} |",
        "",
        f"Accuracies were measured on {_measured_on(described)}, by one training with one seed.",
        "",
        "## Stages",
        "",
        f"Stem {trained.genotype.stem.kind}, {trained.genotype.stem.width} channels.",
        "",
        *(f"{number}. {stage}" for number, stage in enumerate(stages, start=1)),
        "",
        *_card_of_code(trained),
        "## Use",
        "",
        "```python",
        "import nas.networks.published, timm",
        'model = timm.create_model("local-dir:FOLDER", pretrained=True)',
        "```",
        "",
        "Needs `pip install opnas`, without which timm says `Unknown model (opnas)`. `nas export --format source`",
        "writes a file that needs torch and safetensors alone.",
        "",
        "## Training",
        "",
        "```json",
        json.dumps(training, indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)


def _measured_on(described: dict[str, Any]) -> str:
    if "proxy" in described:
        return "training images that the search held out, with which it chose this network"
    return "the evaluation images of the training named above"


def _accuracy(described: dict[str, Any], name: str) -> str:
    """As the training scored it, and in float32, in which an export computes, where the training did not."""
    if name not in described:
        return "not measured"
    if f"{name}_float32" not in described:
        return f"{described[name]:.4f}"
    return f"{described[name]:.4f} in {described['dtype']} as trained, {described[f'{name}_float32']:.4f} in float32"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _card_of_code(trained: TrainedNetwork) -> list[str]:
    own = [*trained.genotype.own_operators(), *trained.genotype.own_blocks()]
    if not own:
        return []
    return [f"Not of opnas are {', '.join(own)}: their files are in `code/`, which loading this folder imports.", ""]


def _operator(block: Any) -> str:
    return block.operator.op


def upload(folder: Path, repository: str) -> str:
    """Upload an exported folder to Hugging Face; returns its address. Raises UserError without a token."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if not (os.environ.get("HF_TOKEN") or get_token()):
        raise UserError("--upload: no Hugging Face token; log in with `hf auth login` or set HF_TOKEN")
    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        return str(api.upload_folder(folder_path=str(folder), repo_id=repository))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"--upload {repository}: {str(error).splitlines()[0]}") from None


def example_images(trained: TrainedNetwork, count: int = 2, side: int | None = None) -> torch.Tensor:
    """Normal noise in the shape of the network's images, or of `side` pixels, the same each time."""
    random = torch.Generator().manual_seed(0)
    side = side or trained.resolution
    return torch.randn(count, trained.described["in_channels"], side, side, generator=random)
