"""Open a trained model: `pixelbert_jax.load(path)`.

This module and those of Predictor are what a notebook uses. They alone in this package import data_pipelines, so that
images and texts are read there exactly as in training.
"""

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from data_pipelines.config import DataConfig
from data_pipelines.errors import DataError
from data_pipelines.storage.paths import as_path, check_readable, check_writable, holds_checkpoints, is_local
from data_pipelines.storage.transfer import upload
from data_pipelines.text.tokenizer import Tokenizer
from data_pipelines.text.tokenizer_files import split_vocabulary
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.inference_weights import in_compute_dtype
from pixelbert_jax.serialization import build
from pixelbert_jax.tasks.registry import task_of
from pixelbert_jax.tasks.task import Task
from pixelbert_jax.training.checkpoint import (
    check_layout,
    newest_checkpoint,
    read_description,
    read_items,
)
from pixelbert_jax.training.sharding import MeshConfig, make_mesh, state_shardings
from pixelbert_jax.weights.files import find, read_tensors

BEST = "best"  # a run's folder of its best checkpoint by an evaluation metric, beside checkpoints/
WEIGHTS_FILE, CONFIG_FILE, VOCABULARY_FILE = "model.safetensors", "config.json", "vocab.txt"


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A trained model and what it needs to read images and texts as it did in training.

    Attributes:
      model: the task's module, such as ModelForPretraining.
      tokenizer: the tokenizer of the run's vocabulary.
      task: the trained task, with the model's configuration.
      data: the resize rule, the canvases, the length of texts.
      description: the checkpoint's description of itself: configuration, data, command, versions.
      path: where it was read from.
    """

    model: nnx.Module
    tokenizer: Tokenizer
    task: Task
    data: DataConfig
    description: dict[str, Any]
    path: str

    def split(self) -> tuple[nnx.GraphDef, Any]:
        """The model's graph, and its arrays with the kernels in the dtype in which they are read."""
        graphdef, state = nnx.split(in_compute_dtype(self.model, self.task.model.dtype))
        return graphdef, nnx.as_pure(state)

    def origin(self) -> str:
        """Where the model was read from, for a program to print: path, step and how the checkpoint was chosen."""
        return origin_of(self.path, self.description)


def origin_of(path: epath.PathLike, description: dict[str, Any]) -> str:
    """`LoadedModel.origin` of what `find_description` returns."""
    step = description.get("step")
    at_step = "" if step is None else f", step {step:,}"
    if Path(path).parent.name != BEST:
        return f"{path}{at_step}"
    metric = description["config"].get("checkpoint", {}).get("best", "")
    return f"{path}{at_step}, the best by {metric} (checkpoint=last takes the last)"


def load(
    path: epath.PathLike, *, checkpoint: str = "best", dtype: str | None = None, mesh: Mesh | None = None
) -> LoadedModel:
    """Open a trained model. Only its parameters are read, not the optimizer's arrays.

    Args:
      path: a run's workdir, its checkpoints folder, one checkpoint in it, a folder that `experiments.export` wrote, or
        a Hugging Face name of such a folder.
      checkpoint: "best" or "last" of a run's workdir; "best" is the last where the run kept no best one.
      dtype: "bfloat16" holds and computes in bfloat16, "float32" in float32; None holds float32 parameters and
        computes as in training.
      mesh: devices to put it on, split along the axis fsdp; None: the first device. The layout of the devices that
        wrote it does not matter.

    Raises:
      ConfigError: nothing loadable is there, it is damaged, or another version of this code wrote it.
      DataError: its vocabulary is damaged.
    """
    if dtype not in (None, "bfloat16", "float32"):
        raise ConfigError(f"load(dtype={dtype!r}): use 'bfloat16', 'float32' or None.")
    folder, description = find_description(path, checkpoint)
    try:
        task = task_of(description)
        data = build(description["config"]["data"], DataConfig, "config.data")
        tokenizer = Tokenizer(tuple(description["vocabulary"]), data.lowercase)
        if dtype is not None:
            task = dataclasses.replace(task, model=dataclasses.replace(task.model, dtype=dtype))
        mesh = mesh or make_mesh(MeshConfig(), jax.devices()[:1])
        platform = mesh.devices.flat[0].platform
        abstract_module = nnx.eval_shape(lambda: task.init(platform=platform, rngs=nnx.Rngs(params=0)))
    except (ConfigError, DataError) as error:
        raise type(error)(f"{folder}: {error}") from error
    graphdef, *abstract = nnx.split(abstract_module, nnx.Param, ...)
    params, rest = (_sharded(nnx.as_pure(part), mesh) for part in abstract)
    if "checksums" in description:  # a checkpoint
        items = {"model": {"params": params, "rest": rest}}
        if "ema" in description["checksums"]:
            items["ema"] = params
        read = read_items(folder, items)
        params, rest = read.get("ema", read["model"]["params"]), read["model"]["rest"]
    else:
        params, rest = _read_export_arrays(folder, (params, rest))
    if dtype == "bfloat16":
        params = jax.tree.map(lambda array: array.astype(jnp.bfloat16), params)
    model = nnx.merge(graphdef, params, rest)
    return LoadedModel(model, tokenizer, task, data, description, str(folder))


