"""Everything between files on a disk and a batch of numpy arrays; nothing here imports jax."""
