"""Write the published networks as genotypes to search_spaces/published; run it after a change of the format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nas.space.genotype import Genotype
from nas.space.specs import (
    Basic,
    Bottleneck,
    Conv,
    Gated,
    GnConv,
    Head,
    InvertedResidual,
    Involution,
    ODConv,
    Operator,
    SCConv,
    Stem,
)

FOLDER = Path(__file__).parent.parent / "search_spaces" / "published"
RESNET_WIDTHS = (256, 512, 1024, 2048)
MOBILENETV2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
REDNET_DEPTHS = {26: (1, 2, 4, 1), 38: (2, 3, 5, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


PLAIN_HEAD = Head(uniform_init=True)


def bottlenecks(stem: Stem, depths: tuple[int, ...], operator: Operator, head: Head, **options) -> Genotype:
    stages = tuple(
        tuple(
            Bottleneck(width=width, operator=operator, stride=2 if i > 0 and j == 0 else 1, **options)
            for j in range(depth)
        )
        for i, (depth, width) in enumerate(zip(depths, RESNET_WIDTHS, strict=True))
    )
    return Genotype(stem=stem, stages=stages, head=head)


def rednet(depth: int, stem_kernel: Literal[3, 7]) -> Genotype:
    stem = Stem(kind="rednet", kernel_size=stem_kernel)
    return bottlenecks(stem, REDNET_DEPTHS[depth], Involution(), Head(), zero_init=True)


def resnet(depth: int, operator: Operator | None = None, pointwise: Operator | None = None) -> Genotype:
    """ResNet, or OD-ResNet where operators are given."""
    head = Head() if operator else PLAIN_HEAD
    operator = operator or Conv()
    if depth >= 50:
        return bottlenecks(Stem(), DEPTHS[depth], operator, head, pointwise=pointwise)
    stages = tuple(
        tuple(Basic(width=64 * 2**i, operator=operator, stride=2 if i > 0 and j == 0 else 1) for j in range(blocks))
        for i, blocks in enumerate(DEPTHS[depth])
    )
    return Genotype(stem=Stem(), stages=stages, head=head)


def scnet(depth: int, v1d: bool = False) -> Genotype:
    if not v1d:
        return bottlenecks(Stem(), DEPTHS[depth], SCConv(), PLAIN_HEAD)
    stem = Stem(kind="deep", width=64 if depth == 50 else 128)
    stages = tuple(
        tuple(
            Bottleneck(
                width=width,
                operator=SCConv(),
                stride=2 if i > 0 and j == 0 else 1,
                shortcut="avgpool",
                downsample="avgpool" if i > 0 and j == 0 else "operator",
            )
            for j in range(depth)
        )
        for i, (depth, width) in enumerate(zip(DEPTHS[depth], RESNET_WIDTHS, strict=True))
    )
    return Genotype(stem=stem, stages=stages, head=PLAIN_HEAD)


def mobilenetv2(width: float, operator: Operator | None = None, pointwise: Operator | None = None) -> Genotype:
    operator = operator or Conv(groups="depthwise")

    def channels(base: int) -> int:
        """The nearest multiple of 8, at least 90 % of what was asked for."""
        rounded = max(8, int(base * width + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * base * width else rounded

    stages: list[list[InvertedResidual]] = []  # one per resolution, which is what a feature pyramid takes
    for expansion, base, depth, stride in MOBILENETV2:
        blocks = [
            InvertedResidual(
                width=channels(base),
                operator=operator,
                pointwise=pointwise,
                stride=2 if stride == 2 and j == 0 else 1,
                expansion=expansion,
            )
            for j in range(depth)
        ]
        if stride == 2 or not stages:
            stages.append([])
        stages[-1] += blocks
    head = Head(kind="mobilenet", width=1280, operator=pointwise, dropout=0.2)
    grouped = tuple(tuple(stage) for stage in stages)
    return Genotype(stem=Stem(kind="mobilenet", width=channels(32)), stages=grouped, head=head)


def hornet(width: int, grids: tuple[tuple[int, int], tuple[int, int]] | None = None) -> Genotype:
    """HorNet with 7x7 filters, or with the global filter of these grids in the last two stages."""
    stages = []
    for i, depth in enumerate((2, 3, 18, 2)):
        operator = GnConv(order=i + 2)
        if grids and i >= 2:
            operator = GnConv(order=i + 2, filter="global", grid=grids[i - 2])
        stages.append(
            tuple(
                Gated(width=width * 2**i, operator=operator, stride=2 if i > 0 and j == 0 else 1) for j in range(depth)
            )
        )
    return Genotype(stem=Stem(kind="patchify", width=width), stages=tuple(stages), head=Head(kind="norm"))


def convnext_tiny() -> Genotype:
    operator = Conv(kernel_size=7, groups="depthwise", bias=True)
    stages = tuple(
        tuple(Gated(width=width, operator=operator, stride=2 if i and j == 0 else 1, residuals=1) for j in range(depth))
        for i, (depth, width) in enumerate(zip((3, 3, 9, 3), (96, 192, 384, 768), strict=True))
    )
    return Genotype(stem=Stem(kind="patchify", width=96), stages=stages, head=Head(kind="norm"))


def published() -> dict[str, Genotype]:
    result = {}
    for depth in REDNET_DEPTHS:
        result[f"rednet{depth}"] = rednet(depth, 3)
        result[f"rednet{depth}_stem7"] = rednet(depth, 7)
    for depth in DEPTHS:
        result[f"resnet{depth}"] = resnet(depth)
        for n in (1, 2, 4):
            operators = ODConv(num_kernels=n), ODConv(kernel_size=1, num_kernels=n)
            result[f"od_resnet{depth}_{n}x"] = resnet(depth, *operators)
    for depth in (50, 101):
        result[f"scnet{depth}"] = scnet(depth)
        result[f"scnet{depth}_v1d"] = scnet(depth, v1d=True)
    for percent in (50, 75, 100):
        result[f"mobilenetv2_{percent:03}"] = mobilenetv2(percent / 100)
        for n in (1, 4):
            operators = ODConv(num_kernels=n, groups="depthwise"), ODConv(kernel_size=1, num_kernels=n)
            result[f"od_mobilenetv2_{percent:03}_{n}x"] = mobilenetv2(percent / 100, *operators)
    result["convnext_tiny"] = convnext_tiny()
    small, large = ((14, 8), (7, 4)), ((24, 13), (12, 7))
    for name, width in {"tiny": 64, "small": 96, "base": 128, "large": 192}.items():
        result[f"hornet_{name}_7x7"] = hornet(width)
        result[f"hornet_{name}_gf"] = hornet(width, small)
        if name in ("base", "large"):
            result[f"hornet_{name}_gf_img384"] = hornet(width, large)
    return result


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, genotype in published().items():
        (FOLDER / f"{name}.json").write_text(genotype.to_json() + "\n", encoding="utf-8")
        print(name, genotype.key)
