"""The long training of a chosen network, on one device or many, with the published recipes.

Imports nas.training, nas.measure, nas.runs and what is below them.
"""
