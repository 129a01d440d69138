"""A Grain pipeline from a plan and a batch maker to a stream of batches, prefetched by threads or processes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from data_pipelines.config import DataConfig
from data_pipelines.order.plan import BatchPlan

Batch = dict[str, np.ndarray]


def load_batches(
    plan: Sequence[BatchPlan],
    make_batch: Callable[[BatchPlan], Batch],
    config: DataConfig,
    *,
    start: int = 0,
    place: Callable[[Batch], Any] | None = None,
) -> Iterator[Any]:
    """Batches `start`, `start + 1`, ... of a plan in order; the batches do not depend on the number of workers.

    Args:
      plan: one BatchPlan per step.
      make_batch: pure function from a BatchPlan to arrays; picklable if there are workers.
      config: numbers of workers, threads and prefetched batches.
      start: first step.
      place: function that puts a batch on the devices; it runs in its own thread, one batch ahead.

    Returns:
      An iterator with `close()`, which ends its threads and processes.
    """
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read a flag, but a notebook does not parse flags
    dataset = grain.MapDataset.source(plan).map(make_batch)[start:]
    ahead = config.prefetch
    stream = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=min(config.threads, ahead), prefetch_buffer_size=ahead)
    )
    if config.workers:
        stream = stream.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=ahead)
        )
    if place is not None:
        stream = grain.experimental.ThreadPrefetchIterDataset(stream.map(place), prefetch_buffer_size=1)
    return iter(stream)
