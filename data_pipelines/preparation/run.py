"""Prepare a data set: read the publisher's files and write ArrayRecord files and an index."""

import contextlib
import dataclasses
import functools
import io
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from data_pipelines.beam.runner import import_with_beam, is_direct, pipeline_options
from data_pipelines.datasets import builder_class
from data_pipelines.datasets.builder import DRAWN, ImageTextBuilder
from data_pipelines.datasets.own_data import OwnDataBuilder
from data_pipelines.datasets.settings import Settings
from data_pipelines.errors import DataError
from data_pipelines.preparation.hub_files import download, is_on_hub
from data_pipelines.progress import Progress
from data_pipelines.storage.bucket_lock import only_one_in_bucket
from data_pipelines.storage.destination import ToBucket
from data_pipelines.storage.detectors import read_detector, same_detector
from data_pipelines.storage.folder_lock import only_one
from data_pipelines.storage.index_writer import write_index
from data_pipelines.storage.paths import AnyPath, as_path, check_readable, check_writable, is_local
from data_pipelines.storage.records import has_old_index, read_index, read_summary
from data_pipelines.storage.shards import MAX_SHARD_BYTES
from data_pipelines.storage.transfer import upload

_INFO_FILE = "dataset_info.json"  # of TFDS
_MAX_SHARDS = 99_999  # their names have five digits


def prepare(
    name: str,
    data_dir: epath.PathLike,
    source_dir: epath.PathLike | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    max_bad_share: float = 0.01,
    num_threads: int = 4,
    num_shards: int | None = None,
    beam_runner: str | None = None,
    beam_options: Sequence[str] = (),
    progress: Progress | None = None,
) -> AnyPath:
    """Prepare a data set. Finish an unfinished one, renew an old index, and leave a finished data set unchanged.

    Args:
      name: name of the data set.
      data_dir: folder of the prepared data sets; created if needed. For a bucket, files are written to a temporary
        folder first, and each is moved to the bucket when it is whole.
      source_dir: folder of the publisher's files, or `hf://datasets/OWNER/NAME` for Parquet files of the Hugging Face
        hub; None only for a data set that needs no files.
      options: options of this data set, such as {"num_train": 100}. Missing options have their default values, or
        the values of the prepared data set if it exists.
      max_bad_share: maximum share of damaged or missing images, 0 to 1; above it nothing is prepared.
      num_threads: threads that read and decode images; on Beam, threads per worker.
      num_shards: files per split, fewer if the split has fewer records; None: the number follows from the size.
      beam_runner: "direct" for Apache Beam on this machine, or a runner of Beam; None: without Beam. The output is
        the same.
      beam_options: options of Beam, such as "--direct_num_workers=4".
      progress: display of the progress; None: no display.

    Returns:
      The folder of the data set.

    Raises:
      DataError: the arguments, the source files or the disk have a problem.
    """
    builder_type = builder_class(name)
    data_dir = as_path(data_dir)
    check_writable(data_dir)
    hub_address = str(source_dir) if is_on_hub(source_dir) else ""
    source_dir = None if source_dir is None or hub_address else as_path(source_dir)
    options = dict(options or {})
    for option in {*builder_type.PATH_OPTIONS, "regions"} & options.keys():
        options[option] = _expand_home(options[option])
    for path in (source_dir, *(options.get(option) for option in {*builder_type.PATH_OPTIONS, "regions"})):
        if path:
            check_readable(as_path(path))
    if unknown := sorted(set(options) - set(builder_type.OPTIONS)):
        takes = ", ".join(f"--{option}" for option in builder_type.OPTIONS) or "no flags of its own"
        raise DataError(f"{name} does not take --{unknown[0]}; it takes {takes}.")
    if not 0 <= max_bad_share <= 1:
        raise DataError(f"--max_bad_share={max_bad_share:g} is not between 0 and 1.")
    if num_threads < 1:
        raise DataError(f"--num_threads={num_threads} is not positive.")
    if num_shards is not None and not 1 <= num_shards <= _MAX_SHARDS:
        raise DataError(f"--num_shards={num_shards} is not between 1 and {_MAX_SHARDS:,}.")
    settings = Settings(max_bad_share, num_threads, num_shards=num_shards)
    if progress is not None:
        settings = dataclasses.replace(settings, start=progress.start, progress=progress.step)
    if beam_runner is not None and not is_local(data_dir):
        raise DataError(
            f"--data_dir={data_dir}: on Beam, workers exchange files there; mount that bucket as a folder on all of "
            "them, or leave --beam_runner out."
        )
    if beam_runner is not None:
        paths = {"source_dir": source_dir, "data_dir": data_dir, "regions": options.get("regions") or None}
        settings = dataclasses.replace(settings, beam=_beam_job(beam_runner, beam_options, paths))
    elif beam_options:
        raise DataError(f"{beam_options[0]} is an option of Beam; give --beam_runner too, or leave it out.")
    with contextlib.ExitStack() as finally_remove:
        written_to, folder = data_dir, data_dir / name / str(builder_type.VERSION)
        if not is_local(data_dir):
            written_to = finally_remove.enter_context(tempfile.TemporaryDirectory())
            note = progress.note if progress is not None else lambda line: None
            destination = ToBucket(folder, note)
            settings = dataclasses.replace(settings, destination=destination)
        builder = builder_type(data_dir=written_to, source_dir=source_dir, options=options, settings=settings)
        if not _is_finished(folder):
            if not _has_records(folder):
                if hub_address:
                    source_dir = _fetch(builder, hub_address)
                _check_source(builder, source_dir)
            with contextlib.ExitStack() as locked:
                if is_local(folder):
                    locked.enter_context(only_one(folder.parent, "data_dir"))
                else:
                    destination.check = locked.enter_context(only_one_in_bucket(folder.parent, "data_dir", note))
                if not _has_records(folder):
                    _generate(builder) if is_local(folder) else _generate_in_bucket(builder, folder, destination)
                if not _is_finished(folder):
                    _index(builder_type, folder, progress)
    _check_same_options(builder_type, folder, options)
    _check_same_shards(folder, num_shards)
    return folder


