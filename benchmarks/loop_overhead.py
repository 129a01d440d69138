"""The train loop (data, metrics, checkpoints) against the bare compiled step on one batch, in turn.

    python -m data_pipelines.prepare shapes --data_dir=data
    python -m benchmarks.loop_overhead --config=experiments/configs/pretrain_quickstart.py --config.data.data_dir=data

Each turn of the loop is a run of `--loop_steps` steps in a fresh folder that ends with a checkpoint; no held-out
pictures are evaluated. Prints one JSON object with the share of the bare step's rate that the loop reaches.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from typing import Any

import jax
from absl import flags
from etils import epath

from benchmarks.measuring import machine, report
from benchmarks.turns import TURNS, compared, in_turn, spread
from experiments import assembly
from experiments.common_flags import OUTPUT
from experiments.config import EvaluationConfig, RunConfig
from experiments.config_flags import run_main
from experiments.loop import batches, train
from pixelbert_jax.training.checkpoint import Checkpoints

_STEPS = flags.DEFINE_integer("loop_steps", 100, "Steps a turn.", lower_bound=2)


def measure(config: RunConfig, steps: int, turns: int) -> dict[str, Any]:
    """Time both in turn; the step is compiled before."""
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, steps=steps, epochs=0.0, compilation_cache=""),
        evaluation=EvaluationConfig(every=0),
        report=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        first = Checkpoints(epath.Path(folder) / "first")
        run = assembly.assemble(config, epath.Path(folder), first)
        first.close()
        trainer = run.trainer
        loaded = batches(run.train, trainer, run.config)
        batch = next(loaded)
        loaded.close()
        number = 0

        def bare() -> None:
            state = trainer.init()
            for _ in range(steps):
                state, _ = trainer.train_step(state, batch)
            jax.block_until_ready(state)

        def loop() -> None:
            nonlocal number
            number += 1
            workdir = epath.Path(folder) / str(number)
            workdir.mkdir()
            checkpoints = Checkpoints(workdir / "checkpoints")
            train(trainer, run.train, {}, run.config, workdir, checkpoints, trainer.init(), run.description)
            checkpoints.close()

        ways: dict[str, Callable[[], Any]] = {"loop": loop, "bare": bare}
        seconds = in_turn(ways, turns, warm_up=1)
    found = compared(seconds, "loop", "bare")
    shares = [b / a for a, b in zip(seconds["loop"], seconds["bare"], strict=True)]
    return {
        **machine(trainer.mesh),
        "steps": steps,
        "parameters": sum(x.size for x in jax.tree.leaves(trainer.abstract_state.params)),
        "seconds": found["seconds"],
        "loop_over_bare_rate": spread(shares),
    }


def main(config: RunConfig) -> None:
    """Entry point behind the flags."""
    report(measure(config, _STEPS.value, TURNS.value), OUTPUT.value)


if __name__ == "__main__":
    run_main(main)
