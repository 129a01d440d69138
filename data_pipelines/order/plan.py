"""The order of training: which records are in the batch of a step.

A plan is a pure function of (seed, step). A resumed run starts at another step; workers, hosts and devices have no
influence. All rows of a batch have the same canvas, because a compiled step has one shape.

Each canvas has an endless stream of visits, which is cut into batches. In each epoch, the stream contains the visits of
each source on this canvas `weight` times, shuffled. Visits that do not fill a batch move to the next epoch, so no
record is ever dropped.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.images.resize import Canvas


@dataclasses.dataclass(frozen=True)
class PlannedSource:
    """One source of the mixture: what the plan needs to know about its records."""

    canvas_N: np.ndarray  # index of the canvas of each record
    visits_N: np.ndarray  # visits of each record in one pass over the source
    weight: float = 1.0  # passes per epoch


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """The rows of one global batch."""

    step: int
    canvas: int  # index into the canvases
    source_B: np.ndarray
    record_B: np.ndarray
    pass_B: np.ndarray  # number of earlier passes over the source
    visit_B: np.ndarray  # number of the visit in the pass: 0 to visits - 1


class Plan:
    """Random access to the batches of a run; a sequence of `steps` BatchPlans."""

    def __init__(
        self,
        sources: Sequence[PlannedSource],
        canvases: Sequence[Canvas],
        *,
        rows: int,
        seed: int,
        steps: int = 0,
        epochs: float = 0.0,
    ) -> None:
        """Plan batches of `rows` rows.

        Args:
          sources: sources of the mixture.
          canvases: (height, width) of each canvas; a rare canvas is merged into a larger one that holds it.
          rows: B, rows of the global batch.
          seed: seed of the order.
          steps: length of the plan in steps; 0: the length follows from `epochs`.
          epochs: length of the plan in epochs, used if `steps` is 0.

        Raises:
          DataError: a source is empty.
        """
        if not all(len(source.canvas_N) for source in sources):
            raise DataError("A data set of the mixture has no records; prepare it again or leave it out of data.train.")
        self.rows, self.seed = rows, seed
        share = np.zeros(len(canvases))
        for source in sources:
            visits = np.bincount(source.canvas_N, source.visits_N, minlength=len(canvases))
            share += visits * source.weight
        merged_C = merge_rare(share, canvases, rows)
        # For each canvas: a list of (source index, records, visits, visits per epoch), and the visits per epoch in all.
        self.items, self.per_epoch = [], []
        for canvas in range(len(canvases)):
            items = []
            for index, source in enumerate(sources):
                records = np.flatnonzero(merged_C[source.canvas_N] == canvas)
                visits = source.visits_N[records]
                if len(records):
                    count = max(1, round(source.weight * int(visits.sum())))
                    repeated = np.repeat(records, visits)
                    numbers = np.concatenate([np.arange(n) for n in visits])
                    items.append((index, repeated.astype(np.int32), numbers.astype(np.int32), count))
            self.items.append(items)
            self.per_epoch.append(sum(item[3] for item in items))
        self.used_canvases = tuple(c for c, count in enumerate(self.per_epoch) if count)
        self.steps = steps or int(epochs * self.steps_per_epoch)
        self._caches()

    @property
    def steps_per_epoch(self) -> float:
        """Batches per epoch; not an integer, because the rest of an epoch moves to the next one."""
        return sum(self.per_epoch) / self.rows

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> BatchPlan:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        epoch = int(step / self.steps_per_epoch)
        while self._first_step(epoch) > step:
            epoch -= 1
        while self._first_step(epoch + 1) <= step:
            epoch += 1
        canvas, number = self._batch_order(epoch)[step - self._first_step(epoch)]
        positions = range(int(number) * self.rows, (int(number) + 1) * self.rows)
        per_epoch = self.per_epoch[canvas]
        rows = np.stack([self._stream(canvas, p // per_epoch)[p % per_epoch] for p in positions])
        return BatchPlan(step, int(canvas), *(rows[:, i] for i in range(4)))

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_batch_order", "_stream")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._caches()

    def _caches(self) -> None:
        self._batch_order = functools.lru_cache(2)(self._make_batch_order)
        self._stream = functools.lru_cache(2 * len(self.items))(self._make_stream)

    def _first_step(self, epoch: int) -> int:
        """Number of batches that are complete before an epoch starts."""
        return sum(epoch * count // self.rows for count in self.per_epoch)

    def _make_batch_order(self, epoch: int) -> np.ndarray:
        """(canvas, index of the batch in the stream of the canvas) for each step of an epoch."""
        batches = [
            (canvas, number)
            for canvas, count in enumerate(self.per_epoch)
            for number in range(epoch * count // self.rows, (epoch + 1) * count // self.rows)
        ]
        return np.random.default_rng([self.seed, 0, epoch]).permutation(np.array(batches).reshape(-1, 2))

    def _make_stream(self, canvas: int, epoch: int) -> np.ndarray:
        """(source, record, pass, visit) for each visit of a canvas in an epoch."""
        parts = []
        for index, records, visits, count in self.items[canvas]:
            positions = np.arange(epoch * count, (epoch + 1) * count)
            passes, offsets = np.divmod(positions, len(records))
            for number in np.unique(passes):
                rng = np.random.default_rng([self.seed, 1, canvas, index, int(number)])
                chosen = rng.permutation(len(records))[offsets[passes == number]]
                columns = (
                    np.full(len(chosen), index),
                    records[chosen],
                    np.full(len(chosen), number),
                    visits[chosen],
                )
                parts.append(np.stack(columns, axis=1))
        return np.random.default_rng([self.seed, 2, canvas, epoch]).permutation(np.concatenate(parts))


def merge_rare(share_C: np.ndarray, canvases: Sequence[Canvas], rows: int) -> np.ndarray:
    """Map each canvas that does not fill one batch per epoch to the smallest used canvas that holds it."""
    merged_C = np.arange(len(canvases))
    share_C = share_C.copy()
    for canvas in sorted(range(len(canvases)), key=lambda c: canvases[c][0] * canvases[c][1]):
        height, width = canvases[canvas]
        larger = [
            (h * w, c) for c, (h, w) in enumerate(canvases) if c != canvas and share_C[c] and h >= height and w >= width
        ]
        if 0 < share_C[canvas] < rows and larger:
            target = min(larger)[1]
            share_C[target] += share_C[canvas]
            share_C[canvas] = 0
            merged_C[merged_C == canvas] = target
    return merged_C


def visits_of(num_texts_N: np.ndarray, texts_per_image: int, epoch: str) -> np.ndarray:
    """Visits of each image in a pass: one ("images"), or as many as its texts need with `texts_per_image` per visit."""
    if epoch == "images":
        return np.ones(len(num_texts_N), np.int32)
    return np.maximum(1, (num_texts_N / texts_per_image + 0.5).astype(np.int32))
