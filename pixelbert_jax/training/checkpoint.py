"""Checkpoints of a run through Orbax: asynchronous, kept by a policy, and self-describing.

A checkpoint holds `model` (parameters and stored statistics), `ema` (the parameters' moving average, where there is
one), `training` (optimizer, counters) and, as its metadata, a description: layout version, task, configuration,
vocabulary, library versions, and a checksum of every array, which Orbax's own files do not have.
"""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import reprlib
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from pixelbert_jax.errors import ConfigError, in_short
from pixelbert_jax.training.checksums import checksums
from pixelbert_jax.training.step import TrainState

LAYOUT = 2  # raised when a change of the code makes older checkpoints unreadable
_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")
_METADATA_FILE = "_CHECKPOINT_METADATA"  # Orbax writes it last in a file system, and renames the folder then
_COMMIT_FILE = "commit_success.txt"  # the same in gs://, where it cannot rename
_BUCKET_LIBRARIES = ("aiohttp", "gcsfs", "google", "requests")  # their errors are not all OSErrors
_DAMAGE = (ValueError, KeyError, OSError, TypeError, AttributeError)  # what Orbax raises on bad files
_NO_WRITING = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENOENT, errno.ENOTDIR),
)


class Checkpoints:
    """The checkpoints in one folder."""

    def __init__(self, directory: epath.PathLike, *, keep_last: int = 2, keep_every: int = 0) -> None:
        """Open or make the folder.

        Args:
          directory: where the checkpoints lie, one folder per step.
          keep_last: how many of the newest to keep.
          keep_every: keep those at multiples of this many steps as well; 0: none.

        Raises:
          ConfigError: the folder cannot be written.
        """
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep_last)]
        if keep_every:
            kept.append(policies.EveryNSteps(keep_every))
        self.directory = _absolute(directory)
        context = ocp.Context()
        # Otherwise, where a folder cannot be made, Orbax's threads wait 20 minutes for it, and the process for them.
        context.asynchronous.create_directories_asynchronously = False
        self._pending: tuple[int, ocp.AsyncResponse] | None = None
        self._failed = False
        with self._writing("read or written"):
            # In a new folder there is nothing to clean, and the thread that does it would outlive a refused start.
            alone = jax.process_count() == 1 and _is_local(self.directory)  # several must agree on it
            has_leftovers = not alone or self.directory.is_dir()
            self.directory.mkdir(parents=True, exist_ok=True)
            _set_unfinished_aside(self.directory)
            self._checkpointer = ocp.training.Checkpointer(
                self.directory,
                context=context,
                preservation_policy=policies.AnyPreservationPolicy(kept),
                cleanup_tmp_directories=has_leftovers,
            )

    @property
    def latest(self) -> int | None:
        """The newest finished checkpoint's step."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: TrainState, description: dict[str, Any]) -> None:
        """Start to write a checkpoint; returns when the state has been copied, and may then be donated.

        Raises:
          ConfigError: this checkpoint, or the one before it, cannot be written.
        """
        self.wait()
        items = _items(state)
        sums = {name: checksums(item) for name, item in items.items()}
        metadata = seal({**description, "step": step, "checksums": sums})
        with self._writing(f"written at step {step}"):
            if _is_local(self.directory) and not self.directory.is_dir():  # Orbax would make it again
                raise OSError(errno.ENOENT, "the folder was deleted or moved while the run was using it")
            self._pending = (
                step,
                self._checkpointer.save_checkpointables_async(step, items, force=True, custom_metadata=metadata),
            )

    def check(self) -> None:
        """Return at once, with the error if the checkpoint being written has failed meanwhile.

        Raises:
          ConfigError: it cannot be written.
        """
        with contextlib.suppress(TimeoutError):
            self._finish(timeout=0)

    def wait(self) -> None:
        """Return when the checkpoint being written, if any, is whole on the disk.

        Raises:
          ConfigError: it cannot be written.
        """
        self._finish(timeout=None)

    def description(self, step: int) -> dict[str, Any]:
        """The checkpoint's description of itself; errors as in `read_description`."""
        return read_description(self.directory / str(step))

    def restore(self, step: int, abstract_state: TrainState) -> TrainState:
        """Read a state onto the devices; shardings are those of `abstract_state`, whatever they were when saved.

        Raises:
          ConfigError: a file of the checkpoint is missing or damaged, or it holds other arrays.
        """
        items = read_items(self.directory / str(step), _items(abstract_state))
        return TrainState(**items["model"], ema=items.get("ema", {}), **items["training"])

    def close(self) -> None:
        """Finish writing; errors as in `wait`, unless one has been raised before."""
        try:
            self.wait()
        finally:
            # Orbax would report the same failure again.
            with contextlib.suppress(*(_DAMAGE if self._failed else ())):
                self._checkpointer.close()

    def _finish(self, timeout: float | None) -> None:
        if self._pending is None:
            return
        step, response = self._pending
        with self._writing(f"written at step {step}"):
            response.result(timeout)
        self._pending = None

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """A block whose errors of the file system become one sentence."""
        try:
            yield
        except TimeoutError:  # is an OSError, and only says that a save goes on
            raise
        except Exception as error:
            if not isinstance(error, OSError | ValueError) and not _is_bucket_error(error):
                raise
            self._pending, self._failed = None, True
            left = _last_whole(self.directory)
            raise ConfigError(
                f"{self.directory}: no checkpoint can be {what} ({_no_writing(error)}); {left}. Make room, make the "
                "folder writable or put it back, then give the same command again."
            ) from error


