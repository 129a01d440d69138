"""Prepared records on disk, written whole and read by index."""
