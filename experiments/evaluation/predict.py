"""What a fine-tuned model predicts for every text of a split."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

from data_pipelines.batches.loader import load_batches
from data_pipelines.config import DataConfig
from data_pipelines.order.evaluation_plan import EvaluationPlan
from data_pipelines.order.plan import BatchPlan
from data_pipelines.storage.records import Records
from experiments.run.canvases import canvas_of
from experiments.run.config import RunConfig, evaluation_rows
from experiments.run.progress import Progress, say
from pixelbert_jax.loading import LoadedModel
from pixelbert_jax.training.sharding import batch_sharding, replicated


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction for one text."""

    label: dict[str, Any]  # the data set's own, {} if its texts have none
    text: str
    answer: Any


class TextBatches(Protocol):
    """Batches whose texts can be told apart: a frozen dataclass with the field `shuffle_images`."""

    shuffle_images: bool

    def __call__(self, plan: BatchPlan) -> dict[str, np.ndarray]:
        """The arrays of a step."""

    def texts_of(self, plan: BatchPlan) -> Iterator[tuple[int, int, int]]:
        """(row, k, index in the row's record) of each text of a batch."""


def predict(
    loaded: LoadedModel,
    config: RunConfig,
    make_batches: Callable[[DataConfig], TextBatches],
    records: Records,
    answer_of: Callable[[Any], Any],
    *,
    visits: np.ndarray,
    shuffle_images: bool = False,
) -> list[Prediction]:
    """A prediction for each text of a split, in the order of the records.

    Args:
      loaded: a model whose task has `predict`.
      config: the configuration of its run.
      make_batches: makes batches of `records`, for evaluation, with a configuration of the data.
      records: the records of the split.
      answer_of: a number that the task predicts -> the answer.
      visits: rows that each record gets.
      shuffle_images: give each text another image.

    Raises:
      DataError: a record or the file of texts is damaged.
    """
    record_texts = list(records.texts())
    graphdef, state = loaded.split()
    mesh = jax.tree.leaves(state)[0].sharding.mesh
    plan = EvaluationPlan(
        [canvas_of(records, config.data)],
        rows=-(-evaluation_rows(config) // mesh.size) * mesh.size,
        visits_of_source=[visits],
        seed=0 if shuffle_images else None,  # neighbours may be alike, such as the six drawings of an NLVR sentence
    )
    data = dataclasses.replace(config.data, workers=0, max_bad_records=0)  # official scores are of the whole split
    maker = dataclasses.replace(make_batches(data), shuffle_images=shuffle_images)
    compiled = jax.jit(
        lambda state, batch: loaded.task.predict(nnx.merge(graphdef, state), batch), out_shardings=replicated(mesh)
    )
    progress, found, cut = Progress(len(plan), 0), {}, 0
    stream = load_batches(plan, maker, data)
    try:
        for step, batch in enumerate(stream):
            predicted_BxK = np.asarray(compiled(state, jax.device_put(batch, batch_sharding(mesh))))
            for row, k, text in maker.texts_of(plan[step]):
                where = (int(plan[step].record_B[row]), text)
                record = record_texts[where[0]]
                cut += len(loaded.tokenizer.pieces(record.texts[text])) > config.data.max_text_length - 2
                answer = answer_of(predicted_BxK[row, k])
                label = record.parsed[text] if record.parsed else {}
                found[where] = Prediction(label, record.texts[text], answer)
            progress.update(step + 1, f"{len(found)} texts")
    finally:
        stream.close()
        progress.close()
    if cut:
        say(f"{cut} of {len(found)} texts were cut to {config.data.max_text_length} tokens")
    return [found[where] for where in sorted(found)]
