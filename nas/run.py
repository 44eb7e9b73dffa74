"""Run and Trained: what a search left in its folder, and a network that was trained at length, ready for use."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.base.errors import Failed, Interrupted
from nas.config.overrides import Overrides
from nas.runs.folder import RESULTS, find_run, shared_cache
from nas.runs.listing import is_run
from nas.runs.record import TrialRecord, find_record
from nas.space.genotype import Genotype

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from nas.networks.model import Network

RETRAINED = "retrained"
"""The name under which networks that no run found are trained."""


class Run:
    """A run by its folder, or by its name under results/; all is read from its files, also while it is searched.

    `print(run)` shows the report. The run named "retrained" is where networks are trained that no search found.
    Raises UserError where there is no such run.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not is_run(self.path):
            self.path = RESULTS / RETRAINED if str(path) == RETRAINED else find_run(str(path))

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __str__(self) -> str:
        from nas.runs.report_text import to_text

        return to_text(self.report())

    def status(self) -> dict[str, Any]:
        """How far the search is, and whether it runs: what `nas status --json` prints."""
        from nas.runs.status import run_status

        return run_status(self.path)

    def report(self) -> dict[str, Any]:
        """What the search found as plain data: what `nas report --json` prints."""
        from nas.runs.report import report

        return report(self.path)

    def attribution(self) -> dict[str, Any]:
        """`operators`, what each does in each stage to the objectives when all else stays, `choices`, how much each
        decides about them, and `predictions`, how well the surrogate's model predicts what was measured: what
        `nas report --operators --json` prints. None of what too few trials tell."""
        from nas.runs.reader import RunReader
        from nas.search.audit.attribution import attribution
        from nas.search.audit.importance import importance
        from nas.search.audit.predictions import predictions

        run = RunReader(self.path).refresh()
        return {"operators": attribution(run), "choices": importance(run), "predictions": predictions(run)}

    def trials(self) -> pd.DataFrame:
        """One row per finished trial, oldest first, by number: key, state, the measured objectives and costs,
        operators (stage by stage), seconds, error, and the times `started` and `finished`."""
        from nas.runs.reader import RunReader
        from nas.runs.report import trial_frame

        return trial_frame(RunReader(self.path).refresh())

    def front(self) -> pd.DataFrame:
        """The rows of `trials` that no other dominates, cheapest first."""
        from nas.runs.reader import RunReader
        from nas.runs.report import trial_frame

        run = RunReader(self.path).refresh()
        return trial_frame(run).loc[[row.number for row in run.front()]]

    def plot(self, path: str | Path | None = None) -> Figure:
        """The first objective against the first cost, and the operators along the front: the last line of a notebook's
        cell shows it, and `path` (png, pdf, svg) gets it. Raises UserError where there is nothing to draw."""
        from nas.runs.report_picture import plot

        return plot(self.path, path)

    def confirm(self, replicates: int = 1, *, ray_address: str | None = None) -> Run:
        """Train each network of the front, and each that noise alone may keep from it, `replicates` times again with
        other seeds, as the search trained them; those that are there already count. `report` takes them into account.

        Interrupted, the same call goes on. Raises UserError where the objectives have no top1.
        """
        from nas.search.audit.confirm import confirm

        confirm(self.path, replicates, ray_address)
        return self

    def train_longer(
        self, networks: int = 20, overrides: Overrides = (), *, ray_address: str | None = None
    ) -> list[dict[str, Any]]:
        """Train networks of the run, spread over costs and operators, with other settings of `proxy` (without any,
        three times as many epochs), and return what they say of the search's own training: `proxy_trust` of `report`.

        Interrupted, the same call goes on. Raises UserError where the run has no accuracies or fewer networks.
        """
        from nas.search.audit.longer import train_longer

        train_longer(self.path, networks, overrides, ray_address, lambda text: print(text, file=sys.stderr))
        return self.report()["proxy_trust"]

    def bundle(self, path: str | Path) -> Path:
        """Write the run to one file for others to check: what `nas bundle` writes and `nas verify` checks."""
        from nas.runs.bundle.archive import bundle

        return bundle(self.path, Path(path))

    def record(self, key: str) -> TrialRecord:
        """Everything about the trial whose key begins with `key`. Raises UserError where there is not exactly one."""
        return find_record(self.path, key)

    def genotype(self, key: str) -> Genotype:
        """The architecture whose key begins with `key`."""
        return Genotype.from_dict(self.record(key).genotype)

    def model(self, key: str, num_classes: int = 1000, in_channels: int = 3) -> Network:
        """The network of an architecture, freshly initialised; `trained(key).model()` has weights."""
        from nas.networks.model import build_model

        return build_model(self.genotype(key), num_classes, in_channels)

    def retrain(
        self,
        network: str | Genotype,
        data: str | Path | None = None,
        *,
        recipe: str | None = None,
        overrides: Overrides = (),
        devices: int | None = None,
        ray_address: str | None = None,
        resume: bool = False,
        weights: str | Path | None = None,
        name: str = "",
    ) -> dict[str, Any]:
        """Train an architecture of the run, by its key, or any genotype, at length as the file's `retrain` section or
        a published `recipe` says, on the images in `data`; returns a summary, `trained(key)` the network.

        It starts from `weights`, as far as they fit: `proxy`, `supernet`, a file, a folder with model.safetensors, a
        run, or hf:USER/NAME. Trainings of one network are told apart by `name`.
        `devices` are GPUs (absent: all) or processes on CPUs, or workers on the Ray cluster at `ray_address`. Raises
        UserError for wrong input, Failed for what ends a training that began, Interrupted (a Failed) after a signal.
        """
        from nas.retrain import job, run

        found = {"genotype": network} if isinstance(network, Genotype) else {}
        with _ends_explained():
            return run.run_retrain(
                self.path,
                "" if found else str(network),
                _path(data),
                overrides,
                resume,
                recipe=recipe,
                num_processes=devices or job.num_devices(),
                ray_address=ray_address,
                weights=None if weights is None else str(weights),
                name=name,
                **found,
            )

    def retrain_front(
        self,
        count: int,
        data: str | Path | None = None,
        *,
        recipe: str | None = None,
        overrides: Overrides = (),
        devices: int | None = None,
        ray_address: str | None = None,
        resume: bool = False,
    ) -> list[dict[str, Any]]:
        """`retrain` for `count` diverse members of the front and two controls, one after the other."""
        from nas.retrain import job, run

        with _ends_explained():
            return run.retrain_front(
                self.path,
                count,
                _path(data),
                overrides,
                resume,
                recipe=recipe,
                num_processes=devices or job.num_devices(),
                ray_address=ray_address,
            )

    def estimate_retrain(
        self,
        network: str | Genotype,
        data: str | Path | None = None,
        *,
        recipe: str | None = None,
        overrides: Overrides = (),
        devices: int | None = None,
        on_cluster: bool = False,
    ) -> dict[str, Any]:
        """How long `retrain` would take, from steps that are measured on this host and thrown away: hours,
        step_seconds, images_per_second and more."""
        from nas.retrain import estimate, job

        found: dict[str, Any] = {"genotype": network} if isinstance(network, Genotype) else {}
        num_processes = devices or job.num_devices()
        planned = job.plan_job(
            self.path,
            "" if found else str(network),
            _path(data),
            overrides,
            recipe=recipe,
            num_processes=num_processes,
            on_cluster=on_cluster,
            **found,
        )
        return estimate.estimate(planned, num_processes)

    def trained(self, key: str = "", *, name: str = "", weights: str | Path = "last") -> Trained:
        """The network whose key begins with `key` with `weights`: of its finished retraining (of that `name`) those of
        the `last` epoch, the `best` one, the average (`ema`) or of a file; or `proxy`, those with which the search's
        own training of a network of the front ended. Raises UserError where there is not exactly one."""
        from nas.deploy.trained import find_trained

        found = find_trained(self.path, key, str(weights), name)
        return Trained(found.folder, weights="last" if str(weights) == "proxy" else weights)


