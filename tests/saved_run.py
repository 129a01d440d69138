"""A run's folder with a checkpoint of a small model on drawn scenes: what loading needs, without training."""

import dataclasses
from pathlib import Path

from experiments.run.build import assemble
from experiments.run.config import RunConfig
from pixelbert_jax.training.checkpoint import Checkpoints
from tests.experiments.tiny_config import get_config


def save_run(workdir: Path, data_dir: Path, *, ema: bool = False, config: RunConfig | None = None) -> Path:
    """Make `workdir` and save step 0 of a config, the tests' tiny one if None.

    With `ema` there is a moving average that differs from the parameters everywhere.
    """
    import jax

    config = config or get_config()
    optimizer = dataclasses.replace(config.optimizer, ema_decay=0.5 if ema else 0.0)
    data = dataclasses.replace(config.data, data_dir=str(data_dir))
    config = dataclasses.replace(config, data=data, optimizer=optimizer)
    checkpoints = Checkpoints(workdir / "checkpoints")
    run = assemble(config, workdir, checkpoints, command="python -m experiments.pretrain --config=tiny.py")
    state = run.trainer.init()
    if ema:
        state = state._replace(ema=jax.tree.map(lambda array: array + 1, state.params))
    checkpoints.save(0, state, {**run.description, "init": {}})
    checkpoints.close()
    return workdir
