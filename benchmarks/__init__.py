"""Benchmarks: each file runs by itself, as `python -m benchmarks.NAME`."""
