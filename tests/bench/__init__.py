"""Benchmarks, run by `make bench-engine` and `make bench-library`; each measures ratios side by side in one run."""
