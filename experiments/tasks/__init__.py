"""One recipe a task: what the programs ask of it. The registry is that of pixelbert_jax.tasks."""
