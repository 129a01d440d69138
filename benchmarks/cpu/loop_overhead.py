"""The train loop (data, metrics, checkpoints) against the bare compiled steps, in turn.

    python -m data_pipelines.prepare shapes --data_dir=data
    python -m benchmarks.cpu.loop_overhead --config=experiments/configs/pretrain_quickstart.py \
        --config.data.data_dir=data
    python -m data_pipelines.prepare coco_captions --source_dir=/path/to/coco --data_dir=data
    python -m benchmarks.cpu.loop_overhead --config=experiments/configs/pretrain_coco_tiny.py \
        --config.data.data_dir=data --config.data.vocabulary=/path/to/bert-base-uncased/vocab.txt --loop_steps=50

Each turn of the loop is a run of `--loop_steps` steps in a fresh folder that ends with a checkpoint and waits until it
is whole; no evaluation images are evaluated. The bare steps take one batch of each canvas again and again, in the
plan's order. Prints one JSON object: the share of the bare rate that the loop reaches, and `extra_seconds`, where the
loop's time beyond that of the bare steps goes, a turn:

    first_batch   until the first batch is there, begun with the loop
    input_wait    waiting for the other ones
    metrics       lines of figures
    checkpoint    starting to write it, and waiting until it is written
    rest          what the steps take longer; on a CPU mostly because batches are made by the cores that compute

`input_cpu_seconds` is what making them costs, and `limit_by_input` the share of the bare rate that it leaves where the
steps keep all cores busy. `at_the_configs_interval` is the share with the time of `checkpoint` spread over the steps
that the config leaves between two, and `first_batch`, once a run, left out.
"""

import contextlib
import dataclasses
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
from absl import flags
from etils import epath

from benchmarks.harness.measuring import machine, report, rounded
from benchmarks.harness.turns import TURNS, compared, in_turn, spread
from experiments.run import build, loop
from experiments.run.common_flags import OUTPUT
from experiments.run.config import EvaluationConfig, RunConfig
from experiments.run.config_flags import run_main
from experiments.run.metric_writer import MetricWriter
from pixelbert_jax.training.checkpoint import Checkpoints

_STEPS = flags.DEFINE_integer("loop_steps", 100, "Steps a turn.", lower_bound=2)
WAITS = ("first_batch", "input_wait", "metrics", "checkpoint")


