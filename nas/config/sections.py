"""The experiment file: one frozen pydantic class per YAML section. An unknown key or a wrong value is an error."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nas.base.extensions import OWN, YOUR_OWN
from nas.base.section import DatasetName, Fraction, OwnName, Positive, Section, named
from nas.config.evaluators import FIGURES, EvaluatorConfig, EvaluatorEntry, FigureName, check_stages, stages_of
from nas.config.tasks import check_networks, check_objective, check_task, trained_by
from nas.config.training import LoggerName, RetrainConfig, TrainConfig
from nas.space.sections import LABEL, SpaceConfig
from nas.space.training import training_of

ObjectiveName = Literal[
    "top1",
    "box_ap",
    "zero_cost",
    "supernet",
    "score",
    "latency_ms",
    "num_params",
    "num_macs",
    "peak_memory_mb",
]
CostName = Literal["latency_ms", "num_params", "num_macs", "peak_memory_mb"]
FREE_COSTS = ("num_params", "num_macs")  # counted without running the network
MOST_MEASURED_FIRST = 100
ShippedSampler = Literal["random", "tpe", "nsga2", "nsga3", "gp", "cmaes", "qmc", "grid", "surrogate"]
SamplerName = Annotated[ShippedSampler | OwnName, named("nas.samplers")]
SchedulerName = Literal["none", "mo_asha", "asha", "hyperband", "freeze_thaw"]
DEVICE = r"^(cpu|cuda(:\d+)?)$"
PATTERNS = {LABEL: "a letter, then up to 31 letters, digits or _", DEVICE: "cpu, cuda or cuda:N", OWN: YOUR_OWN}
RUN_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


class ObjectiveConfig(Section):
    """One objective of the search: what is measured, and which way is better."""

    name: ObjectiveName
    """top1: share of the validation images whose class is named first; box_ap, of detectors in the place of top1:
    COCO's average precision of boxes, over IoU 0.5 to 0.95, as a fraction; zero_cost, supernet, score: what another
    `evaluator` says, in the place of top1; latency_ms: milliseconds per batch; num_params: parameters; num_macs:
    multiply-accumulates of one image; peak_memory_mb: megabytes (10^6 bytes) at inference."""
    direction: Literal["maximize", "minimize"] | None = None
    """Absent: maximize for top1, box_ap and scores, minimize for every cost."""
    device: Annotated[str, StringConstraints(pattern=DEVICE)] | None = None
    """Where latency and peak memory are measured: cpu, cuda or cuda:N; absent: where the trial trains."""
    batch_size: Positive = 1
    """Images per batch in the measurement."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the measurement (autocast for the 16-bit ones)."""
    form: Literal["plain", "fused"] = "plain"
    """Of latency_ms: the network as it trains, or its inference form (nas.networks.fuse)."""
    runtime: Literal["torch", "compile", "graph", "onnxruntime"] = "torch"
    """Of latency_ms, what runs the network: PyTorch; torch.compile; PyTorch replayed as one CUDA graph, without the
    time that a CPU takes to start each of its kernels, which needs device: cuda; ONNX Runtime, with device: cpu."""
    threads: Positive = 1
    """Of latency_ms on a CPU: threads that it computes with."""

    @model_validator(mode="after")
    def _sense(self):
        natural = "maximize" if self.maximize else "minimize"
        if self.direction not in (None, natural):
            raise ValueError(f"direction: {self.name} can only be {natural}d")
        given = {"form": (self.form, "plain"), "runtime": (self.runtime, "torch"), "threads": (self.threads, 1)}
        for option, (value, only) in given.items():
            if value != only and self.name != "latency_ms":
                raise ValueError(f"{option}: {value} is for latency_ms, {self.name} has {only} only")
        if self.runtime == "graph" and (self.device or "cpu") == "cpu":
            raise ValueError(
                "runtime: graph replays a CUDA graph, which a CPU does not have; it goes with device: cuda"
            )
        if self.runtime == "onnxruntime" and (self.device != "cpu" or self.dtype != "float32"):
            raise ValueError("runtime: onnxruntime is measured on a CPU in float32; it goes with device: cpu")
        return self

    @property
    def maximize(self) -> bool:
        return self.name in FIGURES


