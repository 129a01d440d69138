"""How well a pre-trained model does its own tasks on a split: masked tokens and image-text matching."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from flax import nnx

from data_pipelines.batches.loader import load_batches
from data_pipelines.batches.pretraining import PretrainingBatches
from data_pipelines.order.evaluation_plan import EvaluationPlan
from data_pipelines.storage.atomic_files import write_atomically
from data_pipelines.storage.records import Records
from experiments.run.canvases import canvas_of
from experiments.run.config import RunConfig, evaluation_rows
from experiments.run.loop import total_sums
from experiments.run.progress import Progress
from pixelbert_jax.loading import LoadedModel
from pixelbert_jax.tasks.task import Sums, Task
from pixelbert_jax.training.sharding import batch_sharding, replicated


def evaluate(
    loaded: LoadedModel,
    config: RunConfig,
    task: Task,
    maker: PretrainingBatches,
    records: Records,
    output: Path,
    *,
    images: int = 0,
    unmeasurable: Sequence[str] = (),
) -> dict[str, float]:
    """Metrics of a split, as in training's evaluation, each with the number of examples behind it; also as JSON.

    Half of the pairs are mismatched, with texts of other images of the batch. Masks and mismatches do not depend on the
    run's seed.

    Args:
      loaded: a model of the task pretraining or regions_pretraining.
      config: the configuration of its run.
      task: the task of the run.
      maker: makes the batches; with shuffle_images each text gets another row's image and is scored as its own.
      records: the records of the split.
      output: .json file.
      images: > 0: number of images, evenly spaced over the split.
      unmeasurable: names of metrics that mean nothing on this data.

    Raises:
      DataError: a record is damaged.
    """
    graphdef, state = loaded.split()
    mesh = jax.tree.leaves(state)[0].sharding.mesh
    rows = -(-evaluation_rows(config) // mesh.size) * mesh.size
    plan = EvaluationPlan([canvas_of(records, config.data)], rows=rows, limit=images)
    step = jax.jit(
        lambda state, batch: task.loss(nnx.merge(graphdef, state), batch, task.totals(batch), None)[1],
        out_shardings=replicated(mesh),
    )
    progress, stream = Progress(len(plan), 0), load_batches(plan, maker, maker.config)

    def sums_of_batches() -> Iterator[Sums]:
        for number, batch in enumerate(stream, 1):
            yield step(state, jax.device_put(batch, batch_sharding(mesh)))
            progress.update(number, "")

    try:
        totals = total_sums(sums_of_batches())
    finally:
        stream.close()
        progress.close()
    found = {}
    for name in unmeasurable:
        del totals[name]
    for name, (total, count) in totals.items():
        found |= {name: float(total / max(count, 1)), f"{name}_examples": int(count)}
    write_atomically(output, json.dumps(found, indent=1) + "\n")
    return found
