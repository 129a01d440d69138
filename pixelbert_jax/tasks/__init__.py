"""One file a task: its heads, the batch it takes, its losses, its figures."""
