"""Metrics of the downstream tasks by their authors' definitions, and the files that their scripts and servers read."""
