"""`experiments.pretrain` that also writes what each process's devices got: a digest of every row of every batch.

Environment variables change it: PROGRAMS is a folder where compiled programs are kept, RECORDS one for the records of a
workdir in a bucket. STEP_SECONDS makes steps slow, BLOCK_AT makes the input of a step wait for ever, FAIL_AT makes it
fail. GATE_AT makes a step wait at `launching.gate`, HOLD_SAVE makes the checkpoint of a step wait for ever before the
rename that makes it whole. BAD_GRADIENT=nan:3-5 spoils the gradients of those steps and leaves their losses alone,
BAD_BATCH=inf:3-5 the features of regions.
"""

import dataclasses
import faulthandler
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax._src import cache_key

from experiments.pretrain import main
from experiments.run import build
from experiments.run.common_flags import WORKDIR
from experiments.run.config_flags import run_main
from pixelbert_jax.training.sharding import batch_sharding
from tests.multi_process.launching import gate


def records_folder() -> Path:
    """Where the rows are recorded: in the workdir, or where RECORDS says because that is in a bucket."""
    return Path(os.environ.get("RECORDS") or WORKDIR.value)


def rows_on_devices(batch: dict[str, jax.Array]) -> dict[int, str]:
    """Digest of each global row that lies on this process's devices, over all arrays of the batch."""
    digests: dict[int, hashlib.blake2b] = {}
    for name in sorted(batch):
        for shard in batch[name].addressable_shards:
            first = shard.index[0].indices(batch[name].shape[0])[0]
            for index, row in enumerate(np.asarray(shard.data)):
                digests.setdefault(first + index, hashlib.blake2b(digest_size=8)).update(row.tobytes())
    return {row: digest.hexdigest() for row, digest in digests.items()}


def bad_number(variable: str, step: int) -> float:
    """The number that spoils a step: NaN or infinity, or 0 if the environment does not spoil this step."""
    number, _, bounds = os.environ.get(variable, "0:0-0").partition(":")
    first, last = map(int, bounds.split("-"))
    return float(number) if first <= step <= last else 0.0


@jax.custom_vjp
def with_gradient(loss: jax.Array, bad: jax.Array) -> jax.Array:
    """The loss itself; its gradient is multiplied by 1 + bad."""
    return loss


with_gradient.defvjp(lambda loss, bad: (loss, bad), lambda bad, gradient: (gradient * (1 + bad), None))


class SpoiledTask:
    """A task whose batches have one more array, which spoils the gradient."""

    def __init__(self, task):
        self._task = task

    def __getattr__(self, name):
        return getattr(self._task, name)

    def loss(self, module, batch, totals, key):
        loss, sums = self._task.loss(module, batch, totals, key)
        return (loss if key is None else with_gradient(loss, batch["bad"].max())), sums


def recorded(trainer):
    """The trainer with its steps recorded, slowed and spoiled."""

    def train_step(state, batch):
        line = {"step": int(state.step), "rows": rows_on_devices(batch)}
        if "BAD_GRADIENT" in os.environ:
            rows = len(next(iter(batch.values())))
            bad = np.full(rows, bad_number("BAD_GRADIENT", line["step"]), np.float32)
            batch = batch | {"bad": jax.device_put(bad, batch_sharding(trainer.mesh))}
        with (records_folder() / f"rows-{jax.process_index()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
        if line["step"] == int(os.environ.get("GATE_AT", "-1")):
            wait_at(gate(records_folder()))
        return trainer.train_step(state, batch)

    return dataclasses.replace(trainer, train_step=train_step)


def wait_at(file: Path) -> None:
    """Make a file, and wait until someone removes it."""
    file.touch()
    while file.exists():
        time.sleep(0.01)


def hold(step: str, rename: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """A rename that never happens if the new name is that of the step, that is, of a whole checkpoint."""

    def rename_or_wait(source: str, target: str) -> None:
        while Path(target).name == step:
            time.sleep(1)
        rename(source, target)

    return rename_or_wait


@dataclasses.dataclass(frozen=True)
class Blocking:
    """Makes a task's batches, spoiled or up to a step."""

    batches: object

    def __call__(self, plan):
        if plan.step == int(os.environ.get("BLOCK_AT", "-1")):
            time.sleep(1000)
        if plan.step == int(os.environ.get("FAIL_AT", "-1")):
            raise RuntimeError("out of luck")
        batch = self.batches(plan)
        if bad := bad_number("BAD_BATCH", plan.step):
            batch |= {"regions": np.full_like(batch["regions"], bad)}
        return batch


class Disturbed:
    """A task's recipe whose task and batches are disturbed as the environment variables state."""

    def __init__(self, recipe):
        self._recipe = recipe

    def __getattr__(self, name):
        return getattr(self._recipe, name)

    def make_task(self, *args):
        task = self._recipe.make_task(*args)
        return SpoiledTask(task) if "BAD_GRADIENT" in os.environ else task

    def make_batches(self, *args, **kwargs):
        return Blocking(self._recipe.make_batches(*args, **kwargs))


def keep_programs(folder: str) -> None:
    """Compile once for all processes of all runs.

    On the CPU JAX itself does not: there a program's key depends on the process.
    """
    cache_key._hash_accelerator_config = lambda *_: None
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_share_binary_between_hosts", True)


if __name__ == "__main__":
    keep_programs(os.environ["PROGRAMS"])
    faulthandler.register(signal.SIGUSR1)  # the tests print where a run hangs
    if "HOLD_SAVE" in os.environ:
        os.rename = hold(os.environ["HOLD_SAVE"], os.rename)
    make_trainer, recipe_of = build.make_trainer, build.recipe_of
    build.make_trainer = lambda *args, **kwargs: recorded(make_trainer(*args, **kwargs))
    build.recipe_of = lambda config: Disturbed(recipe_of(config))
    run_main(main, many_processes=True)
