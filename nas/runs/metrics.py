"""METRICS: how objectives and costs are shown, by name."""

from __future__ import annotations

from dataclasses import dataclass


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
        return f"{self.title} ({self.unit})"

    def text(self, value: float | None) -> str:
        return "–" if value is None else f"{value * self.scale:,.{self.decimals}f}"


METRICS = {
    "top1": Metric("top-1 accuracy", "%", 100, 2, maximize=True),
    "latency_ms": Metric("latency", "ms", 1, 3),
    "num_params": Metric("parameters", "M", 1e-6, 3),
    "num_macs": Metric("MACs", "M", 1e-6, 2),
    "peak_memory_mb": Metric("peak memory", "MB", 1, 1),
}
