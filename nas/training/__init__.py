"""The one training loop, of the proxy and of the long training; exact under interruption.

Imports nas.networks, nas.data, nas.config and nas.base.
"""
