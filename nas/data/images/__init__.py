"""Image files: where they lie (class folders, tar shards, Hugging Face data sets), which train, how they are read.

Imports nothing else of nas.data.
"""
