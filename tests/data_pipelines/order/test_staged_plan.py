"""The order of a run in stages: the plans of the stages in sequence, over the sources of all stages."""

import pickle

import numpy as np
import pytest

from data_pipelines.order.plan import Plan, PlannedSource
from data_pipelines.order.staged_plan import StagedPlan

CANVASES = ((64, 64), (64, 128))
LENGTHS, SOURCES = (7, 1, 5), (2, 1, 2)


def plans() -> list[Plan]:
    """Plans of three stages with two, one and two sources."""
    rng = np.random.default_rng(0)
    return [
        Plan(
            [PlannedSource(rng.integers(0, 2, 11 + stage), np.full(11 + stage, 2)) for _ in range(count)],
            CANVASES,
            rows=4,
            seed=stage,
            steps=steps,
        )
        for stage, (steps, count) in enumerate(zip(LENGTHS, SOURCES, strict=True))
    ]


def assert_same(batch, expected, step, first_source) -> None:
    assert (batch.step, batch.canvas) == (step, expected.canvas)
    np.testing.assert_array_equal(batch.source_B, expected.source_B + first_source)
    for name in ("record_B", "pass_B", "visit_B"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(expected, name))


def test_the_plans_in_their_order_with_sources_of_their_own():
    staged, expected = StagedPlan(plans(), SOURCES), plans()
    assert len(staged) == 13 and staged.boundaries == (7, 8)
    step, seen = 0, []
    for plan, first_source in zip(expected, (0, 2, 3), strict=True):
        seen.append(set())
        for own_step in range(len(plan)):
            assert_same(staged[step], plan[own_step], step, first_source)
            seen[-1] |= set(staged[step].source_B.tolist())
            step += 1
    assert seen == [{0, 1}, {2}, {3, 4}]
    np.testing.assert_array_equal(expected[2][0].source_B < 2, True)  # the plans themselves are unchanged


def test_random_access_equals_the_sequence_from_any_start():
    staged = StagedPlan(plans(), SOURCES)
    again, sequence = pickle.loads(pickle.dumps(StagedPlan(plans(), SOURCES))), [staged[i] for i in range(13)]
    for step in (12, 0, 8, 7, 6, 11):
        assert_same(again[step], sequence[step], step, 0)
    for step in (13, -1):
        with pytest.raises(IndexError):
            staged[step]


def test_one_stage_is_its_plan():
    plan = plans()[0]
    staged = StagedPlan([plan], [2])
    assert len(staged) == 7 and staged.boundaries == ()
    for step in range(7):
        assert_same(staged[step], plan[step], step, 0)
