"""Weight files from elsewhere: where they lie, and their tensors as numpy arrays."""

import json
import re
import reprlib
import zipfile
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np
from etils import epath

from pixelbert_jax.errors import ConfigError, in_short
from pixelbert_jax.weights.hub import snapshot

HUB_FILES = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
)
_STANDARD = (  # in the order of preference: safetensors first
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_TORCH_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
# Parts of names that torch's own wrappers of a module put in: compiled, sharded, recomputed.
_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": jnp.bfloat16, "BOOL": "bool"} | {
    f"{kind}{bits}": f"{name}{bits}" for kind, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)
}


def find(name: str, patterns: tuple[str, ...] = HUB_FILES) -> epath.Path:
    """The file or folder of that name, or a Hugging Face repository's files, downloaded once.

    Args:
      name: a path, also in a bucket, or a repository such as "google-bert/bert-base-uncased".
      patterns: the files of a repository that are wanted.

    Raises:
      ConfigError: there is neither.
    """
    path = epath.Path(name).expanduser()
    if path.exists():
        return path
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) or path.suffix in (".safetensors", *_TORCH_SUFFIXES):
        raise ConfigError(f"{name}: no such file or folder; give a path that exists, or a Hugging Face name.")
    try:
        return epath.Path(snapshot(name, patterns))
    except Exception as error:  # of several libraries, by the hub's version and what failed
        raise ConfigError(
            f"{name} is neither a file or folder here nor a Hugging Face repository that can be fetched "
            f"({_reason(error)}); give a path that exists, or download the repository first."
        ) from None


def beside(path: epath.Path) -> epath.Path | None:
    """The folder whose other files belong to these weights: a folder itself, or that of a file of a standard name."""
    if path.is_dir():
        return path
    return path.parent if path.name in _STANDARD else None


def read_config(path: epath.Path) -> dict[str, Any]:
    """The config.json of a folder of weights, or of the folder that a file of a standard name lies in; {} if none.

    Raises:
      ConfigError: it is not a JSON object.
    """
    folder = beside(path)
    if folder is None or not (folder / "config.json").is_file():
        return {}
    return _read_json(folder / "config.json")


def check_config(found: dict[str, Any], expected: dict[str, tuple[Any, str]], source: str) -> None:
    """Compare the fields of a config.json with ours.

    Args:
      found: the content of the config.json.
      expected: by its field: the value that it must have, and the name of our field, "" where there is none.
      source: names the file in the error.

    Raises:
      ConfigError: fields that differ, all of them in one message.
    """
    differences = [
        f"{field}={reprlib.repr(found[field])} (here {f'{ours}=' if ours else 'always '}{value!r})"
        for field, (value, ours) in expected.items()
        if found.get(field, value) != value
    ]
    if differences:
        raise ConfigError(
            f"{source}: its config.json has {', '.join(differences)}; set the model's fields to the file's where there "
            "are any, or take other weights."
        )


def read_tensors(path: epath.PathLike) -> dict[str, np.ndarray]:
    """All tensors of a file, or of a folder with one of the standard names, whole or sharded.

    Half precision comes out as float32. A leading `module.` of DataParallel is dropped from the names, and so are the
    parts that torch.compile and the like put in (`_orig_mod.`), and the wrappers {"state_dict": ...},
    {"model_state_dict": ...} and {"model": ...} of torch files, or any other of a single state dict. Torch files are
    read only where torch is installed and never unpickled beyond tensors.

    Raises:
      ConfigError: there are no weights, torch is missing, a file is broken, or a number is none (NaN, infinity, a
        negative variance).
    """
    path = epath.Path(path)
    files, promised = _files(path)
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        tensors |= _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    if lost := sorted(promised - tensors.keys()):
        raise ConfigError(
            f"{path}: {len(lost)} tensors of its index are in no file ({_plain(lost[0])}, ...); download it again."
        )
    tensors = _unwrapped(tensors, path)
    tensors = {name: _full_precision(array) for name, array in tensors.items()}
    _check_numbers(tensors, path)
    return tensors


def read_published(path: epath.PathLike, roots: tuple[str, ...]) -> dict[str, np.ndarray]:
    """`read_tensors`, without a prefix that all names share, such as `model.` of Lightning.

    Args:
      path: of the weights.
      roots: names of which the source's own naming has one; prefixes are dropped until one is there, or none at all.

    Raises:
      ConfigError: as in `read_tensors`.
    """
    tensors = names = read_tensors(path)
    while names and not any(root in names for root in roots):
        prefix = next(iter(names)).partition(".")[0] + "."
        if not all(name.startswith(prefix) and name != prefix for name in names):
            return tensors
        names = {name.removeprefix(prefix): array for name, array in names.items()}
    return names


def _unwrapped(tensors: dict[str, np.ndarray], path: epath.Path) -> dict[str, np.ndarray]:
    """The tensors by the names that they have without torch's wrappers of modules."""
    names = {name: _WRAPPED.sub("", name) for name in tensors}
    while names and all(name.startswith("module.") for name in names.values()):
        names = {name: short.removeprefix("module.") for name, short in names.items()}
    result = {short: tensors[name] for name, short in names.items()}
    if len(result) != len(tensors):
        raise ConfigError(f"{path}: it has the same tensors twice, with and without _orig_mod.; remove one of them.")
    return result


