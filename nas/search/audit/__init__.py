"""Checks what a run claims: networks trained again, runs handed on in one file, verified and compared."""
