"""`experiments.pretrain` that also writes what each process's devices got: a digest of every row of every batch.

The environment says more: PROGRAMS is a folder where compiled programs are kept, STEP_SECONDS makes steps slow,
BLOCK_AT makes the input of a step wait for ever, FAIL_AT makes it fail.
"""

import dataclasses
import faulthandler
import hashlib
import json
import os
import signal
import time
from pathlib import Path

import jax
import numpy as np
from jax._src import cache_key

from experiments import assembly
from experiments.common_flags import WORKDIR
from experiments.config_flags import run_main
from experiments.pretrain import main


def rows_on_devices(batch: dict[str, jax.Array]) -> dict[int, str]:
    """Digest of each global row that lies on this process's devices, over all arrays of the batch."""
    digests: dict[int, hashlib.blake2b] = {}
    for name in sorted(batch):
        for shard in batch[name].addressable_shards:
            first = shard.index[0].indices(batch[name].shape[0])[0]
            for place, row in enumerate(np.asarray(shard.data)):
                digests.setdefault(first + place, hashlib.blake2b(digest_size=8)).update(row.tobytes())
    return {row: digest.hexdigest() for row, digest in digests.items()}


def recorded(trainer):
    """The trainer, its steps written down and slowed."""

    def train_step(state, batch):
        line = {"step": int(state.step), "rows": rows_on_devices(batch)}
        with (Path(WORKDIR.value) / f"rows-{jax.process_index()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
        return trainer.train_step(state, batch)

    return dataclasses.replace(trainer, train_step=train_step)


@dataclasses.dataclass(frozen=True)
class Blocking:
    """Makes a task's batches, up to one."""

    batches: object

    def __call__(self, plan):
        if plan.step == int(os.environ.get("BLOCK_AT", "-1")):
            time.sleep(1000)
        if plan.step == int(os.environ.get("FAIL_AT", "-1")):
            raise RuntimeError("out of luck")
        return self.batches(plan)


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
    faulthandler.register(signal.SIGUSR1)  # the tests ask where a run hangs
    make_trainer, make_batches = assembly.make_trainer, assembly.make_batches
    assembly.make_trainer = lambda *args, **kwargs: recorded(make_trainer(*args, **kwargs))
    assembly.make_batches = lambda *args, **kwargs: Blocking(make_batches(*args, **kwargs))
    run_main(main, many_processes=True)
