"""The path from files on disk to batches of NumPy arrays; nothing in this package imports jax."""