def _beam_job(runner: str, arguments: Sequence[str], paths: Mapping[str, epath.PathLike | None]) -> Callable[..., Any]:
    """The function that creates the Beam job; raises DataError for a runner that is missing or cannot be used."""
    job = import_with_beam("data_pipelines.beam.prepare_job", f"--beam_runner={runner}")
    pipeline = pipeline_options(runner, arguments, "beam_runner", "docs/data.md")
    for flag, path in paths.items():
        # Workers on other machines start in folders of their own. "drawn" for the regions is not a path.
        if not is_direct(runner) and path is not None and not as_path(path).is_absolute() and str(path) != DRAWN:
            raise DataError(
                f"--{flag}={path} is relative, and workers of {runner} start elsewhere; give an absolute path that all "
                "of them see."
            )
    return functools.partial(job.Job, pipeline)


def _has_records(folder: AnyPath) -> bool:
    """Whether all records are there; a bucket gets the file that describes them last."""
    return folder.exists() if is_local(folder) else (folder / _INFO_FILE).exists()


def _is_finished(folder: AnyPath) -> bool:
    """Whether the records and an index of the current format exist; raises DataError if the index is damaged."""
    return _has_records(folder) and not has_old_index(folder) and read_summary(folder) is not None


def _fetch(builder: ImageTextBuilder, address: str) -> Path:
    """Download the files of the hub and give them to the builder; returns their folder."""
    if not isinstance(builder, OwnDataBuilder):
        raise DataError(
            f"--source_dir={address} has Parquet files, which {builder.name} does not read; prepare image_text, vqa or "
            "image_pairs."
        )
    builder.check_columns()
    builder.source_dir, builder.origin = download(address)
    return builder.source_dir


def _check_source(builder: ImageTextBuilder, source_dir: epath.PathLike | None) -> None:
    """Raise DataError for problems that show up before any long work and before anything is written."""
    if builder.NEEDS_SOURCE:
        if source_dir is None:
            raise DataError(f"{builder.name} needs --source_dir, the folder of its files.")
        if not as_path(source_dir).is_dir():
            raise DataError(f"--source_dir={source_dir} is not a folder; give {builder.name}'s.")
    builder.check()


