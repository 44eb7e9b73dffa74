"""`nas bench search`: samplers compared on spaces in which a training costs nothing.

Imports nas.search and what is below it.
"""
