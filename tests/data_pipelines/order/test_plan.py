"""The order of a run: a pure function of the step that contains all records."""

import collections
import pickle

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.order.evaluation_plan import EvaluationPlan
from data_pipelines.order.plan import Plan, PlannedSource, merge_rare, visits_of

CANVASES = ((64, 64), (64, 128), (128, 64), (128, 128))


def make_plan(rows: int = 4, seed: int = 0, steps: int = 200, weights: tuple[float, ...] = (1.0, 1.0)) -> Plan:
    rng = np.random.default_rng(7)
    sources = [
        PlannedSource(rng.integers(0, 3, n), rng.integers(1, 4, n), weight)
        for n, weight in zip((37, 23), weights, strict=True)
    ]
    return Plan(sources, CANVASES, rows=rows, seed=seed, steps=steps)


def rows_of(batch) -> list[tuple]:
    return list(zip(batch.source_B, batch.record_B, batch.pass_B, batch.visit_B, strict=True))


def test_random_access_equals_the_sequence_from_any_start():
    plan, again = make_plan(), pickle.loads(pickle.dumps(make_plan()))
    sequence = [plan[i] for i in range(200)]
    for step in (199, 57, 0, 130, 58):
        assert again[step].canvas == sequence[step].canvas
        assert rows_of(again[step]) == rows_of(sequence[step])
    with pytest.raises(IndexError):
        plan[200]


def test_every_visit_comes_once_a_pass():
    plan = make_plan(rows=4)
    counts = collections.Counter(row for step in range(200) for row in rows_of(plan[step]))
    assert max(counts.values()) == 1
    epochs = int(200 / plan.steps_per_epoch) - 1
    assert epochs >= 3
    for source, n in enumerate((37, 23)):
        for number in range(epochs):
            seen = {row[1] for row in counts if row[0] == source and row[2] == number}
            assert seen == set(range(n))


def test_weights_set_the_passes_an_epoch():
    plan = make_plan(weights=(2.0, 0.5), steps=400)
    epochs = 400 / plan.steps_per_epoch
    passes = [collections.Counter() for _ in range(2)]
    for step in range(400):
        for source, record, _, visit in rows_of(plan[step]):
            passes[source][record, visit] += 1
    for counter, weight in zip(passes, (2.0, 0.5), strict=True):
        assert np.mean(list(counter.values())) == pytest.approx(weight * epochs, rel=0.1)


def test_rows_of_a_batch_share_its_canvas():
    rng = np.random.default_rng(7)
    canvas_N = rng.integers(0, 3, 60)
    plan = Plan([PlannedSource(canvas_N, np.ones(60, int))], CANVASES, rows=4, seed=0, steps=60)
    for step in range(60):
        assert set(canvas_N[plan[step].record_B]) == {plan[step].canvas}


def test_seed_and_epoch_change_the_order():
    assert rows_of(make_plan(seed=0)[0]) != rows_of(make_plan(seed=1)[0])
    plan = make_plan()
    epoch = int(plan.steps_per_epoch)
    first = [rows_of(plan[i]) for i in range(epoch)]
    second = [rows_of(plan[i]) for i in range(epoch, 2 * epoch)]
    assert [[r[:2] for r in rows] for rows in first] != [[r[:2] for r in rows] for rows in second]


def test_rare_canvases_go_to_the_smallest_that_holds_them():
    share_C = np.array([2.0, 100.0, 3.0, 50.0])
    # 64x64 fits 64x128 (smaller than 128x128); 128x64 fits only 128x128.
    assert merge_rare(share_C, CANVASES, 16).tolist() == [1, 1, 3, 3]
    assert merge_rare(share_C, CANVASES, 1).tolist() == [0, 1, 2, 3]
    # The largest canvas cannot be merged, and an unused canvas is not a target.
    assert merge_rare(np.array([2.0, 0, 0, 3.0]), CANVASES, 16).tolist() == [3, 1, 2, 3]


def test_a_canvas_with_fewer_images_than_rows_still_comes():
    plan = Plan([PlannedSource(np.array([0, 0, 0]), np.ones(3, int))], CANVASES, rows=4, seed=0, steps=6)
    counts = collections.Counter(r for step in range(6) for r in plan[step].record_B)
    assert set(counts.values()) == {8}


def test_epochs_give_the_number_of_steps():
    source = PlannedSource(np.zeros(10, int), np.full(10, 3))
    assert Plan([source], CANVASES, rows=4, seed=0, epochs=2).steps == 15
    with pytest.raises(DataError, match="no records"):
        Plan([PlannedSource(np.zeros(0, int), np.zeros(0, int))], CANVASES, rows=4, seed=0, steps=1)


def test_visits_follow_the_number_of_texts():
    assert visits_of(np.array([1, 5, 6, 50]), 4, "texts").tolist() == [1, 1, 2, 13]
    assert visits_of(np.array([1, 5, 6, 50]), 4, "images").tolist() == [1, 1, 1, 1]


def test_evaluation_takes_every_record_once_and_fills_the_last_batch():
    canvases = [np.array([0, 1, 0, 0, 1]), np.array([1, 1])]
    plan = EvaluationPlan(canvases, rows=2)
    seen = [(s, r) for batch in plan for s, r in zip(batch.source_B, batch.record_B, strict=True) if r >= 0]
    assert sorted(seen) == [(0, i) for i in range(5)] + [(1, 0), (1, 1)]
    assert len(plan) == 4
    for batch in plan:
        assert len(batch.record_B) == 2
        for source, record in zip(batch.source_B, batch.record_B, strict=True):
            assert record < 0 or canvases[source][record] == batch.canvas
    assert sum((batch.record_B >= 0).sum() for batch in EvaluationPlan(canvases, rows=2, limit=3)) == 3