def _generate(builder: ImageTextBuilder) -> None:
    """Write the records; TFDS writes to a temporary folder and renames it at the end."""
    for leftover in Path(builder.data_dir).parent.glob("incomplete.*"):
        shutil.rmtree(leftover)  # left by a killed run: this process holds the lock, so no other run is active
    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    # TFDS announces downloads and creates folders for them, although there are no downloads.
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as downloads:
        builder.download_and_prepare(download_config=config, download_dir=downloads)


def _generate_in_bucket(builder: ImageTextBuilder, folder: epath.Path, destination: ToBucket) -> None:
    """As `_generate`; the builder moves each file of records to `folder`, and the rest follows at the end."""
    destination.note(
        f"{tempfile.gettempdir()} takes each file before it is uploaded: up to {MAX_SHARD_BYTES >> 20} MiB, with "
        "--num_shards two files; TMPDIR names another folder"
    )
    folder.rmtree(missing_ok=True)  # left by a killed run
    try:
        _generate(builder)
        for file in sorted(Path(builder.data_dir).iterdir(), key=lambda file: file.name == _INFO_FILE):
            destination.check()
            upload(file, folder / file.name)
    except BaseException:
        with contextlib.suppress(Exception):
            destination.check()  # another run's files stay
            folder.rmtree(missing_ok=True)
        raise


def _index(builder_type: type[ImageTextBuilder], folder: AnyPath, progress: Progress | None) -> None:
    """Write the index of a folder whose records are complete."""
    try:
        info = tfds.builder_from_directory(folder).info
        about = dict(info.metadata or {})
        shards = {
            split.name: [
                (Path(path).name, length) for path, length in zip(split.filepaths, split.shard_lengths, strict=True)
            ]
            for split in info.splits.values()
        }
        if not shards or about["name"] != builder_type.name:
            raise ValueError("no splits")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{folder} is damaged ({error}); remove it and prepare the data set again.") from error
    if progress is not None:
        progress.start("index", sum(length for files in shards.values() for _, length in files))
    write_index(folder, shards, about, progress.step if progress is not None else lambda: None)


def _check_same_options(builder_type: type[ImageTextBuilder], folder: AnyPath, options: Mapping[str, Any]) -> None:
    """Check that a finished data set, which is not prepared again, has the requested options.

    Raises:
      DataError: an option differs.
    """
    prepared = read_summary(folder)["options"]
    for option, value in options.items():
        if option in builder_type.REGION_OPTIONS and not prepared.get("regions"):
            if value == builder_type.REGION_OPTIONS[option]:
                continue
            raise DataError(
                f"{folder} was prepared without --regions, and --{option}={value} asks for them; "
                "remove that folder or give another --data_dir."
            )
        if option == "regions":  # the same file may have moved, or be gone
            _check_same_detector(folder, value)
            continue
        if option not in builder_type.PATH_OPTIONS and prepared.get(option) != value:
            how = f"with --{option}={prepared[option]}" if option in prepared else f"by a release without --{option}"
            raise DataError(f"{folder} was prepared {how}, not {value}; remove that folder or give another --data_dir.")


def _check_same_detector(folder: AnyPath, regions: str) -> None:
    """Raise DataError if a finished data set has regions of another detector than a folder; both must be known."""
    summary = read_summary(folder)
    there = read_index(folder, next(iter(summary["splits"])), summary).detector
    given = read_detector(as_path(regions)) if regions else None
    same_detector([(str(folder), there), (f"--regions={regions}", given)])


def _check_same_shards(folder: AnyPath, num_shards: int | None) -> None:
    """Check the number of files, as `_check_same_options` does for the options."""
    for split, entry in read_summary(folder)["splits"].items():
        found = len(entry["shards"])
        if num_shards is not None and found != min(num_shards, entry["images"]):
            raise DataError(
                f"{folder} was prepared with {found} files of {split}, not --num_shards={num_shards}; "
                "remove that folder or give another --data_dir."
            )


def _expand_home(path: str) -> str:
    """The path with a leading ~ replaced by the user's home folder; other paths are unchanged."""
    return str(Path(path).expanduser()) if path.startswith("~") else path
