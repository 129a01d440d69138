"""Metrics of the downstream tasks as their authors define them, and the files that their scripts and servers read."""
