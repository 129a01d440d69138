"""Prepared records on disk: atomic writing and random access by index."""
