"""The train loop, the same for every task.

The order within a step is fixed: evaluation, checkpoint, next batch, step, metrics of the previous step. All metrics up
to a checkpoint are on the disk before it is written, so a resumed run continues them without gap or repeat.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from data_pipelines.batches.loader import load_batches
from data_pipelines.batches.shared import PROBLEMS
from data_pipelines.order.plan import BatchPlan
from experiments.resilience.distributed import failing_at_once, is_first
from experiments.resilience.preemption import StopRequest
from experiments.resilience.skipped_records import SkippedRecords
from experiments.resilience.watchdog import Watchdog
from experiments.resilience.worker_signals import Undisturbed
from experiments.run.best_checkpoint import BestCheckpoint
from experiments.run.config import RunConfig
from experiments.run.metric_writer import MetricWriter
from experiments.run.profiling import Profile
from experiments.run.progress import Progress, say
from experiments.run.utilization import Utilization, peak_memory
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.task import Sums
from pixelbert_jax.training.checkpoint import Checkpoints
from pixelbert_jax.training.optimizer import learning_rates
from pixelbert_jax.training.sharding import batch_sharding
from pixelbert_jax.training.step import Trainer, TrainState

MakeBatch = Callable[[BatchPlan], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Stream:
    """A plan, the maker of its batches, and the first steps of the stages, at which the optimizer restarts.

    Damaged records are skipped, and counted over all passes of this process. Metrics in `unmeasurable` have no meaning
    on this data: they are NaN, and null in metrics.jsonl.
    """

    plan: Sequence[BatchPlan]
    make_batch: MakeBatch
    restarts: tuple[int, ...] = ()
    skipped: SkippedRecords = dataclasses.field(default_factory=SkippedRecords)
    unmeasurable: tuple[str, ...] = ()


def batches(stream: Stream, trainer: Trainer, config: RunConfig, start: int = 0) -> Iterator[dict[str, jax.Array]]:
    """The stream's batches from step `start` on, on the devices.

    Raises:
      DataError: more records are damaged than data.max_bad_records.
    """
    sharding = batch_sharding(trainer.mesh)

    def place(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        stream.skipped.add(batch.pop(PROBLEMS, ()), config.data.max_bad_records)
        return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}

    make_batch = Undisturbed(stream.make_batch) if config.data.workers else stream.make_batch
    return load_batches(stream.plan, make_batch, config.data, start=start, place=place)


def evaluate(
    trainer: Trainer, state: TrainState, stream: Stream, config: RunConfig, watchdog: Watchdog | None = None
) -> dict[str, float]:
    """Evaluation metrics: sums over all batches of the stream, then averages. A watchdog checks each wait."""
    # Threads only: processes would take longer to start than most evaluations take.
    threads_only = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=0))
    loaded = batches(stream, trainer, threads_only)
    try:
        waited = watchdog.each(loaded, "waiting for an evaluation batch") if watchdog else loaded
        totals = total_sums(trainer.eval_step(state, batch) for batch in waited)
    finally:
        loaded.close()
    averages = {name: float(total / max(count, 1)) for name, (total, count) in totals.items()}
    return averages | dict.fromkeys(stream.unmeasurable, math.nan)


def total_sums(of_batches: Iterable[Sums]) -> dict[str, np.ndarray]:
    """Each metric's sum and count over all batches, float64, in the order of the names."""
    totals: dict[str, np.ndarray] = {}
    for of_batch in of_batches:
        for name, sums in jax.device_get(of_batch).items():
            totals[name] = totals.get(name, 0) + np.array(sums, np.float64)
    return dict(sorted(totals.items()))


