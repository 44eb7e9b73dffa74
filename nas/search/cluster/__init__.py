"""The cluster that a search runs on: its hosts, its places, what is shared with others, what survives a node.

Ray is imported here. Imports nas.config, nas.runs and nas.base, the progress of a search, and its trials (`worker`).
"""
