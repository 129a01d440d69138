"""Optimizer, sharded step and checkpoints: the same for every task."""