def train(
    trainer: Trainer,
    stream: Stream,
    eval_streams: dict[str, Stream],
    config: RunConfig,
    workdir: epath.Path,
    checkpoints: Checkpoints,
    state: TrainState,
    description: dict[str, Any],
    draw: Callable[[TrainState], np.ndarray] | None = None,
) -> TrainState:
    """Train from the state's step to the end of the plan, or until a signal stops the run; the last step is saved.

    Args:
      trainer: the compiled functions.
      stream: training batches; its length is the last step.
      eval_streams: evaluation batches, by the prefix of their metrics (`eval/...`).
      config: the run.
      workdir: where metrics.jsonl lies.
      checkpoints: where to save.
      state: the state to begin from; it is donated.
      description: the description of each checkpoint.
      draw: an image, HxWx3 uint8, of what the model predicts; for TensorBoard and Weights & Biases at each evaluation.

    Raises:
      ConfigError: too many steps in a row had a gradient that is not finite, the workdir cannot be written,
        train.profile begins after the last step, or the package of train.tensorboard or train.wandb is missing.
    """
    start, total = int(state.step), len(stream.plan)
    utilization = Utilization(trainer, config.model.dtype)
    base_rates = learning_rates(
        config.optimizer, getattr(config.model, "backbone", None), trainer.abstract_state.params
    )
    clock = _Clock()
    profile = Profile(config.train.profile, workdir, start, total, clock.paused)
    writer = MetricWriter(
        workdir / "metrics.jsonl",
        resume_step=start,
        tensorboard=config.train.tensorboard,
        wandb=config.train.wandb,
        config=description["config"],
        writes=is_first(),
    )
    say(utilization.description)
    progress = Progress(total, start)
    best = BestCheckpoint(workdir, config.checkpoint.best, start) if config.checkpoint.best else None
    watchdog = Watchdog(config.train.stall_report, config.train.stall_end)
    pending: tuple[int, dict[str, jax.Array], float] | None = None  # with the step's operations per device

    def flush() -> None:
        nonlocal pending
        if pending is None:
            return
        (step, computed, operations), pending = pending, None
        metrics = {name: value.item() for name, value in jax.device_get(computed).items()}
        if metrics["skipped_in_a_row"] >= config.train.max_skipped_in_a_row:
            checkpoints.wait()
            raise ConfigError(_not_finite_message(step, metrics["skipped_in_a_row"], checkpoints.latest))
        metrics |= dict.fromkeys(stream.unmeasurable, math.nan)
        for group, rate in base_rates.items():
            metrics[f"optimizer/learning_rate_{group}"] = rate * metrics["learning_rate_factor"]
        if rows := metrics.pop("rows_skipped"):
            writer.write(step, {"rows_skipped": rows})
        pairs = config.data.batch_images * config.data.texts_per_image
        rates = clock.rates(step, pairs)
        rates |= utilization.rates(operations, rates["rate/pairs_per_second"] / pairs)
        progress.update(
            step,
            f"loss {metrics['loss']:.3f}  {rates['rate/pairs_per_second']:.0f} pairs/s  "
            f"MFU {rates['rate/model_flops_utilization']:.1%}  waiting for data {rates['rate/data_wait_share']:.0%}",
        )
        if step % config.train.log_every == 0 or step == total:
            writer.write(step, metrics | rates | peak_memory(trainer))

    def evaluate_all(step: int) -> None:
        metrics = {}
        for name, eval_stream in eval_streams.items():
            for key, value in evaluate(trainer, state, eval_stream, config, watchdog).items():
                metrics[f"{name}/{key}"] = value
        writer.write(step, metrics)
        if draw is not None and writer.takes_images:
            writer.write_image(step, "eval/examples", draw(state))
        if best is not None:
            best.offer(step, metrics, state, description)
        say(f"step {step}: " + "  ".join(f"{key} {value:.3f}" for key, value in metrics.items()))

    loaded = batches(stream, trainer, config, start)
    with contextlib.ExitStack() as last:
        stop = last.enter_context(StopRequest())
        closing = [*([best.close] if best else []), checkpoints.wait, writer.close, progress.close, loaded.close]
        for finish in (*closing, profile.end, watchdog.close):
            last.callback(finish)  # the last one is called first
        last.enter_context(failing_at_once())
        for step in range(start, total + 1):
            fresh, stops = step > start, stop.reached(step)
            if fresh and config.evaluation.every and (step % config.evaluation.every == 0 or step == total):
                flush()
                with clock.paused():
                    evaluate_all(step)
            due = fresh and (step % config.checkpoint.every == 0 or step == total)
            if due or (stops and (fresh or checkpoints.latest is None)):
                flush()
                writer.flush()
                with clock.paused():
                    checkpoints.save(step, state, description)
            if stops or step == total:
                break
            if step in stream.restarts:
                state = trainer.restart(state)
            profile.before(step + 1, state)
            with clock.waiting(), watchdog.waiting(f"waiting for the batch of step {step + 1}"):
                batch = next(loaded)
            with watchdog.waiting(f"compiling or starting step {step + 1}", patience=10, ends=False):
                with jax.profiler.StepTraceAnnotation("train", step_num=step + 1):
                    state, metrics = trainer.train_step(state, batch)
                operations = utilization.operations(batch)
            with watchdog.waiting(f"step {step}", patience=10):
                flush()
            pending = (step + 1, metrics, operations)
            profile.after(step + 1, state)
            checkpoints.check()
    return state


class _Clock:
    """Pairs per second and the share of time spent waiting for data, since the last reading."""

    def __init__(self) -> None:
        self._since, self._step, self._waited, self._out = time.monotonic(), None, 0.0, 0.0

    def waiting(self) -> "_Span":
        return _Span(self, "_waited")

    def paused(self) -> "_Span":
        return _Span(self, "_out")

    def rates(self, step: int, pairs_per_step: int) -> dict[str, float]:
        now = time.monotonic()
        spent = max(now - self._since - self._out, 1e-9)
        steps = 1 if self._step is None else step - self._step
        metrics = {
            "rate/pairs_per_second": steps * pairs_per_step / spent,
            "rate/data_wait_share": min(1.0, self._waited / spent),
        }
        self._since, self._step, self._waited, self._out = now, step, 0.0, 0.0
        return metrics


class _Span:
    """Adds the time of a `with` block to one of a clock's sums."""

    def __init__(self, clock: _Clock, name: str) -> None:
        self._clock, self._name = clock, name

    def __enter__(self) -> None:
        self._begun = time.monotonic()

    def __exit__(self, *_: object) -> None:
        spent = time.monotonic() - self._begun
        setattr(self._clock, self._name, getattr(self._clock, self._name) + spent)


def _not_finite_message(step: int, skipped: int, saved: int | None) -> str:
    """The error of a run whose gradients are not finite. If no gradient ever was finite, the cause is another one."""
    if skipped >= step:
        return (
            f"Step {step}: the gradient was not finite in any step since the run began, so nothing was learned. What "
            "it begins with is not finite or far too large: look at the init.* weights, regions' features and "
            "model.dtype; learning rates have no part in it."
        )
    last = "there is no checkpoint" if saved is None else f"the last checkpoint is step {saved}"
    return (
        f"Step {step}: the gradient was not finite in the last {skipped} steps; {last}. Lower optimizer learning rates "
        "or optimizer.clip_norm."
    )
