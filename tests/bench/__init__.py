"""Benchmarks: ratios in one run, never part of the tests. `make bench` runs them all."""
