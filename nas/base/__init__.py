"""The foundation: errors, files that are whole or absent, locks between processes, seeds, signals, the machine.

Imports the standard library, pydantic's base class, and Ray inside functions; nothing of nas.
"""
