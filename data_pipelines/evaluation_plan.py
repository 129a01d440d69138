"""Order of held-out evaluation: every record once, the last batch of each canvas filled up."""

from collections.abc import Sequence

import numpy as np

from data_pipelines.plan import BatchPlan


class EvaluationPlan:
    """A sequence of BatchPlans over all records; record -1 marks rows that only fill a batch."""

    def __init__(self, canvas_of_source: Sequence[np.ndarray], *, rows: int, limit: int = 0) -> None:
        """Plan batches of `rows` rows over the sources; `limit` > 0 takes evenly spaced records only."""
        source_N = np.concatenate([np.full(len(canvas), i) for i, canvas in enumerate(canvas_of_source)])
        record_N = np.concatenate([np.arange(len(canvas)) for canvas in canvas_of_source])
        canvas_N = np.concatenate(canvas_of_source)
        if 0 < limit < len(record_N):
            chosen = np.linspace(0, len(record_N) - 1, limit).round().astype(int)
            source_N, record_N, canvas_N = source_N[chosen], record_N[chosen], canvas_N[chosen]
        self.plans = []
        for canvas in np.unique(canvas_N):
            places = np.flatnonzero(canvas_N == canvas)
            for start in range(0, len(places), rows):
                part = places[start : start + rows]
                fill = np.full(rows - len(part), -1)
                self.plans.append(
                    BatchPlan(
                        step=len(self.plans),
                        canvas=int(canvas),
                        source_B=np.concatenate([source_N[part], np.zeros_like(fill)]),
                        record_B=np.concatenate([record_N[part], fill]),
                        pass_B=np.zeros(rows, int),
                        visit_B=np.zeros(rows, int),
                    )
                )

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> BatchPlan:
        return self.plans[index]
