"""TrainConfig and RetrainConfig: the options of the training loop, and the `retrain:` section."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from nas.base.section import SCENES, DatasetName, Fraction, Positive, Section
from nas.config import strict_yaml

LoggerName = Literal["tensorboard", "wandb", "mlflow"]
RECIPES = resources.files("nas") / "retrain" / "recipes"


class TrainConfig(Section):
    """What the one training loop can be told."""

    # fields that are left out of the fingerprint of a checkpoint: they may differ when a training is resumed
    NOT_IN_FINGERPRINT: ClassVar[set[str]] = set()

    epochs: Positive = 12
    """Passes over the training images."""
    batch_size: Positive = 256
    """Images of one step of the optimizer, over all devices."""
    resolution: Annotated[int, Field(ge=4)] = 32
    """Height and width of the training images in pixels."""
    optimizer: Literal["sgd", "adamw", "lamb"] = "adamw"
    """sgd with momentum, AdamW, or LAMB."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Largest learning rate, after the warm-up."""
    momentum: Fraction = 0.9
    """Momentum of sgd."""
    optimizer_betas: list[Annotated[float, Field(ge=0, lt=1)]] | None = Field(default=None, min_length=2, max_length=2)
    """Decay of the averages of adamw and lamb, of the gradient and of its square; absent: 0.9 and 0.999."""
    optimizer_eps: Annotated[float, Field(gt=0)] | None = None
    """What adamw and lamb add to their denominator; absent: 1e-8 and 1e-6."""
    nesterov: bool = True
    """Whether the momentum of sgd is Nesterov's."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Weight decay, of all parameters but norms, biases and layer scales."""
    decay_all: bool = False
    """Whether weight decay is applied to norms, biases and layer scales as well."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate from a block to the one before it."""
    schedule: Literal["cosine", "step"] = "cosine"
    """How the learning rate falls after the warm-up: along half a cosine, or by `decay_rate` at `decay_epochs`."""
    decay_epochs: list[Positive] = Field(default=[])
    """Numbers of epochs after which `schedule: step` multiplies the learning rate by `decay_rate`."""
    decay_rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Factor of the learning rate at each of `decay_epochs`."""
    final_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate at which the cosine ends."""
    update: Literal["step", "epoch"] = "step"
    """Whether the learning rate changes with every step or with every epoch."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 1
    """Epochs of linear warm-up; with a cosine at most half of the training."""
    warmup_learning_rate: Annotated[float, Field(ge=0)] | None = None
    """Learning rate of the first step. Absent: the warm-up's length divides the way to the full rate, whose first
    part is the first step, and the cosine spans what is left; else the cosine spans the whole training and the warm-up
    covers its beginning, as in timm."""
    label_smoothing: Fraction = 0.0
    """Share of the target that is spread evenly over all classes."""
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    """bce: binary cross entropy of each class on its own."""
    bce_threshold: Fraction | None = None
    """With bce, targets above it count as 1 and all others as 0."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of mixup; 0 is off."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of cutmix; 0 is off. With mixup, a coin decides for each batch."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the exponential moving average of the weights that is evaluated; absent: none."""
    ema_warmup: bool = True
    """Whether the average forgets the random start quickly: early on the decay is (1 + step) / (10 + step)."""
    clip_grad: Annotated[float, Field(gt=0)] | None = 5.0
    """Largest norm of the gradient; null does not clip."""
    drop_path: Fraction = 0.0
    """Probability with which the last block is skipped in training (stochastic depth), growing from 0 at the first."""
    temperature_epochs: Annotated[float, Field(ge=0)] | None = None
    """Over how many epochs ODConv's temperature falls from 30 to 1; 0 keeps 1. Absent: a tenth of them, as in the
    published 100."""
    amp: Literal["auto", "off", "bfloat16", "float16"] = "auto"
    """Mixed precision; auto is bfloat16 where the hardware computes it, else off."""
    augment: Literal["none", "shift", "shift_flip", "crop_flip"] = "shift"
    """Augmentation on the device: shift by up to 1/8 of the map, horizontal flip, random resized crop."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seed of the training; absent: derived from the search's seed."""

    @property
    def num_epochs(self) -> int:
        """With all that follows the schedule."""
        return self.epochs

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate` for images of `batch_size`."""
        return self.learning_rate

    @model_validator(mode="after")
    def _consistent(self):
        if self.schedule == "step" and not self.decay_epochs:
            raise ValueError("schedule: step needs decay_epochs, such as [30, 60, 90]")
        if self.bce_threshold is not None and self.loss != "bce":
            raise ValueError(f"bce_threshold: needs loss: bce, not {self.loss}")
        if self.optimizer == "sgd" and (self.optimizer_betas or self.optimizer_eps):
            raise ValueError("optimizer_betas and optimizer_eps: sgd has neither")
        return self


class RetrainConfig(TrainConfig):
    """The long training of a selected architecture."""

    # what a training of equal settings may have otherwise on another machine
    OF_THE_MACHINE: ClassVar[set[str]] = {"keep_best", "max_bad_images", "loader_timeout", "num_workers", "log"}
    NOT_IN_FINGERPRINT: ClassVar[set[str]] = OF_THE_MACHINE | {
        *("epochs", "cooldown_epochs", "patience_epochs", "device_batch_size", "compile", "recompute")
    }

    recipe: str | None = None
    """A published recipe (see nas/retrain/recipes) whose values stand for what the section leaves out."""
    dataset: DatasetName = "imagefolder"
    """The images: handwritten digits of scikit-learn, plain or scattered over clutter, CIFAR, or a folder of images."""
    epochs: Positive = 300
    """Passes over the training images."""
    cooldown_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs after these, at the learning rate at which the schedule ends."""
    patience_epochs: Positive | None = None
    """Epochs without a better top1 after which the training ends early; absent: it never does."""
    optimizer: str = "adamw"  # pyright: ignore
    """As for the proxy, or any that timm.optim.list_optimizers() names, such as rmsproptf, lion or muon."""
    learning_rate_batch_size: Positive | None = None
    """Images of a step that `learning_rate` is meant for: with another `batch_size` it is scaled in proportion, for
    lamb and all whose names begin with ada by the square root, as timm does it. Absent: it is taken as it is."""
    batch_size: Positive = 128
    """Images of one step of the optimizer, over all devices and their accumulated parts."""
    device_batch_size: Positive | None = None
    """Most images that a device takes at once; what is over is accumulated. Absent: no limit."""
    resolution: Annotated[int, Field(ge=4)] = 224
    """Height and width of the training images in pixels."""
    first_resolution: Annotated[int, Field(ge=4)] | None = None
    """Where a progressive training starts; it grows to `resolution` within `resolution_epochs`. Absent: no growth."""
    resolution_epochs: Annotated[float, Field(ge=0)] = 0
    """Epochs after which a progressive training has reached `resolution`."""
    evaluation_resolution: Annotated[int, Field(ge=4)] | None = None
    """Height and width of the evaluated images in pixels; absent: `resolution`."""
    evaluation_crop: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Share of the shorter side that the evaluated centre square takes."""
    augment: Literal["none", "shift", "shift_flip", "crop_flip", "imagenet"] = "crop_flip"  # pyright: ignore
    """As for the proxy; imagenet is timm's random resized crop and flip with the following settings."""
    crop_area: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[0.08, 1.0], min_length=2, max_length=2)
    """Smallest and largest share of the image that imagenet's crop takes."""
    interpolation: Literal["bilinear", "bicubic", "random"] = "bilinear"
    """How imagenet's crop is resized; bicubic also for evaluation."""
    auto_augment: str | None = None
    """timm's name of a policy for imagenet, such as rand-m9-mstd0.5-inc1."""
    color_jitter: Annotated[float, Field(ge=0)] = 0.0
    """Strength of imagenet's colour jitter, where no auto_augment replaces it."""
    erasing: Fraction = 0.0
    """Probability with which a rectangle is replaced by noise."""
    mixup_epochs: Positive | None = None
    """Epochs with mixup and cutmix, after which images are no longer mixed; absent: all."""
    evaluate_every: Positive = 1
    """Epochs from one evaluation to the next; the last one is evaluated in any case."""
    repeats: Positive = 1
    """Repeated augmentation: an epoch shows 1/repeats of the images, each that often with other augmentations."""
    batch_norm: Literal["reduce", "sync"] = "reduce"
    """With several devices: average their running statistics, or normalise over all of them."""
    compile: bool = False
    """torch.compile; where it fails, the training goes on without, and says so."""
    recompute: bool = False
    """Keep no activations inside blocks, compute them again in the backward pass: less memory, more time."""
    teacher: str | None = None
    """A network of timm by name, with its pretrained weights, to learn from; or the folder of an exported one."""
    distillation: Fraction = 0.5
    """Share of the teacher in the loss."""
    distillation_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the logits of teacher and network before they are compared."""
    keep_best: Positive = 1
    """How many of the best epochs are kept as weights."""
    train_split: str | None = None
    """The folder, or the split of a data set, that trains; absent: by its name, such as train or training."""
    evaluation_split: str | None = None
    """The one that evaluates; absent: by its name, such as val, valid or validation."""
    class_map: str | None = None
    """File with the classes to train on, one in a line, in the order of their numbers; absent: all, by name."""
    num_workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that read images, for each device; 0 reads in the process that trains. Absent: by the number of CPUs,
    12 at most."""
    max_bad_images: Annotated[int, Field(ge=0)] = 0
    """How many unreadable images may be left out; they are listed, never replaced in silence."""
    loader_timeout: Annotated[float, Field(gt=0)] = 600
    """Seconds without any image after which the training ends, as the folder of the images does not answer."""
    log: list[LoggerName] = Field(default=[])
    """Where metrics go besides metrics.csv."""

    @property
    def num_epochs(self) -> int:
        return self.epochs + self.cooldown_epochs

    @property
    def peak_learning_rate(self) -> float:
        if self.learning_rate_batch_size is None:
            return self.learning_rate
        scale = self.batch_size / self.learning_rate_batch_size
        by_root = any(word in self.optimizer for word in ("ada", "lamb"))
        return self.learning_rate * (scale**0.5 if by_root else scale)

    @model_validator(mode="before")
    @classmethod
    def _with_recipe(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("recipe"), str):
            return recipe(given["recipe"]) | given
        return given

    @model_validator(mode="after")
    def _possible(self):
        if self.dataset in SCENES:
            raise ValueError(f"dataset = {self.dataset!r}: has boxes, and no detector is retrained yet")
        if self.augment != "imagenet" and (self.auto_augment or self.color_jitter):
            raise ValueError("auto_augment and color_jitter: need augment: imagenet")
        if self.crop_area[0] > self.crop_area[1]:
            raise ValueError(f"crop_area: {self.crop_area[0]} is above {self.crop_area[1]}")
        return self


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in RECIPES.iterdir() if path.name.endswith(".yaml"))


def recipe(name: str) -> dict[str, Any]:
    """The values of a recipe for the retrain section. Raises ValueError that lists the known ones."""
    if name not in recipe_names():
        raise ValueError(f"recipe = {name!r}: allowed are {', '.join(recipe_names())}")
    return strict_yaml.parse((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml").data


RESOLUTION_STEPS = 32


def resolution(config: RetrainConfig, epoch: int) -> int:
    """Height and width of the training images in an epoch (from 0), in pixels.

    It grows linearly from `first_resolution` to `resolution`, in multiples of 32 pixels (4 below 64).
    """
    first, last = config.first_resolution, config.resolution
    if first is None or epoch >= config.resolution_epochs:
        return last
    multiple = RESOLUTION_STEPS if min(first, last) >= 2 * RESOLUTION_STEPS else 4
    return round((first + (last - first) * epoch / config.resolution_epochs) / multiple) * multiple
