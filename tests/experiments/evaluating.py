"""`experiments.evaluate` and its parts with their options as keyword arguments."""

from pathlib import Path
from typing import Any

from data_pipelines.storage.records import Records
from experiments import evaluate as program
from experiments.evaluation import retrieval
from experiments.evaluation.options import EvaluationOptions
from pixelbert_jax.loading import LoadedModel


def evaluate(
    loaded: LoadedModel, split: str, output: Path, *, dataset: str = "", data_dir: str = "", **options: Any
) -> dict[str, Any]:
    """The program's scores of a split."""
    chosen = EvaluationOptions(split=split, **options)
    return program.evaluate(loaded, output, chosen, dataset=dataset, data_dir=data_dir)


def rank(
    loaded: LoadedModel,
    records: Records,
    output: Path,
    *,
    block_images: int = 8,
    block_texts: int = 64,
    **options: Any,
) -> dict[str, Any]:
    """Scores of all pairs of a split."""
    blocks = {"block_images": block_images, "block_texts": block_texts}
    return retrieval.evaluate(loaded, records, output, EvaluationOptions(**options), **blocks)
