"""A trained network evaluated, used and handed on: timm, ONNX, torch, one source file.

Imports nas.training, nas.measure, nas.runs and what is below them.
"""
