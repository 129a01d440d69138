"""Detect the regions of all images in a folder, and write one .npz file per image."""

import collections
import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data_pipelines.datasets.candidates import FileBytes
from data_pipelines.datasets.layout import IMAGE_SUFFIXES, images_below
from data_pipelines.errors import DataError
from data_pipelines.images.files import BadImageError, verify
from data_pipelines.images.orientation import AS_STORED
from data_pipelines.images.resize import decode
from data_pipelines.regions.detector import Detector, batches_of_one_size
from data_pipelines.regions.ids import normal_id
from data_pipelines.regions.npz_folder import read_npz
from data_pipelines.regions.rows import BadRowError, Row
from data_pipelines.storage.atomic_files import remove_leftovers, write_atomically
from data_pipelines.storage.detectors import DETECTOR_FILE, DetectorDescription, read_detector, same_detector
from data_pipelines.storage.folder_lock import only_one

_WINDOW_BATCHES = 8  # images of that many batches are sorted by size
_LISTED = 20  # skipped images in the summary
_OPTIONS = ("image_processor", "top", "min_confidence", "upright")


@dataclasses.dataclass(frozen=True)
class _Examined:
    """An image that has been decoded once without fault."""

    path: Path
    encoded: bytes
    size: tuple[int, int]  # height and width in pixels
    orientation: int


@dataclasses.dataclass
class DetectionReport:
    """What became of the images.

    Attributes:
      written: number of images whose regions were written.
      found: number of images whose regions were there before.
      turned: number of written images that were turned upright by their orientation tag.
      skipped: path and reason of each skipped image.
    """

    written: int = 0
    found: int = 0
    turned: int = 0
    skipped: list[tuple[Path, str]] = dataclasses.field(default_factory=list)

    def lines(self) -> list[str]:
        """Lines of a summary."""
        there = f", {self.found:,} there before" if self.found else ""
        lines = [f"regions of {self.written + self.found:,} images{there}"]
        if self.turned:
            lines.append(f"turned upright by their orientation tag: {self.turned:,}")
        if self.skipped:
            reasons = collections.Counter(reason for _, reason in self.skipped)
            lines.append(f"skipped: {', '.join(f'{count:,} {reason}' for reason, count in reasons.items())}")
            lines += [f"  {path}: {reason}" for path, reason in self.skipped[:_LISTED]]
            if (more := len(self.skipped) - _LISTED) > 0:
                lines.append(f"  ... and {more:,} more")
        return lines


def find_images(folder: Path) -> list[Path]:
    """Relative paths of the image files in a folder and below it, by their suffix, without hidden ones.

    Raises:
      DataError: the folder is missing or has no image, or two images have the same id.
    """
    if not folder.is_dir():
        raise DataError(f"--images={folder} is not a folder; give one with image files.")
    files = [path.relative_to(folder) for path in images_below(folder)]
    if not files:
        raise DataError(
            f"--images={folder} has no image files ({', '.join(sorted(IMAGE_SUFFIXES))}); give another folder."
        )
    first: dict[str, Path] = {}
    for path in files:
        other = first.setdefault(normal_id(path.as_posix()), path)
        if other is not path:
            raise DataError(
                f"--images={folder}: regions of {other} and {path} would have the same id, and `prepare` could not "
                "tell them apart; rename one, or give a folder with one of them."
            )
    return files


def detect_folder(
    folder: Path,
    images: Sequence[Path],
    output: Path,
    detector: Detector,
    *,
    upright: bool = True,
    num_threads: int = 4,
    start: Callable[[str, int | None], None] = lambda stage, total: None,
    step: Callable[[], None] = lambda: None,
) -> DetectionReport:
    """Write the regions of images to `output`, in the form that `prepare --regions` reads.

    An image whose regions are there is not written again. The batches depend only on `images` and the batch size, so
    that a run that was stopped and continued gives the same files as one that was not.

    Args:
      folder: folder of the images.
      images: their paths relative to it, from `find_images`.
      output: folder to write; the regions of PATH are in PATH.npz there.
      detector: loaded detector.
      upright: turn images by their orientation tag, as `prepare` does for users' own images.
      num_threads: threads that read and decode images.
      start, step: display of the progress.

    Raises:
      DataError: `output` has regions of another detector or with other options, or cannot be written; or no image has
        regions.
    """
    report = DetectionReport()
    window = _WINDOW_BATCHES * detector.batch_size
    windows = [images[first : first + window] for first in range(0, len(images), window)]
    with only_one(output, "output"), ThreadPoolExecutor(num_threads) as pool:
        there: set[Path] = set()
        if _is_begun(output, detector.description | {"upright": upright}):
            start("regions that are there", len(images))
            feature_size = detector.description["feature_size"]
            whole = pool.map(lambda path: _is_whole(_npz(output, path), feature_size), images)
            for path, is_whole in zip(images, whole, strict=True):
                step()
                if is_whole:
                    there.add(path)
        report.found = len(there)
        start("regions", len(images) - len(there))
        incomplete = [part for part in windows if not there.issuperset(part)]
        for examined in _examine_ahead(folder, incomplete, upright, pool):
            good = []
            for path, result in examined:
                if isinstance(result, _Examined):
                    good.append(result)
                elif path not in there:
                    report.skipped.append((path, result))
                    step()
            for indices in batches_of_one_size([image.size for image in good], detector.batch_size):
                batch = [good[index] for index in indices]
                if not there.issuperset(image.path for image in batch):
                    _detect_batch(batch, output, detector, there, report, pool, step)
    if not report.written + report.found:
        raise DataError(f"No image of {folder} has regions: {'; '.join(report.lines()[1:_LISTED])}.")
    return report


