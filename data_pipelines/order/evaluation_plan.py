"""Order of the records in evaluation: each visit of each record once; the last batch of a canvas has padding rows."""

from collections.abc import Sequence

import numpy as np

from data_pipelines.order.plan import BatchPlan


def evenly_spaced(count: int, limit: int) -> np.ndarray:
    """Indices of `limit` evenly spaced records among `count`; all indices if `limit` is 0 or at least `count`."""
    if not 0 < limit < count:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).round().astype(int)


class EvaluationPlan:
    """A sequence of BatchPlans over all records; record -1 marks padding rows."""

    def __init__(
        self,
        canvas_of_source: Sequence[np.ndarray],
        *,
        rows: int,
        limit: int = 0,
        visits_of_source: Sequence[np.ndarray] | None = None,
        seed: int | None = None,
    ) -> None:
        """Plan batches of `rows` rows.

        Args:
          canvas_of_source: index of the canvas of each record, for each source.
          rows: rows per batch.
          limit: if positive, use only this many evenly spaced records.
          visits_of_source: number of consecutive rows for each record, for each source; None: one row per record.
          seed: seed of a random order of the rows; None: the order of the records.
        """
        source_N = np.concatenate([np.full(len(canvas), i) for i, canvas in enumerate(canvas_of_source)])
        record_N = np.concatenate([np.arange(len(canvas)) for canvas in canvas_of_source])
        canvas_N = np.concatenate(canvas_of_source)
        visits_N = np.ones(len(record_N), int) if visits_of_source is None else np.concatenate(visits_of_source)
        columns = np.stack([source_N, record_N, canvas_N, visits_N]).astype(int)
        columns = columns[:, evenly_spaced(len(record_N), limit)]
        visit_N = np.concatenate([np.arange(n) for n in columns[3]])
        rows_4xN = np.stack([*np.repeat(columns[:3], columns[3], axis=1), visit_N])
        if seed is not None:
            rows_4xN = np.random.default_rng(seed).permutation(rows_4xN, axis=1)
        source_N, record_N, canvas_N, visit_N = rows_4xN
        self.plans = []
        for canvas in np.unique(canvas_N):
            indices = np.flatnonzero(canvas_N == canvas)
            for start in range(0, len(indices), rows):
                part = indices[start : start + rows]
                padding = np.full(rows - len(part), -1)
                self.plans.append(
                    BatchPlan(
                        step=len(self.plans),
                        canvas=int(canvas),
                        source_B=np.concatenate([source_N[part], np.zeros_like(padding)]),
                        record_B=np.concatenate([record_N[part], padding]),
                        pass_B=np.zeros(rows, int),
                        visit_B=np.concatenate([visit_N[part], np.zeros_like(padding)]),
                    )
                )

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> BatchPlan:
        return self.plans[index]
