"""ImageBERT on drawn scenes, small: its batches hold floating-point numbers."""

from experiments.run.config import RunConfig
from tests.experiments.fine_tuning import regions_config


def get_config() -> RunConfig:
    """Six steps; the folder of the data is given on the command line."""
    return regions_config("data")
