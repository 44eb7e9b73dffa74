"""Public: see `nas.space.genotype`."""

from nas.space.genotype import FORMAT, Genotype

__all__ = ["FORMAT", "Genotype"]
