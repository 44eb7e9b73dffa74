"""What a network can be: the options of operators and blocks, a genotype, the choices of a search space.

Imports nas.base. Knows no torch.
"""
