"""The dashboard: pages of runs, served on this machine or saved as one file. Needs no torch, ray or optuna."""

from nas.dashboard.app import create_app
from nas.dashboard.export import export_html
from nas.dashboard.server import serve

__all__ = ["create_app", "export_html", "serve"]
