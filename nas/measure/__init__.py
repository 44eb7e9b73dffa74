"""What a network costs: parameters, multiply-accumulates, latency alone on a device, memory, costs block by block.

Imports nas.networks, nas.data, nas.config, nas.space and nas.base.
"""
