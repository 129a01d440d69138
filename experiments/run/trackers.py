"""Where metrics go besides metrics.jsonl: TensorBoard and Weights & Biases, both optional."""

import importlib.util
import secrets
from typing import Any, Protocol

import numpy as np
from etils import epath

from data_pipelines.storage.atomic_files import write_atomically
from data_pipelines.storage.paths import is_local
from experiments.resilience.disk_errors import writing
from pixelbert_jax.errors import ConfigError


class Tracker(Protocol):
    """Takes the metrics and images of a run."""

    def scalars(self, step: int, metrics: dict[str, Any]) -> None:
        """Add the metrics of a step."""

    def image(self, step: int, name: str, image_HxWx3: np.ndarray) -> None:
        """Add an image, uint8."""

    def close(self) -> None:
        """Finish the files."""


def check_installed(*, tensorboard: bool = False, wandb: str = "") -> None:
    """Raise ConfigError if `train.tensorboard` or `train.wandb` is set, but its package is missing."""
    for field, package, is_set in (("tensorboard", "tensorboardX", tensorboard), ("wandb", "wandb", bool(wandb))):
        if is_set and importlib.util.find_spec(package) is None:
            raise ConfigError(f"train.{field} is set but {package} is missing; pip install 'pixelbert_jax[{field}]'.")


class TensorBoard:
    """Writes to WORKDIR/tensorboard."""

    def __init__(self, workdir: epath.Path, resume_step: int) -> None:
        """Open the files; what came after `resume_step` is hidden. Raises ConfigError if tensorboardX is missing."""
        check_installed(tensorboard=True)
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def scalars(self, step: int, metrics: dict[str, Any]) -> None:
        """Add the metrics of a step."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image_HxWx3: np.ndarray) -> None:
        """Add an image, uint8."""
        self._writer.add_image(name, image_HxWx3, step, dataformats="HWC")

    def close(self) -> None:
        """Finish the files."""
        self._writer.close()


class Wandb:
    """Writes to a project of Weights & Biases. A resumed run keeps its id, which is in WORKDIR/wandb_id.txt.

    Weights & Biases ignores steps that it has. They have the same metrics: a resumed run repeats them exactly.
    """

    def __init__(self, workdir: epath.Path, project: str, config: dict[str, Any]) -> None:
        """Begin or continue the run in `project`; `config` is its configuration.

        Raises:
          ConfigError: wandb is missing or refuses the run, or the workdir cannot be written.
        """
        check_installed(wandb=project)
        import wandb

        file = workdir / "wandb_id.txt"
        with writing(file):
            if not file.exists():
                write_atomically(file, secrets.token_hex(4) + "\n")
        try:
            self._run = wandb.init(
                project=project,
                id=file.read_text().strip(),
                name=workdir.name,
                resume="allow",
                dir=str(workdir) if is_local(workdir) else None,
                config=config,
            )
        except wandb.errors.Error as error:
            reason = str(error).splitlines()[0].removesuffix(".")
            raise ConfigError(f"train.wandb={project}: {reason}; or set WANDB_MODE=offline.") from None
        self._make_image = wandb.Image

    def scalars(self, step: int, metrics: dict[str, Any]) -> None:
        """Add the metrics of a step."""
        self._run.log(metrics, step=step)

    def image(self, step: int, name: str, image_HxWx3: np.ndarray) -> None:
        """Add an image, uint8."""
        self._run.log({name: self._make_image(image_HxWx3)}, step=step)

    def close(self) -> None:
        """Finish the files."""
        self._run.finish()