def describe(task: str, config: dict[str, Any], vocabulary: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """A checkpoint's description: what is needed to build the model and its input again."""
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {
        "layout": LAYOUT,
        "task": task,
        "config": config,
        "vocabulary": list(vocabulary),
        "versions": versions,
        **more,
    }


def seal(description: dict[str, Any]) -> dict[str, Any]:
    """The description with a digest of itself, so that damage to it is noticed."""
    return {**description, "digest": _digest(description)}


def check_layout(description: dict[str, Any], where: str) -> None:
    """Refuse what this code cannot read.

    Raises:
      ConfigError: another layout, or no description of ours.
    """
    if not isinstance(description, dict) or "layout" not in description:
        raise ConfigError(
            f"{where}: a checkpoint without description, damaged or not of this code; "
            "delete that folder to go on from the checkpoint before it, or use another --workdir."
        )
    if description["layout"] != LAYOUT:
        raise ConfigError(
            f"{where}: checkpoint of layout {reprlib.repr(description['layout'])}, this code reads {LAYOUT}; "
            "use the version of pixelbert_jax that wrote it, or another --workdir."
        )


def newest_checkpoint(directory: epath.PathLike) -> epath.Path | None:
    """Folder of the newest finished checkpoint in a folder of checkpoints; None if there is none."""
    directory = _absolute(directory)
    if not directory.is_dir():
        return None
    last = _COMMIT_FILE if str(directory).startswith("gs://") else _METADATA_FILE
    steps = [path for path in directory.iterdir() if path.name.isdecimal() and (path / last).exists()]
    return max(steps, key=lambda path: int(path.name), default=None)


def read_description(path: epath.PathLike) -> dict[str, Any]:
    """The description of the checkpoint in the folder `path`.

    Raises:
      ConfigError: it was written by another layout of this code, or by something else, or is damaged.
    """
    try:
        description = ocp.checkpointables_metadata(_absolute(path)).custom_metadata
    except (*_DAMAGE, RecursionError) as error:
        raise ConfigError(f"{path}: not a checkpoint, or a damaged one ({_root_cause(error)}).") from error
    check_layout(description, str(path))
    if description.get("digest") != _digest(description):
        raise ConfigError(
            f"{path}: the description of the checkpoint is damaged; delete that folder to go on from the one before."
        )
    return description


def read_items(path: epath.PathLike, abstract: dict[str, Any]) -> dict[str, Any]:
    """Arrays of the checkpoint in the folder `path`, checked against their checksums.

    Args:
      path: the folder of one checkpoint.
      abstract: "model", "ema" or "training" -> what it holds, with the shardings to read it to; others stay unread.

    Raises:
      ConfigError: a file is missing or damaged, or it holds other arrays.
    """
    sums = read_description(path).get("checksums")
    if not isinstance(sums, dict) or not all(isinstance(of_item, dict) for of_item in sums.values()):
        raise _unreadable(path, "it has no checksums")
    if ({"model", "ema"} <= sums.keys() and "ema" not in abstract) or abstract.keys() - sums.keys():
        raise _unreadable(path, f"it holds {', '.join(sums)}, requested is {', '.join(abstract)}")
    try:
        items = ocp.load_checkpointables(_absolute(path), abstract)
    except _DAMAGE as error:
        raise _unreadable(path, _root_cause(error)) from error
    for name, item in items.items():
        found = checksums(item)
        damaged = sorted(key for key in found if found[key] != sums[name].get(key))
        if damaged:
            raise _unreadable(path, f"the files of {name} are damaged: {damaged[0]} is not as it was saved")
    return items


def _unreadable(path: epath.PathLike, why: str) -> ConfigError:
    return ConfigError(
        f"{path}: cannot be restored ({why}); if the configuration has changed use another --workdir, if a file is "
        "damaged delete that folder to go on from the checkpoint before it."
    )


def _set_unfinished_aside(directory: epath.Path) -> None:
    """Rename folders of steps after the last whole checkpoint: Orbax would take them for checkpoints, and keep them
    in place of whole ones. It writes elsewhere and renames, so such folders come from an interrupted copy or deletion.
    """
    if not _is_local(directory):
        return
    if jax.process_index() == 0:
        whole = newest_checkpoint(directory)
        for path in list(directory.iterdir()):
            if path.name.isdecimal() and (whole is None or int(path.name) > int(whole.name)):
                aside = path.with_name(f"{path.name}.unfinished")
                aside.rmtree(missing_ok=True)
                path.rename(aside)
                logging.warning("%s is not a whole checkpoint; it is now %s.", path, aside.name)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("unfinished checkpoints are aside")


def _no_writing(error: BaseException) -> str:
    """The system's reason why a file cannot be written, from Orbax's message; the whole message if it has none."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    cause = _root_cause(error)
    return next((reason for reason in map(os.strerror, _NO_WRITING) if reason in f"{error}\n{cause}"), cause)


def _last_whole(directory: epath.Path) -> str:
    """Which checkpoint is left, for a message."""
    try:
        newest = newest_checkpoint(directory)
    except Exception as error:
        if not isinstance(error, OSError) and not _is_bucket_error(error):
            raise
        newest = None
    if newest:
        return f"the last whole one is step {newest.name}"
    # A bucket that refuses or does not answer looks empty.
    return "there is no whole one" if _is_local(directory) else "no whole one can be seen"


def _is_bucket_error(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _BUCKET_LIBRARIES


def _is_local(path: epath.Path) -> bool:
    return "://" not in str(path)


def _absolute(path: epath.PathLike) -> epath.Path:
    """Orbax takes no relative paths; those with a scheme (gs://) count as absolute."""
    path = epath.Path(path)
    return path if path.is_absolute() else path.absolute()


def _digest(description: dict[str, Any]) -> str:
    plain = {name: value for name, value in description.items() if name != "digest"}
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=16).hexdigest()


def _root_cause(error: BaseException) -> str:
    """The first error of the chain, on one line. Orbax wraps it in long messages about its handlers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {in_short(error, 300)}"


def _items(state: TrainState) -> dict[str, Any]:
    values = state._asdict()
    items = {"model": {name: values.pop(name) for name in ("params", "rest")}}
    ema = values.pop("ema")
    return {**items, **({"ema": ema} if ema else {}), "training": values}