def _detect_batch(
    batch: Sequence[_Examined],
    output: Path,
    detector: Detector,
    there: set[Path],
    report: DetectionReport,
    pool: ThreadPoolExecutor,
    step: Callable[[], None],
) -> None:
    """Write the regions of those images of a batch that are not there yet."""
    pixels = list(pool.map(lambda image: decode(image.encoded, str(image.path), image.orientation), batch))
    try:
        rows = detector.detect(np.stack(pixels))
    except BadImageError as error:
        rows = [error.reason] * len(batch)
    for image, row in zip(batch, rows, strict=True):
        if image.path in there:
            continue
        step()
        try:
            if isinstance(row, str):
                raise BadRowError(row)
            detector.checked(row)
        except BadRowError as fault:
            report.skipped.append((image.path, str(fault)))
            continue
        _write(_npz(output, image.path), row)
        report.written += 1
        report.turned += image.orientation != AS_STORED


def _examine_ahead(
    folder: Path, windows: Sequence[Sequence[Path]], upright: bool, pool: ThreadPoolExecutor
) -> Iterator[list[tuple[Path, _Examined | str]]]:
    """For each window its paths with images or faults; threads examine the next window while one is used."""
    ahead = None
    for window in (*windows, None):
        submitted = window and [(path, pool.submit(_examine, folder, path, upright)) for path in window]
        if ahead:
            yield [(path, future.result()) for path, future in ahead]
        ahead = submitted


def _examine(folder: Path, path: Path, upright: bool) -> _Examined | str:
    """Read an image and check it as `prepare` does; returns the reason if it cannot be used."""
    try:
        encoded = FileBytes(folder / path)()
        header = verify(encoded, turn=upright)
    except BadImageError as error:
        return error.reason
    except OSError as error:
        return error.strerror or type(error).__name__
    return _Examined(path, encoded, (header.height, header.width), header.orientation)


def _npz(output: Path, path: Path) -> Path:
    # The suffix of the image stays: `prepare` drops it, and only it, from both ids.
    return output / f"{path}.npz"


def _is_whole(path: Path, feature_size: int) -> bool:
    """Whether a file of regions is complete."""
    try:
        return read_npz(path).layout.region_size == feature_size
    except (BadRowError, OSError):
        return False


def _write(path: Path, row: Row) -> None:
    content = io.BytesIO()
    np.savez(
        content,
        features=row.features.astype(np.float16),  # as records have them
        boxes=row.boxes.astype(np.float32),
        objects_id=row.classes.astype(np.int32),
        objects_conf=row.scores.astype(np.float32),
        image_h=np.int32(row.height),
        image_w=np.int32(row.width),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    write_atomically(path, content.getvalue())


def _is_begun(output: Path, description: DetectorDescription) -> bool:
    """Whether the folder has regions of this detector; writes its description into a new folder.

    Raises:
      DataError: the folder has regions of another detector, or with other options.
    """
    before = read_detector(output)
    if before is None:
        if next(output.rglob("*.npz"), None) is not None:
            raise DataError(f"--output={output} has regions of an unknown detector; give another folder.")
        write_atomically(output / DETECTOR_FILE, json.dumps(description, indent=1) + "\n")
        return False
    same_detector([(f"--output={output}", before), ("this call", description)])
    for option in _OPTIONS:
        if before.get(option) != description[option]:
            raise DataError(
                f"--output={output} has regions with {option}={before.get(option)}, and this call has "
                f"{description[option]}; give the same option, or another folder."
            )
    return True
