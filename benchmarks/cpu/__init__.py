"""Benchmarks of the CPU's set."""
