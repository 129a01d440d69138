"""How many steps a run has, and on which canvases: from prepared data, or from a given number of images."""

import dataclasses
from collections.abc import Sequence

from data_pipelines.errors import DataError
from data_pipelines.images.resize import Canvas
from experiments.run.config import RunConfig
from experiments.run.stages import make_plan, open_sources, stages_of


@dataclasses.dataclass(frozen=True)
class Length:
    """Steps of a whole run."""

    steps: int
    by_canvas: dict[Canvas, float] | None  # None: not known
    source: str  # where the number comes from


def find_length(config: RunConfig, visits_per_epoch: int) -> Length | None:
    """The run's length; None: the data is not prepared and no number is given.

    Args:
      config: the run.
      visits_per_epoch: images (visits) per epoch; 0: those of the prepared data.
    """
    canvases = config.data.all_canvases
    if visits_per_epoch:
        steps_per_epoch = visits_per_epoch / config.data.batch_images
        steps = sum(stage.steps or int(stage.epochs * steps_per_epoch) for stage in stages_of(config))
        return Length(steps, _only(canvases, steps), f"--visits_per_epoch={visits_per_epoch}")
    try:
        plan, _ = make_plan(config, [open_sources(config.data, stage.train) for stage in stages_of(config)])
    except DataError:
        each = [stage.steps for stage in stages_of(config)]
        return Length(sum(each), _only(canvases, sum(each)), "the config's steps") if all(each) else None
    by_canvas: dict[Canvas, float] = {}
    for stage in plan.plans:
        for canvas, count in zip(canvases, stage.per_epoch, strict=True):
            if count:
                by_canvas[canvas] = by_canvas.get(canvas, 0) + len(stage) * count / sum(stage.per_epoch)
    return Length(len(plan), by_canvas, f"the data in {config.data.data_dir}")


def _only(canvases: Sequence[Canvas], steps: int) -> dict[Canvas, float] | None:
    """All steps on the only canvas; None: there are several."""
    return {canvases[0]: float(steps)} if len(canvases) == 1 else None
