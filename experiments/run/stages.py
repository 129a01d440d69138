"""The stages of a run: their plans, and one schedule over all of them."""

from collections.abc import Sequence

import numpy as np
import optax

from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.order.plan import Plan, PlannedSource, visits_of
from data_pipelines.order.staged_plan import StagedPlan
from data_pipelines.storage.records import Records, open_records
from experiments.run.canvases import canvas_of
from experiments.run.config import RunConfig, StageConfig
from experiments.run.progress import say
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.training.optimizer import Schedule, make_schedule

Sources = list[tuple[SourceConfig, Records]]


def stages_of(config: RunConfig) -> tuple[StageConfig, ...]:
    """The stages that a config lists, or its only stage."""
    only = StageConfig(config.data.train, config.train.epochs, config.train.steps)
    return config.stages or (only,)


def open_sources(data: DataConfig, sources: Sequence[SourceConfig]) -> Sources:
    """The records of each split; "a+b" gives two."""
    return [
        (source, open_records(data.data_dir, source.name, split))
        for source in sources
        for split in source.split.split("+")
    ]


def make_plan(config: RunConfig, sources_of_stage: Sequence[Sources]) -> tuple[StagedPlan, Schedule]:
    """The order of all batches, and the factor on the learning rates at each step.

    Raises:
      ConfigError: a stage is shorter than one step.
    """
    plans, schedules = [], []
    for number, (stage, sources) in enumerate(zip(stages_of(config), sources_of_stage, strict=True)):
        plan = Plan(
            [
                PlannedSource(
                    canvas_of(records, config.data),
                    visits_of(records.index.num_texts, config.data.texts_per_image, config.data.epoch),
                    source.weight,
                )
                for source, records in sources
            ],
            config.data.all_canvases,
            rows=config.data.batch_images,
            seed=_seed(config.seed, number),
            steps=stage.steps,
            epochs=stage.epochs,
        )
        name = f"stages.{number}" if config.stages else "train"
        if not plan.steps:
            raise ConfigError(
                f"{name}.epochs={stage.epochs} is less than one step: an epoch has {plan.steps_per_epoch:.2f} steps "
                f"of data.batch_images={config.data.batch_images}; raise epochs or lower batch_images."
            )
        plans.append(plan)
        schedules.append(make_schedule(stage.schedule or config.optimizer.schedule, plan.steps, plan.steps_per_epoch))
        say(_summary(config, number, sources, plan))
    staged = StagedPlan(plans, [len(sources) for sources in sources_of_stage])
    return staged, schedules[0] if len(schedules) == 1 else optax.join_schedules(schedules, staged.boundaries)


def _summary(config: RunConfig, number: int, sources: Sources, plan: Plan) -> str:
    images = sum(len(records) for _, records in sources)
    stage = f"stage {number + 1}: " if config.stages else ""
    line = f"{stage}{images} images, {plan.steps_per_epoch:.1f} steps per epoch, {plan.steps} steps"
    if config.data.regions:
        return f"{line}; {config.data.regions} regions per image"
    canvases = config.data.all_canvases
    return f"{line}; canvases {', '.join('x'.join(map(str, canvases[c])) for c in plan.used_canvases)}"


def _seed(seed: int, stage: int) -> int:
    """Seed of a stage's order: no two stages pass over the same data in the same order."""
    return seed if stage == 0 else int(np.random.SeedSequence([seed, stage]).generate_state(1)[0])
