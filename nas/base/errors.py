"""UserError: what the user got wrong, as one clear message; the command line ends with exit code 2."""

from __future__ import annotations


class UserError(ValueError):
    """Wrong input or a missing thing; the message names the place and what is allowed."""


class MachineError(UserError):
    """The machine, or the file's search section, cannot serve a search."""