class Account:
    """Seconds by what they went to."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._open: set[tuple[int, str]] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def spent(self, on: str, clock: Callable[[], float] = time.perf_counter) -> Iterator[None]:
        """A block whose time counts, unless it lies within another one of the same kind."""
        key = threading.get_ident(), on
        if key in self._open:
            yield
            return
        self._open.add(key)
        begun = clock()
        try:
            yield
        finally:
            self._open.remove(key)
            with self._lock:
                self.seconds[on] += clock() - begun

    def timed(self, on: str, function: Callable, clock: Callable[[], float] = time.perf_counter) -> Callable:
        """The function, its time counted."""

        def call(*arguments: Any, **more: Any) -> Any:
            with self.spent(on, clock):
                return function(*arguments, **more)

        return call

    @contextlib.contextmanager
    def watching(self, checkpoints: Checkpoints) -> Iterator[None]:
        """A block in which the waits of `experiments.run.loop.train` count."""
        with contextlib.ExitStack() as patches:
            for owner, on, names in (
                (MetricWriter, "metrics", ("write", "flush", "close")),
                (checkpoints, "checkpoint", ("save", "wait")),
            ):
                for name in names:
                    patched = self.timed(on, getattr(owner, name))
                    patches.enter_context(mock.patch.object(owner, name, patched))
            patches.enter_context(mock.patch.object(loop, "batches", self._counted(loop.batches)))
            yield

    def _counted(self, batches: Callable) -> Callable:
        def begin(*arguments: Any) -> "_Counted":
            with self.spent("first_batch"):
                return _Counted(batches(*arguments), self)

        return begin


class _Counted:
    """An iterator with `close()`, the waits for its elements counted, that for the first one apart."""

    def __init__(self, loaded: Any, account: Account) -> None:
        self._loaded, self._account, self._on = loaded, account, "first_batch"

    def __next__(self) -> Any:
        on, self._on = self._on, "input_wait"
        with self._account.spent(on):
            return next(self._loaded)

    def close(self) -> None:
        """End what loads."""
        self._loaded.close()


def measure(config: RunConfig, steps: int, turns: int) -> dict[str, Any]:
    """Time both in turn; the steps are compiled before."""
    every = config.checkpoint.every
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, workers=0),  # the time of other processes would not be counted
        train=dataclasses.replace(config.train, steps=steps, epochs=0.0, compilation_cache=""),
        checkpoint=dataclasses.replace(config.checkpoint, every=steps),
        evaluation=EvaluationConfig(every=0),
        report=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        first = Checkpoints(epath.Path(folder) / "first")
        run = build.assemble(config, epath.Path(folder), first)
        first.close()
        trainer, stream = run.trainer, run.train
        canvases = [stream.plan[step].canvas for step in range(steps)]
        batch_of = {canvas: _batch(run, canvases.index(canvas)) for canvas in sorted(set(canvases))}
        accounts: list[Account] = []
        processor: dict[str, list[float]] = {"loop": [], "bare": []}

        def bare() -> None:
            state = trainer.init()
            for canvas in canvases:
                state, _ = trainer.train_step(state, batch_of[canvas])
            jax.block_until_ready(state)

        def looped() -> None:
            account = Account()
            workdir = epath.Path(folder) / str(len(accounts))
            accounts.append(account)
            workdir.mkdir()
            checkpoints = Checkpoints(workdir / "checkpoints")
            counted = dataclasses.replace(
                stream, make_batch=account.timed("input_cpu", stream.make_batch, time.thread_time)
            )
            with account.watching(checkpoints):
                loop.train(trainer, counted, {}, run.config, workdir, checkpoints, trainer.init(), run.description)
                checkpoints.close()

        def with_processor(name: str, way: Callable[[], None]) -> Callable[[], None]:
            def call() -> None:
                begun = time.process_time()
                way()
                processor[name].append(time.process_time() - begun)

            return call

        seconds = in_turn(
            {"loop": with_processor("loop", looped), "bare": with_processor("bare", bare)}, turns, warm_up=1
        )
    found = compared(seconds, "loop", "bare")
    waits = [dict(account.seconds) for account in accounts[1:]]
    processor = {name: values[1:] for name, values in processor.items()}
    return {
        **machine(trainer.mesh),
        "steps": steps,
        "parameters": sum(x.size for x in jax.tree.leaves(trainer.abstract_state.params)),
        "seconds": found["seconds"],
        "processor_seconds": {name: spread(values) for name, values in processor.items()},
        "loop_over_bare_rate": spread([b / a for a, b in zip(seconds["loop"], seconds["bare"], strict=True)]),
        "bare_over_loop_processor_seconds": spread(
            [b / a for a, b in zip(processor["loop"], processor["bare"], strict=True)]
        ),
        "at_the_configs_interval": spread(at_interval(seconds, waits, min(1.0, steps / every))),
        "checkpoint_every": every,
        "extra_seconds": parts_of(seconds, waits),
        "input_cpu_seconds": rounded(statistics.median(turn["input_cpu"] for turn in waits)),
        "limit_by_input": spread(
            [b / (b + turn["input_cpu"]) for b, turn in zip(processor["bare"], waits, strict=True)]
        ),
    }


def parts_of(seconds: dict[str, list[float]], waits: list[dict[str, float]]) -> dict[str, float]:
    """The median of each part of the loop's time beyond that of the bare steps, and of what is left."""
    rows = []
    for looped, bare, turn in zip(seconds["loop"], seconds["bare"], waits, strict=True):
        row = {name: turn.get(name, 0.0) for name in WAITS}
        rows.append(row | {"rest": looped - bare - sum(row.values())})
    return {name: rounded(statistics.median(row[name] for row in rows)) for name in rows[0]}


def at_interval(seconds: dict[str, list[float]], waits: list[dict[str, float]], share: float) -> list[float]:
    """The rate over the bare one of each turn, with a part of a checkpoint and no wait for the first batch."""
    return [
        bare / (looped - turn.get("first_batch", 0.0) - (1 - share) * turn.get("checkpoint", 0.0))
        for looped, bare, turn in zip(seconds["loop"], seconds["bare"], waits, strict=True)
    ]


def _batch(run: build.Run, step: int) -> Any:
    """The batch of a step, on the devices."""
    loaded = loop.batches(run.train, run.trainer, run.config, step)
    batch = next(loaded)
    loaded.close()
    return batch


def main(config: RunConfig) -> None:
    """Entry point behind the flags."""
    report(measure(config, _STEPS.value, TURNS.value), OUTPUT.value)


if __name__ == "__main__":
    run_main(main)
