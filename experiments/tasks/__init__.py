"""One recipe per task: what the programs need from it. The registry is that of pixelbert_jax.tasks."""