def find_description(path: epath.PathLike, checkpoint: str = "best") -> tuple[epath.Path, dict[str, Any]]:
    """Folder of the checkpoint or exported model at `path`, and its description; arguments and errors as in `load`."""
    if checkpoint not in ("best", "last"):
        raise ConfigError(f"load(checkpoint={checkpoint!r}): use 'best' or 'last'.")
    check_readable(as_path(path))
    found = _checkpoint_folder(epath.Path(as_path(path)), checkpoint)
    if found is not None:
        if not holds_checkpoints(found):
            raise ConfigError(
                f"{found}: checkpoints are read from a file system or from gs:// only; copy the run or mount its "
                "bucket, or export the model: an exported folder is read from there too."
            )
        folder, description = found, read_description(found)
    else:
        folder = epath.Path(find(str(path)))
        description = _read_export_config(folder)
    _check_description(description, folder)
    return folder, description


def _check_description(description: dict[str, Any], folder: epath.Path) -> None:
    """Refuse a description that does not say how to build the model and its input."""
    config, tokens = description.get("config"), description.get("vocabulary")
    whole = isinstance(description.get("task"), str) and isinstance(config, dict)
    if not whole or not {"model", "task", "data"} <= config.keys():
        raise ConfigError(f"{folder}: it does not say what model it is; export or download it again.")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ConfigError(f"{folder}: its vocabulary is not a list of tokens; export or download it again.")


