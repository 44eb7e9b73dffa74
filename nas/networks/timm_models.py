"""timm's registry: `opnas_<name>` for every published network, `opnas` for any genotype.

`timm.create_model("opnas_rednet50", features_only=True)`, `timm.create_model("opnas", genotype="found.json")`: with
timm's arguments num_classes, in_chans, drop_rate, drop_path_rate, global_pool, features_only, out_indices, and
output_stride (see `nas.space.dilation`). No weights are hosted: `pretrained=True` needs a file,
`pretrained_cfg_overlay={"file": "rednet50.pth"}`, the authors' or our own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor

from nas.base.extensions import FOLDER, use_folder
from nas.networks.model import Network, build_model
from nas.networks.published_checkpoint import own_state_dict
from nas.space.dilation import dilated
from nas.space.genotype import Genotype
from nas.space.published import PUBLISHED, named_genotype


def opnas(pretrained: bool = False, genotype: Genotype | Mapping[str, Any] | str | Path | None = None, **options):
    """The network of a genotype: the object, its parsed JSON, its JSON file, or the name of a published one.

    What others made of it is imported from `code` beside the weights, or beside the JSON file, if it is there.
    """
    given = options.get("pretrained_cfg")
    path = given.get("file") if isinstance(given, Mapping) else getattr(given, "file", None)
    for folder in (Path(path), Path(path).parent) if path else ():  # that of local-dir, or of a file of weights
        if (folder / FOLDER).is_dir():
            use_folder(folder)
            break
    if genotype is None:
        raise ValueError("genotype: missing; give a genotype file, such as one from `nas report RUN --json`")
    if isinstance(genotype, Mapping):
        genotype = Genotype.from_dict(dict(genotype))
    if not isinstance(genotype, Genotype):
        genotype = named_genotype(str(genotype))
    return _create("opnas", genotype, pretrained, None, options)


SOURCES = ("file", "state_dict", "url", "hf_hub_id", "custom_load")
"""Where timm takes weights from."""
AUTHORS = {
    "rednet": "github.com/d-li14/involution",
    "od_": "github.com/OSVAI/ODConv",
    "scnet": "github.com/MCG-NKU/SCNet",
    "hornet": "github.com/raoyongming/HorNet",
    "convnext": "timm, convnext_tiny",
    "resnet": "torchvision",
    "mobilenetv2": "torchvision (100) or github.com/OSVAI/ODConv",
}
"""Beginning of a name -> where its weights are given out."""


def _authors(name: str) -> str:
    return next(site for start, site in AUTHORS.items() if name.startswith(start))


def _as_dict(told: Any) -> dict[str, Any]:
    """A pretrained_cfg as timm takes it: a dict, an object with attributes, or nothing."""
    return dict(told) if isinstance(told, Mapping) else dict(vars(told)) if hasattr(told, "__dict__") else {}


def _published(name: str) -> Callable[..., Any]:
    """timm's entrypoint of a published network."""

    def create(pretrained: bool = False, **options):
        sources = {**(options.get("pretrained_cfg_overlay") or {}), **_as_dict(options.get("pretrained_cfg"))}
        if pretrained and not any(sources.get(key) for key in SOURCES):
            way = f'their file by pretrained_cfg_overlay={{"file": "{name}.pth"}}'
            raise RuntimeError(f"opnas_{name}: no weights are hosted; take them from {_authors(name)}, and name {way}")

        def in_our_names(state_dict: Mapping[str, Any], model: Network) -> Mapping[str, Tensor]:
            if state_dict.keys() == model.state_dict().keys():
                return state_dict
            return own_state_dict(name, model, state_dict, same_shapes=False)

        return _create(f"opnas_{name}", PUBLISHED[name], pretrained, in_our_names, options)

    create.__name__ = create.__qualname__ = f"opnas_{name}"
    create.__doc__ = f"{name}, as in its paper."
    return create


def _create(variant: str, genotype: Genotype, pretrained: bool, rename, options: dict[str, Any]):
    features = genotype.num_features
    chosen = options.pop("out_indices", tuple(range(features)))
    if isinstance(chosen, int):
        chosen = tuple(range(features - chosen, features))
    if not all(-features <= i < features for i in chosen):
        raise ValueError(f"out_indices = {chosen}: {variant} has the features {-features} to {features - 1}")
    return build_model_with_cfg(
        _network,
        variant,
        pretrained,
        genotype=genotype,
        pretrained_filter_fn=rename,
        feature_cfg={"out_indices": chosen, "flatten_sequential": True},
        **options,
    )


def _network(
    genotype: Genotype,
    num_classes: int = 1000,
    in_chans: int = 3,
    drop_rate: float | None = None,
    drop_path_rate: float = 0.0,
    global_pool: str = "avg",
    output_stride: int = 32,
) -> Network:
    genotype = dilated(genotype, output_stride)
    return build_model(genotype, num_classes, in_chans, drop_path_rate, drop_rate, global_pool)


def _default_cfg(name: str) -> dict[str, Any]:
    large, gated = name.endswith("384"), name.startswith(("hornet", "convnext"))
    return {
        "num_classes": 1000,
        "input_size": (3, 384, 384) if large else (3, 224, 224),
        "pool_size": (12, 12) if large else (7, 7),
        "crop_pct": 1.0 if large else 0.875,
        "interpolation": "bicubic" if gated else "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.0",
        "classifier": "head.fc",
    }


default_cfgs = generate_default_cfgs({f"opnas_{name}": _default_cfg(name) for name in PUBLISHED})
default_cfgs |= generate_default_cfgs({"opnas": _default_cfg("")})
register_model(opnas)
for _name in PUBLISHED:
    register_model(_published(_name))
