"""NaN and infinity in a gradient or in a batch: the step is skipped and counted; a streak of them ends the run."""

from pathlib import Path

import pytest

from data_pipelines.preparation.run import prepare
from experiments.run.loop import _not_finite_message
from tests.faults.losses import lost_rows, steps_begun
from tests.multi_process.outcomes import assert_same_checkpoint, metrics, newest_step, saved_arrays

STEPS, ROWS = 6, 8  # ROWS of a batch, from which a skipped step learns nothing
REGIONS = Path(__file__).with_name("regions_config.py")
GOES_ON = "the step is skipped and counted, the run goes on"


def training(workdir: Path) -> list[dict[str, float]]:
    return [record for record in metrics(workdir) if "loss" in record]


@pytest.mark.parametrize("number", ["nan", pytest.param("inf", marks=pytest.mark.slow)])
def test_a_bad_gradient_is_skipped(one_process, start, tmp_path, table, number):
    """All before it is as undisturbed, it changes nothing but counters, and all batches come."""
    workdir = tmp_path / "run"
    spoiled = [{"BAD_GRADIENT": f"{number}:4-4"}]
    with start(
        workdir, 1, 4, "--config.checkpoint.every=1", "--config.checkpoint.keep_last=9", environments=spoiled
    ) as run:
        run.succeed()
    mine, theirs = training(workdir), training(one_process)
    assert mine[:4] == theirs[:4]
    assert [record["skipped"] for record in mine] == [0, 0, 0, 0, 1, 1]
    assert [record["skipped_in_a_row"] for record in mine] == [0, 0, 0, 0, 1, 0]
    assert mine[4]["gradient_norm"] is None and mine[4]["loss"] == theirs[4]["loss"]
    assert_same_checkpoint(workdir, one_process, 4)
    before, after = saved_arrays(workdir, 4), saved_arrays(workdir, 5)
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed == {"['training']['step']", "['training']['skipped']", "['training']['skipped_in_a_row']"}
    assert lost_rows(workdir, one_process) == 0
    table.add("NaN or Inf in a gradient", GOES_ON, lost_steps=[1], lost_rows=ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_bad_batch_is_skipped(start, tmp_path, table, number):
    """ImageBERT, whose regions are floating-point numbers."""
    data = tmp_path / "data"
    options = {"num_train": 40, "num_validation": 13, "num_test": 0, "regions": "drawn"}
    prepare("shapes", data, options=options, num_threads=2)
    with start(tmp_path / "run", 1, 4, environments=[{"BAD_BATCH": f"{number}:3-3"}], data=data, config=REGIONS) as run:
        run.succeed()
    records = training(tmp_path / "run")
    assert [record["skipped"] for record in records] == [0, 0, 0, 1, 1, 1]
    assert records[3]["loss"] is None and all(record["loss"] is not None for record in records[4:])
    table.add("NaN or Inf in a batch", GOES_ON, lost_steps=[1], lost_rows=ROWS)


@pytest.mark.slow
def test_a_streak_ends_the_run_and_names_the_step(one_process, start, tmp_path, table):
    """What was saved before it is whole, and the run goes on from there when the numbers are good again."""
    workdir = tmp_path / "run"
    options = ("--config.train.max_skipped_in_a_row=3", "--config.checkpoint.every=2", "--config.train.steps=60")
    with start(workdir, 1, 4, *options, environments=[{"BAD_GRADIENT": "nan:2-99"}]) as run:
        assert run.wait(120) == [1]
    last = run.text(0).splitlines()[-1]
    assert last.startswith(
        "error: Step 5: the gradient was not finite in the last 3 steps; the last checkpoint is step "
    )
    assert "Traceback" not in run.text(0)
    assert newest_step(workdir) in (2, 4) and f"is step {newest_step(workdir)}." in last
    assert saved_arrays(workdir, newest_step(workdir))["['training']['step']"] == newest_step(workdir)
    again = steps_begun(workdir) - newest_step(workdir)
    with start(workdir, 1, 4) as run:
        run.succeed()
    end = training(workdir)[-1]
    assert end["step"] == STEPS and end["skipped_in_a_row"] == 0
    outcome = "ends with one line that names the step; goes on from the last checkpoint"
    skipped = int(end["skipped"])  # before that checkpoint
    table.add("a streak of them", outcome, lost_steps=[again + skipped], lost_rows=ROWS * skipped)


def test_the_message_distinguishes_a_bad_start_from_a_run_that_diverges():
    never = _not_finite_message(20, 20, None)
    assert "in any step since the run began" in never and "None" not in never and "Lower" not in never
    diverged = _not_finite_message(20, 3, None)
    assert "the last 3 steps; there is no checkpoint. Lower optimizer learning rates" in diverged
    assert "the last checkpoint is step 1600." in _not_finite_message(1700, 20, 1600)
