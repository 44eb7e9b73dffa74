"""What looks at the kernels from outside: ahead-of-time compilation, the launches users meet, ceilings, benchmarks."""
