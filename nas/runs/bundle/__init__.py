"""A run as one file: written, verified by somebody who need not trust it, and compared with others."""
