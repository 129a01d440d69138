"""The parts of `experiments.preflight`: compiling for machines that are not there, and reading the programs."""
