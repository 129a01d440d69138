"""What a new run begins with: random weights, published weights, or another run."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from data_pipelines.text.tokenizer import Tokenizer, read_vocabulary
from data_pipelines.text.tokenizer_files import check_case
from experiments.run.progress import say
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import load, named_arrays
from pixelbert_jax.tasks.task import Task
from pixelbert_jax.training.sharding import MeshConfig, make_mesh
from pixelbert_jax.training.step import TrainState
from pixelbert_jax.weights.conversion import Loaded
from pixelbert_jax.weights.files import beside, find
from pixelbert_jax.weights.initialize import InitConfig, apply, load_initial, summary_lines
from pixelbert_jax.weights.resizing import POSITION_TABLES, TOKEN_TABLES, resized


def load_sources(
    config: InitConfig, task: Task, tokenizer: Tokenizer, answers: Sequence[str] = ()
) -> dict[str, Loaded]:
    """Read what the config names, before anything is compiled; a later source counts over an earlier one.

    Args:
      config: names the sources.
      task: the task of the run.
      tokenizer: the tokenizer of the run's vocabulary.
      answers: the answers that the run chooses from; a head that was trained for other answers stays fresh.

    Raises:
      ConfigError: weights are missing, are broken, do not fit the model, or belong to another vocabulary.
      DataError: the weights' tokenizer treats upper case or accents differently from the run's.
    """
    sources, vocabularies = {}, None
    if config.checkpoint:
        sources[f"init.checkpoint={config.checkpoint}"] = _from_run(config, task, tokenizer, answers)
    if config.text:
        folder = beside(find(config.text))
        if folder is not None:
            check_case(folder, tokenizer.lowercase)
        if folder is not None and (folder / "vocab.txt").is_file():
            theirs = read_vocabulary(str(folder))
            if config.resize:
                vocabularies = theirs, tokenizer.vocabulary
            else:
                _same_vocabulary(theirs, tokenizer, f"init.text={config.text}", folder)
    return sources | load_initial(config, task.model, vocabularies)


def start(state: TrainState, sources: dict[str, Loaded]) -> tuple[TrainState, dict[str, Any]]:
    """Put the sources into a fresh state and say what came from where; also returns that report."""
    state, report = apply(state, sources)
    for line in summary_lines(report):
        say(line)
    return state, report


def _from_run(config: InitConfig, task: Task, tokenizer: Tokenizer, answers: Sequence[str]) -> Loaded:
    """Parameters and statistics of another run; a head of another shape or of other answers stays fresh."""
    first_device = make_mesh(MeshConfig(), jax.local_devices()[:1])
    loaded = load(config.checkpoint, checkpoint=config.checkpoint_choice, mesh=first_device)
    say(f"init.checkpoint: {loaded.origin()}")
    parts = config.checkpoint_parts
    if parts != "backbone":
        path = epath.Path(config.checkpoint)
        if not config.resize:
            _same_vocabulary(loaded.tokenizer.vocabulary, tokenizer, f"init.checkpoint={config.checkpoint}", path)
        if loaded.tokenizer.lowercase != tokenizer.lowercase:
            raise ConfigError(
                f"init.checkpoint={config.checkpoint} was trained with data.lowercase={loaded.tokenizer.lowercase}, "
                f"this run has {tokenizer.lowercase}; set it to the checkpoint's."
            )
    shapes = {
        name: leaf.shape
        for name, leaf in named_arrays(
            nnx.state(nnx.eval_shape(lambda: task.init(platform=None, rngs=nnx.Rngs(params=0))))
        ).items()
    }
    other_answers = list(answers) != list(loaded.description.get("answers", ()))
    arrays = {}
    for name, array in named_arrays(nnx.state(loaded.model)).items():
        in_model, in_backbone = name.startswith("model."), name.startswith("model.backbone.")
        wanted = parts == "all" or (in_backbone if parts == "backbone" else not in_backbone)
        fits = in_model or (shapes.get(name) == array.shape and not (other_answers and name.startswith("answer_head.")))
        fits = fits or (config.resize and name in TOKEN_TABLES and name in shapes)
        if wanted and fits:
            arrays[name] = np.asarray(jax.device_get(array))
    if not config.resize:
        return Loaded(arrays)
    sizes = {name: shapes[name][0] for name in (*TOKEN_TABLES, *POSITION_TABLES) if name in shapes}
    return resized(arrays, sizes, (loaded.tokenizer.vocabulary, tokenizer.vocabulary))


def _same_vocabulary(vocabulary: tuple[str, ...], tokenizer: Tokenizer, source: str, folder: epath.PathLike) -> None:
    """Refuse weights whose tokens have other ids than the run's: every token would get another token's vector."""
    ours = tokenizer.vocabulary
    if tuple(vocabulary) != ours:
        shorter = min(len(vocabulary), len(ours))
        where = next((i for i in range(shorter) if vocabulary[i] != ours[i]), shorter)
        raise ConfigError(
            f"{source} was trained on another vocabulary ({len(vocabulary)} tokens, this run {len(ours)}; they "
            f"differ from line {where + 1} on); set data.vocabulary={epath.Path(folder) / 'vocab.txt'}, or "
            "init.resize=true: then tokens keep their vectors by their string."
        )
