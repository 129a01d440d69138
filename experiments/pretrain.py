"""Pre-train Pixel-BERT or ImageBERT.

    python -m experiments.pretrain --config=FILE --workdir=FOLDER [--config.field=value ...]

A workdir that holds a run resumes it.
"""

import shlex
import sys

from etils import epath

from experiments.resilience.distributed import are_many, failing_at_once
from experiments.resilience.lock import locked
from experiments.run import build
from experiments.run.common_flags import WORKDIR, required
from experiments.run.config import RunConfig
from experiments.run.config_flags import run_main
from experiments.run.initialization import load_sources, start
from experiments.run.loop import train
from experiments.run.progress import say
from experiments.run.trackers import check_installed
from experiments.run.validation import run_folder, validate
from experiments.tasks.registry import recipe_of
from pixelbert_jax.training.checkpoint import Checkpoints
from pixelbert_jax.training.optimizer import parameter_count


def pretrain(config: RunConfig, workdir: epath.PathLike, command: str = "") -> None:
    """Train, or continue to train, the run in `workdir`; `command` is stored in its description."""
    with failing_at_once():
        workdir = run_folder(workdir)
        validate(config)
        check_installed(tensorboard=config.train.tensorboard, wandb=config.train.wandb)
        build.start_compilation_cache(config.train.compilation_cache)
        with locked(workdir):
            _pretrain(config, workdir, command)


def _pretrain(config: RunConfig, workdir: epath.Path, command: str) -> None:
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        keep_every=config.checkpoint.keep_every,
    )
    try:
        run = build.assemble(config, workdir, checkpoints, command)
        trainer, latest = run.trainer, checkpoints.latest
        if latest is None:
            answers = run.description["answers"]
            sources = load_sources(run.config.init, run.task, run.tokenizer, answers)
            state, run.description["init"] = start(trainer.init(), sources)
        else:
            state = checkpoints.restore(latest, trainer.abstract_state)
        say(f"{parameter_count(state.params) / 1e6:.1f} M parameters on {trainer.mesh.devices.size} device(s)")
        if latest is not None:
            say(f"resuming {workdir} at step {latest}")
        build.write_run_files(workdir, run)
        draw = None
        watched = config.train.tensorboard or config.train.wandb
        if watched and run.evaluation and recipe_of(config).report_metrics is not None and not are_many():
            from experiments.run.report import ExamplesDrawer  # matplotlib takes a second to import

            draw = ExamplesDrawer(run)
        state = train(
            trainer,
            run.train,
            run.evaluation,
            run.config,
            workdir,
            checkpoints,
            state,
            run.description,
            draw,
        )
    finally:
        checkpoints.close()
    step = int(state.step)
    if step < len(run.train.plan):
        say(f"asked to stop: step {step} is saved in {workdir}; the same command goes on from there")
        return
    say(f"done: {workdir} holds checkpoints/, metrics.jsonl, config.json, vocab.txt")
    if config.report and are_many():
        say("report.png is drawn by one process: give the same command to one alone")
    elif config.report:
        from experiments.run.report import report  # matplotlib takes a second to import

        report(run, state, workdir)


def main(config: RunConfig) -> None:
    """Entry point behind the flags."""
    required(WORKDIR)
    command = shlex.join(["python", "-m", "experiments.pretrain", *sys.argv[1:]])
    pretrain(config, WORKDIR.value, command)


if __name__ == "__main__":
    run_main(main, many_processes=True)
