"""METRICS: title, unit and number format of each objective and cost."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal


@dataclass(frozen=True)
class Metric:
    """How an objective or a cost is shown: value x `scale` in `unit`, with that many decimals."""

    title: str
    unit: str
    scale: float
    decimals: int
    maximize: bool = False

    @property
    def label(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def text(self, value: float | None) -> str:
        """Halves are rounded up, as the pages do."""
        if value is None:
            return "–"
        step = Decimal(1).scaleb(-self.decimals)
        return f"{Decimal(value * self.scale).quantize(step, ROUND_HALF_UP):,}"

    def stated(self, value: float | None) -> str:
        """With its unit, if it has one."""
        return f"{self.text(value)} {self.unit}".strip()

    def signed(self, change: float) -> str:
        """A change, with its sign."""
        return ("+" if change > 0 else "-") + self.text(abs(change))


METRICS = {
    "top1": Metric("top-1 accuracy", "%", 100, 2, maximize=True),
    "box_ap": Metric("box AP", "%", 100, 2, maximize=True),
    "zero_cost": Metric("zero-cost score", "", 1, 4, maximize=True),
    "supernet": Metric("top-1 with inherited weights", "%", 100, 2, maximize=True),
    "score": Metric("score", "", 1, 4, maximize=True),
    "latency_ms": Metric("latency", "ms", 1, 3),
    "num_params": Metric("parameters", "M", 1e-6, 3),
    "num_macs": Metric("MACs", "M", 1e-6, 2),
    "peak_memory_mb": Metric("peak memory", "MB", 1, 1),
}
