"""The `evaluator:` entry: what judges a network, and in which stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, PrivateAttr, Tag, model_validator

from nas.base.section import Fraction, OwnName, Positive, Section, named

ShippedEvaluator = Literal["train", "zero_cost", "supernet"]
EvaluatorName = Annotated[ShippedEvaluator | OwnName, named("nas.evaluators")]
FigureName = Literal["top1", "box_ap", "zero_cost", "supernet", "score"]
ScoreName = Literal["grad_norm", "snip", "synflow", "naswot", "jacob_cov", "zico", "combination"]
FIGURES: tuple[FigureName, ...] = get_args(FigureName)
"""What evaluators say of a network; more is better in all of them, and none is a cost."""
TRAINED: tuple[FigureName, ...] = ("top1", "box_ap")
"""Those that a training says, by its task: of a classifier, of a detector."""
FIGURE_OF: dict[str, FigureName] = {"train": "top1", "zero_cost": "zero_cost", "supernet": "supernet"}


def trained_value(figures: Mapping[str, float]) -> float | None:
    """What a training said, among objectives, figures or columns of an epoch; None where it is not among them."""
    return next((figures[name] for name in TRAINED if name in figures), None)


class EvaluatorConfig(Section):
    """What judges a network.

    In a list, each but the last is a filter: it scores every candidate, and only the best come to the next.
    """

    name: EvaluatorName
    """train: the training of `proxy`; zero_cost: a score of the untrained network, from one batch of images, in
    seconds; supernet: top1 with the weights that the network inherits from one training of all networks of the space;
    MODULE:FUNCTION of your own."""
    score: ScoreName | None = None
    """Of zero_cost: which score; combination is the logarithm of snip x grad_norm x synflow. Absent: grad_norm."""
    epochs: Positive | None = None
    """Of supernet: epochs of its training, which else is as `proxy` says. Absent: twelve times those of `proxy`."""
    paths: Positive | None = None
    """Of supernet: networks that each step trains with the same images, the largest, the smallest, and others. Absent:
    4."""
    distillation: Fraction | None = None
    """Of supernet: share of what the largest network of a step says in the loss of the others. Absent: 0."""
    keep: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of a filter: the share that comes to the next, among networks that cost about as much. Absent: 0.5."""
    trained_first: Annotated[int, Field(ge=5)] | None = None
    """Of a filter: trainings to their end before it rejects any network. Rejects none until Kendall's tau between score
    and top1 is above zero with its whole 95 % interval, which is looked at after so many trainings, twice, four times
    as many and so on. Absent: 16."""

    _trained: FigureName = PrivateAttr("top1")

    @model_validator(mode="after")
    def _sense(self):
        if self.score is not None and self.name != "zero_cost":
            raise ValueError(f"score = {self.score!r}: is for zero_cost, {self.name} has none")
        of_supernet = {"epochs": self.epochs, "paths": self.paths, "distillation": self.distillation}
        for option, value in of_supernet.items():
            if value is not None and self.name != "supernet":
                raise ValueError(f"{option} = {value!r}: is for supernet, {self.name} has none")
        return self

    @property
    def figure(self) -> FigureName:
        """The name of what it says of a network; those of your own all say `score`."""
        return self._trained if self.name == "train" else FIGURE_OF.get(self.name, "score")

    @property
    def label(self) -> str:
        """Its name, with what tells it from others of the name."""
        return f"{self.name} ({self.score_name})" if self.name == "zero_cost" else self.name

    @property
    def score_name(self) -> ScoreName:
        return self.score or "grad_norm"

    @property
    def num_paths(self) -> int:
        return 4 if self.paths is None else self.paths

    @property
    def distillation_share(self) -> float:
        return self.distillation or 0.0

    def supernet_epochs(self, of_proxy: int) -> int:
        return 12 * of_proxy if self.epochs is None else self.epochs

    @property
    def share_kept(self) -> float:
        return 0.5 if self.keep is None else self.keep

    @property
    def num_trained_first(self) -> Positive:
        return 16 if self.trained_first is None else self.trained_first


def _shape(value: Any) -> str:
    return "<list>" if isinstance(value, list) else "<name>" if isinstance(value, str) else "<one>"


NameOrSettings = Annotated[
    Annotated[EvaluatorName, Tag("<name>")] | Annotated[EvaluatorConfig, Tag("<one>")], Discriminator(_shape)
]
EvaluatorEntry = Annotated[
    Annotated[EvaluatorName, Tag("<name>")]
    | Annotated[EvaluatorConfig, Tag("<one>")]
    | Annotated[list[NameOrSettings], Field(min_length=1), Tag("<list>")],
    Discriminator(_shape),
]


def stages_of(entry: Any, trained: FigureName = "top1") -> list[EvaluatorConfig]:
    """The evaluators that a candidate goes through, in order, from what the entry says in any of its forms; `trained`
    is what a training says."""
    entries = entry if isinstance(entry, list) else [entry]
    found = [EvaluatorConfig(name=each) if isinstance(each, str) else each.model_copy() for each in entries]
    for each in found:
        each._trained = trained
    return found


def check_stages(entry: Any) -> None:
    """Raise ValueError where evaluators, each allowed by itself, make no sense one after the other."""
    stages = stages_of(entry)
    names = [stage.name for stage in stages]
    if len(set(names)) != len(names):
        raise ValueError("an evaluator is named twice")
    if "train" in names[:-1]:
        raise ValueError(f"train comes last: after a training nothing is left for {names[names.index('train') + 1]}")
    if len({stage.figure for stage in stages}) != len(stages):
        raise ValueError(f"{' and '.join(names)} say the same of a network; one of your own is allowed")
    if stages[-1].keep is not None or stages[-1].trained_first is not None:
        raise ValueError(f"keep and trained_first are for filters, and {names[-1]} is the last")
    if len(stages) > 1 and names[-1] != "train":
        raise ValueError(f"{names[-1]} is the last of a list, which must be train: a filter is trusted by trainings")
