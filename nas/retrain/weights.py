"""Where a training gets the weights that it starts from."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from safetensors.torch import save_file

from nas.base.errors import UserError
from nas.base.files import whole_file, write_atomically
from nas.config.reading import load_experiment
from nas.retrain.job import RetrainError
from nas.runs.folder import SUPERNET, find_run, proxy_folder
from nas.space.genotype import Genotype
from nas.training.result import DESCRIPTION, WEIGHTS

HUB = "hf:"
FORMS = "proxy, supernet, a file of weights, the folder of a training or of an export, a run, or hf:USER/NAME"


def find_weights(given: str, run_dir: Path, key: str) -> Path:
    """The file of weights that a user means.

    `proxy`: those of the search's own training of the network; a file; a folder with model.safetensors, of a training
    or of an export; a run, in which the same network was trained, at length or by its search; `hf:USER/NAME`, a
    repository of Hugging Face with model.safetensors or pytorch_model.bin. Raises RetrainError.
    """
    if given == "proxy":
        return _there(proxy_folder(run_dir, key) / WEIGHTS, "kept are those of the networks of the front")
    if given.startswith(HUB):
        return _downloaded(given.removeprefix(HUB))
    path = Path(given)
    if path.is_file():
        return path.resolve()
    if (path / WEIGHTS).is_file():
        return (path / WEIGHTS).resolve()
    try:
        other = find_run(given)
    except UserError:
        raise RetrainError(f"--weights {given!r}: there is no such thing; allowed are {FORMS}") from None
    found = [folder / WEIGHTS for folder in (other / "retrain" / key, proxy_folder(other, key))]
    return next((path.resolve() for path in found if path.is_file()), None) or _there(
        found[0], f"{given} did not train this network; name the folder of another's weights"
    )


def inherited_weights(run_dir: Path, key: str, genotype: Genotype) -> Path:
    """The file with what a network inherits from the supernet of its run, made anew. Raises RetrainError."""
    from nas.networks.shared.supernet import NotShared
    from nas.training.supernet import read_supernet

    folder = run_dir / SUPERNET
    if not (folder / DESCRIPTION).exists():
        raise RetrainError(f"--weights supernet: {run_dir} has none; a search with evaluator: supernet trains it")
    net = read_supernet(folder, load_experiment(run_dir / "resolved.yaml")[1])
    try:
        weights = net.inherited(genotype)
    except NotShared as error:
        raise RetrainError(f"--weights supernet: {key} is not of the run's space: {error}") from None
    found = folder / "inherited" / key
    found.mkdir(parents=True, exist_ok=True)
    with whole_file(found / WEIGHTS) as partial:
        save_file(weights, partial)
    write_atomically(found / DESCRIPTION, (folder / DESCRIPTION).read_text(encoding="utf-8"))
    return (found / WEIGHTS).resolve()


def names_beside(weights: Path) -> list[str]:
    """The classes that the description beside a file of weights names, in their order; empty where there is none."""
    try:
        found = json.loads((weights.parent / DESCRIPTION).read_text(encoding="utf-8"))
        return list(found.get("class_names") or found.get("label_names") or [])
    except (OSError, ValueError, AttributeError):
        return []


def _there(path: Path, otherwise: str) -> Path:
    if not path.is_file():
        raise RetrainError(f"--weights: {path} is not there; {otherwise}")
    return path.resolve()


def _downloaded(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    reason = ""
    for file in (WEIGHTS, "pytorch_model.bin"):
        try:
            found = Path(hf_hub_download(name, file))
        except EntryNotFoundError:
            reason = f"it has neither {WEIGHTS} nor pytorch_model.bin"
            continue
        except (HfHubHTTPError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            break
        with suppress(HfHubHTTPError, OSError, ValueError):
            hf_hub_download(name, DESCRIPTION)  # it names the classes
        return found
    raise RetrainError(f"--weights {HUB}{name}: {reason}")
