"""Search many images by a text: their pixel embeddings, computed once and kept in a file."""

import dataclasses
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from data_pipelines.datasets.layout import IMAGE_SUFFIXES, images_below
from data_pipelines.errors import DataError
from data_pipelines.storage.atomic_files import open_atomically
from data_pipelines.storage.bucket_errors import reason
from data_pipelines.storage.paths import AnyPath, as_path, is_dir
from pixelbert_jax.encoded_images import EncodedImages
from pixelbert_jax.errors import ConfigError, in_short
from pixelbert_jax.loading import LoadedModel
from pixelbert_jax.predictor_inputs import checked_top, listed_images

_FORMAT = 1
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


class Ranker(Protocol):
    """What an index needs of a `Predictor`."""

    loaded: LoadedModel
    batch_images: int
    batch_pairs: int

    def read(self, image: Any) -> Any:
        """An image that `encode` takes; raises ConfigError or DataError for what is not one."""

    def encode(self, images: Any) -> EncodedImages:
        """Visual tokens of images."""

    def rank(self, images: EncodedImages, text: str) -> list[tuple[int, float]]:
        """Indices of the images and their probabilities, best match first."""

    def requires(self, method: str) -> None:
        """Refuse what the model has no head for."""


@dataclasses.dataclass(frozen=True)
class ImageIndex:
    """Images that a model has encoded.

    Attributes:
      predictor: the model's predictor.
      names: paths of the images, or their indices in the list.
      encoded: their pixel embeddings, in the same order.
      skipped: path and reason of each file that is not a readable image.
    """

    predictor: Ranker
    names: tuple[str, ...]
    encoded: EncodedImages
    skipped: tuple[tuple[str, str], ...] = ()

    def search(self, text: str, top: int = 10) -> list[tuple[str, float]]:
        """Names of the images that match a text best, with their probabilities, best first.

        Raises:
          ConfigError: the model has no image-text matching (ITM) head, there is not exactly one text, or `top` is no
            number of 1 or more.
        """
        top = checked_top(top)
        ranked = self.predictor.rank(self.encoded, text)
        return [(self.names[i], probability) for i, probability in ranked[:top]]

    def save(self, path: str | Path) -> None:
        """Write one .npz file atomically; raises ConfigError if its folder does not exist or takes no file."""
        about = {"format": _FORMAT, "model": fingerprint(self.predictor.loaded), "names": self.names}
        arrays = {"about": np.array(json.dumps(about | {"skipped": self.skipped}))}
        for number, (indices, pixels_BxPxD, mask_BxP) in enumerate(self.encoded.chunks):
            arrays[f"indices_{number}"] = np.array(indices, np.int64)
            # NumPy's files have no bfloat16; float32 holds it exactly.
            arrays[f"pixels_{number}"] = np.asarray(pixels_BxPxD, np.float32)[: len(indices)]
            arrays[f"mask_{number}"] = np.asarray(mask_BxP)[: len(indices)]
        try:
            with open_atomically(as_path(path)) as file:
                np.savez(file, **arrays)
        except OSError as error:
            raise ConfigError(f"{path}: not written ({reason(error)}); give a file in a folder that exists.") from None

    @classmethod
    def load(cls, path: str | Path, predictor: Ranker) -> "ImageIndex":
        """Read what `save` wrote.

        Raises:
          ConfigError: no such file, another model made it, or it is damaged.
        """
        path = as_path(path)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                about = json.loads(str(stored["about"]))
                _check(about, predictor, path)
                chunks = _chunks(stored, predictor.loaded.task.model.dtype)
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such index; make one with Predictor.index and save it.") from None
        except ConfigError:
            raise
        except _DAMAGE as error:
            raise ConfigError(f"{path}: not a whole index ({in_short(error, 100)}); make it again.") from None
        names = tuple(map(str, about["names"]))
        if sorted(i for indices, _, _ in chunks for i in indices) != list(range(len(names))):
            raise ConfigError(f"{path}: not a whole index (images are missing); make it again.")
        return cls(predictor, names, EncodedImages(chunks, ()), tuple(map(tuple, about["skipped"])))


