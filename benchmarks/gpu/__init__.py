"""The GPU's set of benchmarks, in one call: python -m benchmarks.gpu."""
