"""What everything stands on: errors, files that are whole or absent, locks, seeds, processes.

Imports the standard library, pydantic's base class, and Ray inside functions; nothing of nas.
"""