def _check_numbers(tensors: dict[str, np.ndarray], path: epath.Path) -> None:
    """Refuse tensors that no training can begin with."""
    for name, array in tensors.items():
        if not np.issubdtype(array.dtype, np.floating):
            continue
        if not np.isfinite(array).all():
            raise ConfigError(
                f"{path}: {_plain(name)} holds NaN or infinity; download it again, or take other weights."
            )
        if name.endswith(("running_var", ".variance")) and (array < 0).any():
            raise ConfigError(
                f"{path}: {_plain(name)} holds a negative variance; download it again, or take other weights."
            )


def _files(path: epath.Path) -> tuple[list[epath.Path], set[str]]:
    """The files to read, and the names that an index promises."""
    if path.is_dir():
        found = [path / name for name in _STANDARD if (path / name).is_file()]
        if not found:
            raise ConfigError(f"{path}: a folder without weights; it should have one of {', '.join(_STANDARD)}.")
        path = found[0]
    if path.suffix in (".safetensors", *_TORCH_SUFFIXES):
        return [path], set()
    if not path.name.endswith(".index.json"):
        raise ConfigError(
            f"{path}: not a file of weights; give one that ends in .safetensors, {', '.join(_TORCH_SUFFIXES)}."
        )
    index = _read_json(path).get("weight_map")
    if not isinstance(index, dict) or not all(
        isinstance(name, str) and PurePosixPath(name).name == name for name in index.values()
    ):
        raise ConfigError(f"{path}: no weight_map from tensors to files of this folder; download it again.")
    files = [path.parent / name for name in sorted(set(index.values()))]
    if lost := [file.name for file in files if not file.is_file()]:
        raise ConfigError(f"{path}: {reprlib.repr(lost)} of its files not there; download the folder again.")
    return files, set(index)


def _read_json(file: epath.Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not JSON ({_reason(error)}); download it again.") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror or error}); check the file.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: not a JSON object; download it again.")
    return content


def _read_safetensors(file: epath.Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, deserialize

    try:
        content = deserialize(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror or error}); check the file.") from None
    except SafetensorError as error:
        raise ConfigError(f"{file}: broken or cut off ({_reason(error)}); download or write it again.") from None
    if odd := sorted({entry["dtype"] for _, entry in content} - _TYPES.keys()):
        raise ConfigError(f"{file}: tensors of type {', '.join(odd)} are not known here; convert them to F32.")
    return {
        name: np.frombuffer(entry["data"], _TYPES[entry["dtype"]]).reshape(entry["shape"]) for name, entry in content
    }


def _read_torch(file: epath.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise ConfigError(
            f"{file}: reading it needs torch; convert it to safetensors elsewhere, or install torch."
        ) from None
    try:
        with file.open("rb") as opened:
            _check_stored(opened)
            opened.seek(0)
            content = torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have their own
        other = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        reason = f"it holds {_plain(other[1])}" if other else _reason(error)
        raise ConfigError(
            f"{file}: broken, or more than tensors ({reason}); download it again, or convert it to safetensors."
        ) from None
    for _ in _WRAPPERS:  # each may hold the next; a dict may even hold itself
        inner = [name for name in _WRAPPERS if isinstance(content, dict) and isinstance(content.get(name), dict)]
        inner = [name for name in inner if content[name]] or _only_state_dict(content, torch.Tensor)
        if len(inner) > 1:
            raise ConfigError(f"{file}: it holds both {inner[0]!r} and {inner[1]!r}; save one of them alone.")
        content = content[inner[0]] if inner else content
    tensors = content if isinstance(content, dict) else {}
    tensors = {name: value.detach() for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ConfigError(f"{file}: no state dict; save model.state_dict() into it.")
    # A view may repeat a few numbers without end.
    size = file.stat().length
    if odd := [n for n, value in tensors.items() if value.layout != torch.strided or value.nbytes > size]:
        raise ConfigError(f"{file}: {odd[0]!r:.80} is sparse, or larger than the file; save plain tensors into it.")
    try:
        return {n: (value.float() if value.is_floating_point() else value).numpy() for n, value in tensors.items()}
    except (TypeError, RuntimeError, NotImplementedError) as error:  # quantized ones, or those on no device
        raise ConfigError(f"{file}: tensors of an odd kind ({_reason(error)}); save plain ones into it.") from None


def _only_state_dict(content: Any, kind: type) -> list[str]:
    """The name of the only state dict beside other things; [] if there is none, several, or `content` is one itself."""
    if not isinstance(content, dict) or any(isinstance(value, kind) for value in content.values()):
        return []
    dicts = {name: value for name, value in content.items() if isinstance(value, dict)}
    found = [name for name, value in dicts.items() if any(isinstance(tensor, kind) for tensor in value.values())]
    return found if len(found) == 1 else []


def _check_stored(file: BinaryIO) -> None:
    """Raise ValueError for a file whose parts are compressed: torch writes none, and a few bytes may become any number.

    Files of the older form, which are no archives, pass.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("its parts are compressed")


def _full_precision(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype in (np.float16, jnp.bfloat16) else array


def _plain(name: str) -> str:
    """A tensor's name, short and printable."""
    return in_short("".join(filter(str.isprintable, name)), 120)


def _reason(error: Exception) -> str:
    """The first line of an error's message, short, without torch's colours."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return in_short("".join(filter(str.isprintable, re.sub(r"\x1b\[[\d;]*m", "", line))), 120)