def make_index(
    predictor: Ranker,
    images: str | Path | Iterable[Any],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImageIndex:
    """Encode a folder's images, or a list.

    Args:
      predictor: a predictor whose model has an ITM head.
      images: a folder, whose images and those below it are taken in the order of their paths; or images of any kind,
        as the predictor's other methods take them.
      progress: called with the number of images that are done and the number of all images.

    Raises:
      ConfigError: the model has no ITM head; there is no such folder or no image in it; no image is readable.
    """
    predictor.requires("match")
    from_folder = isinstance(images, str | os.PathLike)
    listed = _listed(as_path(images)) if from_folder else listed_images(images)
    names, skipped, rows, pending = [], [], [], []

    def encode() -> None:
        first = len(rows)
        rows.extend([None] * len(pending))
        for indices, pixels_BxPxD, mask_BxP in predictor.encode(pending).chunks:
            for row, index in enumerate(indices):
                rows[first + index] = (np.asarray(pixels_BxPxD[row]), np.asarray(mask_BxP[row]))
        pending.clear()

    for number, image in enumerate(listed):
        try:
            pending.append(predictor.read(image))
            names.append(str(image) if isinstance(image, str | os.PathLike) else str(number))
        except (ConfigError, DataError) as error:
            if not from_folder:
                raise
            skipped.append((str(image), in_short(error)))
        if len(pending) == predictor.batch_images:
            encode()
        progress(number + 1, len(listed))
    if pending:
        encode()
    if not listed:
        raise ConfigError("An index of no images was asked for; give at least one.")
    if not names:
        raise ConfigError(f"{images}: none of {len(listed)} files is a readable image (first: {skipped[0][1]}).")
    encoded = EncodedImages(_batches(rows, predictor.batch_pairs), ())
    return ImageIndex(predictor, tuple(names), encoded, tuple(skipped))


def _listed(folder: AnyPath) -> list[AnyPath]:
    """The images of a folder; raises ConfigError if there is none."""
    if not is_dir(folder):
        raise ConfigError(f"{folder}: no such folder; give one with image files.")
    files = images_below(folder)
    if not files:
        raise ConfigError(f"{folder}: no image files in it ({', '.join(sorted(IMAGE_SUFFIXES))}); give another folder.")
    return files


def fingerprint(loaded: LoadedModel) -> str:
    """Digest of a model's weights and of its image settings. Only the same checkpoint or export has the same digest."""
    known = loaded.description.get("digest") or json.dumps(loaded.description.get("sha256"), sort_keys=True)
    return hashlib.blake2b(f"{known} {loaded.task.model.dtype}".encode(), digest_size=16).hexdigest()


def _batches(rows: list[tuple[np.ndarray, np.ndarray]], size: int) -> tuple:
    """Batches of up to `size` images that have the same number of pixels."""
    groups: dict[int, list[int]] = {}
    for index, (pixels_PxD, _) in enumerate(rows):
        groups.setdefault(len(pixels_PxD), []).append(index)
    return tuple(
        (tuple(part), *(jax.device_put(np.stack([rows[index][k] for index in part])) for k in (0, 1)))
        for group in groups.values()
        for part in (group[start : start + size] for start in range(0, len(group), size))
    )


def _chunks(stored: Any, dtype: str) -> tuple:
    chunks = []
    for number in range(sum(name.startswith("indices_") for name in stored.files)):
        indices, pixels, mask = (stored[f"{name}_{number}"] for name in ("indices", "pixels", "mask"))
        if pixels.ndim != 3 or mask.shape != pixels.shape[:2] or indices.shape != pixels.shape[:1]:
            raise ValueError("arrays that do not fit each other")
        chunks.append((tuple(indices.tolist()), jax.device_put(pixels.astype(dtype)), jax.device_put(mask)))
    return tuple(chunks)


def _check(about: dict[str, Any], predictor: Ranker, path: Path) -> None:
    if about["format"] != _FORMAT:
        raise ConfigError(f"{path}: an index of format {about['format']!r}, this code reads {_FORMAT}; make it again.")
    if about["model"] != fingerprint(predictor.loaded):
        raise ConfigError(f"{path}: another model made it than {predictor.loaded.path}; make it again with this one.")