def export(loaded: LoadedModel, folder: epath.PathLike, card: str) -> None:
    """Write model.safetensors, config.json, vocab.txt and README.md, which `load` and others can read.

    Args:
      loaded: from `load` with dtype None.
      folder: must not exist yet; it appears when all of it is written.
      card: the text of README.md.

    Raises:
      ConfigError: the folder exists, or a token has a line break, which vocab.txt cannot hold.
      DataError: its bucket cannot be reached.
    """
    folder = as_path(folder)
    if folder.exists():
        raise ConfigError(f"{folder} exists; remove it or name another folder.")
    check_writable(folder)
    text = "\n".join(loaded.tokenizer.vocabulary) + "\n"
    if split_vocabulary(text) != loaded.tokenizer.vocabulary:
        raise ConfigError(
            f"{loaded.path}: a token has a line break, which {VOCABULARY_FILE} cannot hold; train with another "
            "data.vocabulary, or open the run itself."
        )
    if is_local(folder):
        temporary = folder.absolute().with_name(f".{folder.name}.unfinished")
        temporary.mkdir(parents=True, exist_ok=True)
        _write_export(loaded, temporary, text, card)
        temporary.rename(folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        _write_export(loaded, Path(scratch), text, card)
        for name in ("README.md", VOCABULARY_FILE, WEIGHTS_FILE, CONFIG_FILE):  # without the last it is no model
            upload(Path(scratch, name), folder / name)


def _write_export(loaded: LoadedModel, temporary: Path, vocabulary: str, card: str) -> None:
    """Write the files of an exported model to a folder."""
    import safetensors.numpy

    arrays = {name: np.ascontiguousarray(array) for name, array in named_arrays(nnx.state(loaded.model)).items()}
    safetensors.numpy.save_file(arrays, temporary / WEIGHTS_FILE, metadata={"format": "np"})
    (temporary / WEIGHTS_FILE).chmod(0o644)  # the library makes it readable for its owner only
    (temporary / VOCABULARY_FILE).write_bytes(vocabulary.encode("utf-8"))
    kept = ("layout", "task", "config", "answers", "versions", "data", "detector", "command", "step", "init")
    config = {name: loaded.description[name] for name in kept if name in loaded.description}
    config["sha256"] = {name: _sha256(temporary / name) for name in (WEIGHTS_FILE, VOCABULARY_FILE)}
    (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (temporary / "README.md").write_text(card, encoding="utf-8")


def named_arrays(tree: Any) -> dict[str, jax.Array]:
    """Arrays of a state by dotted names, such as model.encoder.layers.mlp_inner.kernel."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.as_pure(tree))
    }


def _checkpoint_folder(path: epath.Path, which: str) -> epath.Path | None:
    """The checkpoint's folder, from a workdir, a folder of checkpoints or one checkpoint; None if `path` has none."""
    for folder in (*([path / BEST] if which == "best" else []), path / "checkpoints", path):
        newest = newest_checkpoint(folder)
        if newest is not None:
            return newest
    is_export = (path / CONFIG_FILE).exists() and (path / WEIGHTS_FILE).exists()
    if path.exists() and not is_export:
        if (path / "_CHECKPOINT_METADATA").exists() or path.name.isdecimal():
            return path
        raise ConfigError(
            f"{path}: neither a run's folder with a finished checkpoint nor an exported model "
            f"({WEIGHTS_FILE} with {CONFIG_FILE}); give the --workdir of a run or the --output of an export."
        )
    return None


def _sharded(tree: Any, mesh: Mesh) -> Any:
    """Abstract arrays with their shardings on the mesh."""
    shardings = state_shardings(mesh, MeshConfig(fsdp=mesh.shape["fsdp"]), tree)
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, shardings)


def _read_export_config(folder: epath.Path) -> dict[str, Any]:
    """config.json of an exported folder with the vocabulary, both files checked against their digests."""
    for name in (CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE):
        if not (folder / name).exists():
            raise ConfigError(f"{folder}: not a model exported by this code, it has no {name}.")
    try:
        description = json.loads((folder / CONFIG_FILE).read_text())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{folder / CONFIG_FILE}: not valid JSON ({error}); export or download it again.") from None
    check_layout(description, str(folder))
    digests = description.get("sha256", {})
    # Other names could lead out of the folder.
    if not isinstance(digests, dict) or not digests.keys() <= {WEIGHTS_FILE, VOCABULARY_FILE}:
        raise ConfigError(f"{folder / CONFIG_FILE}: sha256 is of other files; export or download it again.")
    for name, digest in digests.items():
        if _sha256(folder / name) != digest:
            raise ConfigError(
                f"{folder / name}: damaged, its SHA-256 is not the one in {CONFIG_FILE}; export or download it again."
            )
    try:
        tokens = list(split_vocabulary((folder / VOCABULARY_FILE).read_bytes().decode("utf-8")))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{folder / VOCABULARY_FILE}: not UTF-8 text ({error.reason}); export or download it again."
        ) from None
    return {**description, "vocabulary": tokens}


def _read_export_arrays(folder: epath.Path, abstract: tuple[Any, Any]) -> tuple[Any, Any]:
    tensors = read_tensors(folder / WEIGHTS_FILE)
    wanted = {name: leaf for part in abstract for name, leaf in named_arrays(part).items()}
    differing = sorted(
        name
        for name in wanted.keys() | tensors.keys()
        if name not in wanted or name not in tensors or wanted[name].shape != tensors[name].shape
    )
    if differing:
        raise ConfigError(
            f"{folder / WEIGHTS_FILE}: {len(differing)} tensors do not fit {CONFIG_FILE} ({', '.join(differing[:3])}); "
            "export it again."
        )
    return tuple(
        jax.tree_util.tree_map_with_path(
            lambda path, leaf: jax.device_put(
                tensors[jax.tree_util.keystr(path, simple=True, separator=".")].astype(leaf.dtype), leaf.sharding
            ),
            part,
        )
        for part in abstract
    )


def _sha256(path: epath.PathLike) -> str:
    with epath.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
