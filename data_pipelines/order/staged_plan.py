"""A sequence of plans: the stages of a run."""

import bisect
import dataclasses
import itertools
from collections.abc import Sequence

from data_pipelines.order.plan import BatchPlan, Plan


class StagedPlan:
    """A sequence of BatchPlans over the sources of all stages; the sources of the first stage come first."""

    def __init__(self, plans: Sequence[Plan], sources: Sequence[int]) -> None:
        """Args: plans: plan of each stage; sources: number of sources of each stage."""
        self.plans = tuple(plans)
        self._first_steps = (0, *itertools.accumulate(len(plan) for plan in plans))
        self._first_sources = (0, *itertools.accumulate(sources))

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The first step of each stage except the first stage."""
        return self._first_steps[1:-1]

    def __len__(self) -> int:
        return self._first_steps[-1]

    def __getitem__(self, step: int) -> BatchPlan:
        if not 0 <= step < len(self):
            raise IndexError(step)
        stage = bisect.bisect_right(self._first_steps, step) - 1
        plan = self.plans[stage][step - self._first_steps[stage]]
        return dataclasses.replace(plan, step=step, source_B=plan.source_B + self._first_sources[stage])
