"""What `experiments.preflight` is made of: compiling for machines that are not there, and reading what came out."""
