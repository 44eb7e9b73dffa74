"""Benchmarks: kernels, whole networks, samplers.

Imports nas.search and what is below it.
"""