class Bound(Section):
    """Limits of a known cost; a candidate outside is rejected before any training."""

    min: float | None = None
    """Smallest value allowed, in the cost's own unit."""
    max: float | None = None
    """Largest value allowed, in the cost's own unit."""

    @model_validator(mode="after")
    def _possible(self):
        if self.min is None and self.max is None:
            raise ValueError("a constraint needs `min`, `max`, or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"impossible: min {self.min:g} is above max {self.max:g}")
        if self.max is not None and self.max <= 0:
            raise ValueError(f"impossible: max {self.max:g} leaves nothing, costs are positive")
        return self


class SearchConfig(Section):
    """How candidates are proposed, and how many are trained."""

    sampler: SamplerName = "surrogate"
    """Which sampler proposes candidates: one of Optuna's, the surrogate, or MODULE:NAME of your own."""
    num_trials: Positive = 100
    """Number of trainings, or of what another `evaluator` does; rejected candidates do not count."""
    scheduler: SchedulerName = "none"
    """Early stopping across trials: mo_asha for several objectives, asha and hyperband for one; with freeze_thaw the
    `surrogate` goes on with what it expects most of per epoch, or begins another."""
    grace_epochs: Positive = 1
    """Epochs that every trial gets; the rungs at which trials are compared begin there. With freeze_thaw at
    least a ninth of `proxy.epochs`."""
    reduction: Annotated[int, Field(ge=2)] = 2
    """At a rung one of `reduction` trials goes on; the next rung is at `reduction` times the epochs."""
    halving: Literal["promotion", "stopping"] = "promotion"
    """promotion: a trial waits at a rung, with its checkpoint and without a place, until it is among the best there;
    stopping: a trial that is not among the best when it arrives ends at once."""
    rank: Literal["crowding", "epsilon_net"] = "epsilon_net"
    """Order within one front at a rung: by crowding distance, or by distance to those already chosen."""
    optimism: Annotated[float, Field(ge=0)] | None = 3.0
    """A candidate is rejected before training if it would be dominated even with an accuracy this many standard
    deviations above its prediction; null rejects none. `random`, `qmc` and `grid` predict nothing and never do so."""
    reference: dict[ObjectiveName, float] = Field(default={})
    """By objective, the worst value that is of any use, such as {top1: 0.7, latency_ms: 20}: `surrogate` counts what a
    candidate may gain from there; without it from the worst point seen, which cheap and bad networks push out."""
    measured_first: Annotated[int, Field(ge=0)] | None = None
    """Networks whose costs are measured, without a training, before the first one trains: `surrogate` then knows what
    costs what. Absent: twice as many as trainings, at most 100, where an objective or a limit has to be measured; 8
    where that is the latency and `nas profile FILE --table` has measured the parts before."""
    replicates: Annotated[int, Field(ge=0)] | None = None
    """How often each network of the front, and each that noise alone may keep from it, is trained again with another
    seed once the search has its trainings. Absent: once, the most undecided ones first, an eighth of the trainings in
    all: enough to tell how accuracy scatters, about an eighth of the time."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the proposals, the data split and every training."""
    storage: str | None = None
    """URL of the Optuna storage, such as postgresql+psycopg://user@host/name; absent: study.db in the run folder."""
    warm_start: list[str] = Field(default=[])
    """Proposed first: published names, paths of genotype JSON files, or `each_operator` for one network per label."""
    log: list[LoggerName] = Field(default=[])
    """Where the figures of finished trainings, one step each, go besides the records."""


T = TypeVar("T")
OneOf = Annotated[
    Annotated[T, Tag("value")] | Annotated[list[T], Field(min_length=1), Tag("list")],
    Discriminator(lambda given: "list" if isinstance(given, list) else "value"),
]
"""A value, or a list of those that the search chooses from."""


class ProxyConfig(TrainConfig):
    """The short training that ranks candidates.

    Where an entry is a list, the search chooses one of its values for each training, beside the network.
    """

    CHOOSABLE: ClassVar[tuple[str, ...]] = (
        *("optimizer", "learning_rate", "weight_decay", "warmup_epochs", "label_smoothing"),
        *("mixup", "cutmix", "augment"),
    )

    optimizer: OneOf[Literal["sgd", "adamw", "lamb"]] = "adamw"  # pyright: ignore
    learning_rate: OneOf[Annotated[float, Field(gt=0)]] = 2e-3  # pyright: ignore
    weight_decay: OneOf[Annotated[float, Field(ge=0)]] = 0.05  # pyright: ignore
    warmup_epochs: OneOf[Annotated[float, Field(ge=0)]] = 1.0  # pyright: ignore
    label_smoothing: OneOf[Fraction] = 0.0  # pyright: ignore
    mixup: OneOf[Annotated[float, Field(ge=0)]] = 0.0  # pyright: ignore
    cutmix: OneOf[Annotated[float, Field(ge=0)]] = 0.0  # pyright: ignore
    augment: OneOf[Literal["none", "shift", "shift_flip", "crop_flip"]] = "shift"  # pyright: ignore

    # the data set says it as well
    NOT_IN_FINGERPRINT: ClassVar[set[str]] = {"task"}

    task: Literal["classification", "detection"] = "classification"
    """What the networks are trained for; detection trains those of `space.dense`."""
    dataset: DatasetName = "digits"
    """The images: handwritten digits of scikit-learn, plain or scattered over clutter, CIFAR, a folder of images, or
    MODULE:FUNCTION of your own; for detection scattered_digits, scenes of several digits over clutter."""
    data_dir: str | None = None
    """Where CIFAR's files lie or are downloaded to, or an image folder with one folder per class."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training images on which top1 is measured; the test set is never touched."""
    max_images_per_class: Positive | None = None
    """Use only that many training images of each class."""
    num_scenes: Annotated[int, Field(ge=10)] | None = None
    """Of scattered_digits: how many scenes are made, those that validate included. Absent: 1000."""

    inherit: Literal["none", "nearest"] = "none"
    """What a training starts with: none, a fresh start; nearest, the weights of the network most like it on the front
    of then, as far as they have them in common. Short trainings get further by that, the more so the later they
    begin."""

    def choices(self) -> dict[str, list[Any]]:
        """Option -> its values, of those that the search chooses."""
        return {name: value for name in self.CHOOSABLE if isinstance(value := getattr(self, name), list)}

    def chosen(self, params: Mapping[str, Any]) -> ProxyConfig:
        """The training of a trial with these parameters; where they choose nothing, the first value of a list."""
        first = {name: values[0] for name, values in self.choices().items()}
        training = {name: value for name, value in training_of(params).items() if name in first}
        return self.model_copy(update=first | training)

    @model_validator(mode="after")
    def _of_task(self):
        check_task(self)
        return self

    @model_validator(mode="after")
    def _each_choice_is_possible(self):
        for name, values in self.choices().items():
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: a value is listed twice")
            for value in values:
                each = self.chosen({}).model_copy(update={name: value})
                type(self).model_validate_json(json.dumps(each.model_dump(mode="json")))
        return self


class ResourcesConfig(Section):
    """What a trial gets."""

    cpus_per_trial: Annotated[float, Field(gt=0)] = 1
    """CPU cores of one training."""
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0
    """GPUs of one training; 0.5 lets two share one, 0 trains on the CPU."""
    accelerator: str | None = None
    """Kind of GPU that a trial runs beside or on, by Ray's name for it, such as H100; absent: any."""
    labels: dict[str, str] = Field(default={})
    """Labels that a node of the cluster must have."""
    custom: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """How much a trial takes of resources that nodes of the cluster were started with."""
    max_concurrent: Positive | None = None
    """Trials at once; absent: as many as fit."""
    max_retries: Annotated[int, Field(ge=0)] = 2
    """How often a trial whose process died is started again, from its last checkpoint."""
    storage_path: str | None = None
    """Where trials keep checkpoints, for hosts without a shared disk: a folder, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER;
    absent: in the run folder."""

    @field_validator("storage_path")
    @classmethod
    def _folder_or_address(cls, value: str | None):
        if value is not None and re.match(r"[A-Za-z][\w+.-]+:(?!//)", value):
            raise ValueError("neither a folder nor an address: behind the kind of an address stands ://, as in s3://")
        return value


class ExperimentConfig(Section):
    """One experiment: a whole YAML file."""

    space: SpaceConfig
    """What a network can be."""
    evaluator: EvaluatorEntry = "train"
    """What judges a network, by its name or with settings; or a list of them, of which the last is train."""
    objectives: list[ObjectiveConfig] = Field(min_length=1)
    """What is optimised; the order is that of reports."""
    constraints: dict[CostName, Bound] = Field(default={})
    """Limits of costs, objectives or not; top1 and box_ap are known only after training and cannot be any."""
    search: SearchConfig = Field(default_factory=SearchConfig)
    """How candidates are proposed, and how many are trained."""
    proxy: ProxyConfig = Field(default_factory=ProxyConfig, validate_default=True)
    """The short training that ranks candidates."""
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)
    """What a trial gets."""
    retrain: RetrainConfig = Field(default_factory=RetrainConfig)
    """The long training of a selected architecture."""

    @property
    def num_measured_first(self) -> int:
        """Networks whose costs are measured before the first training."""
        search, asked = self.search, {*self.constraints, *(objective.name for objective in self.objectives)}
        if search.sampler != "surrogate" or asked <= {*FIGURES, *FREE_COSTS}:
            return 0
        return (
            min(2 * search.num_trials, MOST_MEASURED_FIRST) if search.measured_first is None else search.measured_first
        )

    @property
    def evaluators(self) -> list[EvaluatorConfig]:
        """What a candidate goes through: filters, and at last what says how good it is."""
        return stages_of(self.evaluator, self.trained)

    @property
    def trained(self) -> FigureName:
        """What a training says of a network."""
        return trained_by(self.space)

    @property
    def trains(self) -> bool:
        return self.evaluators[-1].name == "train"

    @property
    def training_choices(self) -> dict[str, list[Any]]:
        """Option of `proxy` -> its values, of those that the search chooses."""
        return self.proxy.choices() if self.trains else {}

    @field_validator("evaluator")
    @classmethod
    def _stages(cls, value: Any, info: ValidationInfo):
        check_stages(value)
        detects = "space" in info.data and info.data["space"].dense is not None
        for stage in stages_of(value):
            if detects and stage.name in ("zero_cost", "supernet"):
                raise ValueError(f"{stage.name} judges classifiers, and the networks of space.dense are detectors")
        return value

    @field_validator("objectives")
    @classmethod
    def _as_judged(cls, value: list[ObjectiveConfig], info: ValidationInfo):
        """Where no training is the judge, what is in the place of top1."""
        if "evaluator" not in info.data or "space" not in info.data:
            return value
        trained = trained_by(info.data["space"])
        last = stages_of(info.data["evaluator"], trained)[-1]
        for objective in value:
            check_objective(objective, info.data["space"])
            if objective.name in FIGURES and objective.name not in (trained, last.figure):
                raise ValueError(
                    f"{objective.name} is not what evaluator {last.name} says of a network; write {last.figure}"
                )
        return [each.model_copy(update={"name": last.figure}) if each.name in FIGURES else each for each in value]

    @field_validator("objectives")
    @classmethod
    def _distinct(cls, value: list[ObjectiveConfig]):
        names = [objective.name for objective in value]
        if len(set(names)) != len(names):
            raise ValueError("an objective is named twice")
        return value

    @field_validator("proxy")
    @classmethod
    def _of_space(cls, value: ProxyConfig, info: ValidationInfo):
        if "space" in info.data:
            check_networks(value, info.data["space"])
        if value.inherit != "none" and "evaluator" in info.data:
            last = stages_of(info.data["evaluator"])[-1]
            if last.name != "train":
                raise ValueError(f"inherit = {value.inherit!r}: is for trainings, and {last.name} has none; write none")
        return value

    @field_validator("search")
    @classmethod
    def _of_objectives(cls, value: SearchConfig, info: ValidationInfo):
        if "evaluator" in info.data and value.scheduler != "none":
            last = stages_of(info.data["evaluator"])[-1]
            if last.name != "train":
                raise ValueError(
                    f"scheduler = {value.scheduler!r}: stops trainings, and {last.name} has none; write none"
                )
        names = [objective.name for objective in info.data.get("objectives", ())]
        for name in value.reference:
            if names and name not in names:
                raise ValueError(f"reference: {name} is no objective of the file; allowed are {', '.join(names)}")
        return value
