"""A genotype as an nn.Module: blocks, stems, heads, the published networks, the inference form.

Imports nas.operators, nas.space, nas.base and kernels.
"""
