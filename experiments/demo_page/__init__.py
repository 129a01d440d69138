"""The web page of `python -m experiments.demo`."""
