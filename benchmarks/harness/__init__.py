"""What benchmarks share: timing in turns, processes, JSON results."""