class Trained:
    """A network that was trained, by the folder with its weights, such as results/RUN/retrain/KEY, or proxy/KEY.

    Of its weights, `weights` are meant, as `Run.trained` has them. Raises UserError for a folder that is none.
    """

    def __init__(self, folder: str | Path, *, weights: str | Path = "last"):
        from nas.deploy.trained import read_trained

        self._retrained = read_trained(Path(folder)).with_weights(str(weights))
        self.folder = self._retrained.folder
        self.run_dir = self.folder.parent.parent

    def __repr__(self) -> str:
        return f"Trained({str(self.folder)!r})"

    @property
    def key(self) -> str:
        return self._retrained.described["key"]

    @property
    def genotype(self) -> Genotype:
        return self._retrained.genotype

    @property
    def class_names(self) -> list[str]:
        return self._retrained.class_names

    @property
    def summary(self) -> dict[str, Any]:
        """What config.json says: top1, top5, epochs, seconds, the settings of the training and more."""
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    def model(self) -> Network:
        """The network in eval mode with its weights, on the CPU; [N, in_channels, H, W] -> logits [N, num_classes]."""
        return self._retrained.model()

    def evaluate(
        self,
        data: str | Path | None = None,
        *,
        resolutions: Iterable[int] = (),
        batch_size: int = 128,
        device: str | None = None,
        real_labels: str | Path | None = None,
        say: Callable[[str], object] = lambda text: None,
    ) -> list[dict[str, Any]]:
        """Accuracy on all evaluation images, one entry per resolution: resolution, num_images, dtype, loss, top1, top5;
        float32, the figures in that format, where `dtype` is another; among_given, those of the likeliest of the
        images' classes, where they are fewer than the network's; real, those by the file of ReaL's labels for
        ImageNet. `say` is told what was left out. What the network confuses, and the images of which it is wrongly
        the surest, are kept as mistakes.json beside its weights, for the page of its trial."""
        from nas.deploy import inference

        cache = shared_cache(self.run_dir)
        options = {"resolutions": resolutions, "batch_size": batch_size, "device": device, "say": say}
        real = _path(real_labels)
        return inference.evaluate(self._retrained, _path(data), cache, real_labels=real, keep=True, **options)

    def predict(
        self, images: Iterable[str | Path], *, top: int = 5, batch_size: int = 32, device: str | None = None
    ) -> list[dict[str, Any]]:
        """For each image file, and each below a folder, its `top` likeliest classes: {image, guesses: [{class,
        probability}]}, or {image, error} for a file that cannot be read."""
        from nas.deploy import inference

        return inference.predict(self._retrained, map(Path, images), top=top, batch_size=batch_size, device=device)

    def export(
        self,
        form: str = "timm",
        output: str | Path | None = None,
        *,
        opset: int | None = None,
        any_size: bool = False,
        int8: bool = False,
        aoti: bool = False,
        data: str | Path | None = None,
        say: Callable[[str], object] = lambda text: None,
    ) -> Path:
        """Write the network for others to use, as timm, onnx, torch or source; returns where.

        Of onnx, `opset` is the version of its operations and `any_size` leaves height and width free. Of onnx and torch
        `int8` also writes it in 8-bit integers, of torch `aoti` compiled for this machine's CPU, and all are measured
        on the evaluation images in `data`; `say` is told what came of it. Raises UserError for another form or a
        missing package, Failed where the file computes something else.
        """
        from nas.deploy.export import Options, run_export

        options = Options(opset, any_size, int8, aoti)
        return run_export(
            self.run_dir, self._retrained, form, _path(output), options=options, data_dir=_path(data), say=say
        )

    @staticmethod
    def upload(folder: str | Path, repository: str) -> str:
        """Upload a timm export to Hugging Face, as USER/NAME; returns its address. Raises UserError without a token."""
        from nas.deploy.export import upload

        return upload(Path(folder), repository)


@contextmanager
def _ends_explained() -> Iterator[None]:
    """What ended a training that began, as one of our exceptions that says what may help."""
    from nas.training.loop import NonFiniteLoss

    try:
        yield
    except NonFiniteLoss as end:
        raise Failed(f"the training diverged: {end}; a smaller retrain.learning_rate may hold") from end
    except Interrupted as end:
        raise Interrupted(f"{end}; everything is saved, go on with --resume") from end


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
