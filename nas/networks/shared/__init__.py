"""Networks of different sizes and operators that share one set of weights."""
