"""One file per task: its heads, the fields of its batches, its losses, its metrics."""
