"""An object detector of the DETR family from Hugging Face: images in, regions out. Needs the extra `detect`.

A region is a query of the decoder: its feature is the query's last hidden state, from which the model computes the box
and the class of the same query.
"""

import hashlib
import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import DataError, in_short
from data_pipelines.hub import snapshot
from data_pipelines.images.files import BadImageError
from data_pipelines.regions.rows import MAX_BOXES, BadRowError, Row
from data_pipelines.regions.usable import usable
from data_pipelines.storage.regions import Regions

_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "*.safetensors")
_HUB_FILES = (*_FILES, "*.safetensors.index.json")
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_PROBE = (64, 96)  # height and width of the image that tests the model's output
NO_REGION = "no region with an area and with --min_confidence"


class Detector:
    """A loaded detector.

    Attributes:
      description: as JSON, for `detector.json` (`data_pipelines.storage.detectors`).
      batch_size: maximum number of images that go through the model together.
    """

    def __init__(
        self, name: str, model: Any, processor: Any, *, top: int, min_confidence: float, batch_size: int
    ) -> None:
        """Keep a model on its device, with its image processor; `load` makes both."""
        self.batch_size = batch_size
        self._name, self._model, self._processor = name, model, processor
        self._top, self._min_confidence = top, min_confidence
        labels = model.config.id2label
        self._classes = [str(labels.get(number, number)) for number in range(model.config.num_labels)]
        self.description: dict[str, Any] = {}

    @classmethod
    def load(
        cls, name: str, *, device: str = "auto", top: int = 100, min_confidence: float = 0.0, batch_size: int = 8
    ) -> "Detector":
        """Load a model and test its output on a grey image.

        Args:
          name: a local folder, or a repository of the Hugging Face hub, with weights as safetensors.
          device: "auto" (a GPU if there is one), "cpu" or "cuda".
          top: number of regions to keep per image, those of the highest confidence.
          min_confidence: regions below it are dropped, 0 to 1.
          batch_size: maximum number of images that go through the model together.

        Raises:
          DataError: torch is not installed, the options are out of range, or this is no detector that gives a hidden
            state, a box and class logits for each query; or a number of its weights is none (NaN, infinity, a negative
            variance).
        """
        if not 1 <= top <= MAX_BOXES:
            raise DataError(f"--top={top} is not between 1 and {MAX_BOXES:,}.")
        if not 0 <= min_confidence < 1:
            raise DataError(f"--min_confidence={min_confidence:g} is not between 0 and 1.")
        if batch_size < 1:
            raise DataError(f"--batch_size={batch_size} is not positive.")
        torch, transformers = _libraries()
        if device == "cuda" and not torch.cuda.is_available():
            raise DataError("--device=cuda, but torch finds no GPU; give --device=cpu.")
        folder, revision = _folder_of(name)
        try:
            model, report = transformers.AutoModelForObjectDetection.from_pretrained(
                folder,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
            processor = transformers.AutoImageProcessor.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
        except Exception as error:  # of several libraries
            raise DataError(
                f"--detector={name} cannot be loaded as an object detector ({in_short(error)}); give a model of the "
                "DETR family with its config.json, preprocessor_config.json and safetensors."
            ) from error
        if lacking := sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"]))):
            raise DataError(
                f"--detector={name} has no weights for {len(lacking)} parts of a {type(model).__name__} (first: "
                f"{in_short(lacking[0])}); give a trained detector."
            )
        statistics = (
            entry for entry in model.named_buffers() if "running_" in entry[0]
        )  # other buffers may be infinite
        for tensor_name, tensor in (*model.named_parameters(), *statistics):
            negative = tensor_name.endswith("running_var") and bool((tensor < 0).any())
            if negative or not torch.isfinite(tensor).all():
                what = "a negative variance" if negative else "NaN or infinity"
                raise DataError(
                    f"--detector={name}: {tensor_name} holds {what}; download it again, or take another detector."
                )
        on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        detector = cls(
            name,
            model.eval().to("cuda" if on_gpu else "cpu"),
            processor,
            top=top,
            min_confidence=min_confidence,
            batch_size=batch_size,
        )
        hidden_BxQxF, *_ = detector._outputs(np.full((1, *_PROBE, 3), 128, np.uint8))
        fingerprint = _fingerprint(folder)
        detector.description = {
            "name": name if revision else folder.name,
            "revision": revision or fingerprint,
            "fingerprint": fingerprint,
            "family": model.config.model_type,
            "image_processor": type(processor).__name__,
            "feature_size": hidden_BxQxF.shape[2],
            "classes": detector._classes,
            "top": top,
            "min_confidence": min_confidence,
            "versions": {library: importlib.metadata.version(library) for library in ("torch", "transformers")},
        }
        return detector

    def __call__(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """The regions of images of any size, as a data set that is prepared with this detector's regions has them.

        Args:
          images: uint8 RGB, HxWx3 each.

        Raises:
          BadImageError: the image processor refuses the size of an image.
          DataError: an image has no region that can be used.
        """
        found: dict[int, Regions] = {}
        for indices in batches_of_one_size([image.shape[:2] for image in images], self.batch_size):
            rows = self.detect(np.stack([images[index] for index in indices]))
            for index, row in zip(indices, rows, strict=True):
                try:
                    found[index] = self.checked(row)
                except BadRowError as fault:
                    raise DataError(f"Image {index} of {len(images)} cannot be used: {fault}.") from fault
        return [found[index] for index in range(len(images))]

    def detect(self, pixels_BxHxWx3: np.ndarray) -> list[Row | None]:
        """The regions of uint8 RGB images of one size, the highest confidence first; None for an image without any.

        Boxes are in pixels, clipped to the image. A region has the most probable class of its query, and never the
        class "no object".

        Raises:
          BadImageError: the image processor refuses the size.
          DataError: the model's output has another form, or the GPU's memory is too small.
        """
        height, width = pixels_BxHxWx3.shape[1:3]
        return [self._row(*image, height, width) for image in zip(*self._outputs(pixels_BxHxWx3), strict=True)]

    def checked(self, row: Row | None) -> Regions:
        """The regions of a row that `detect` returned, as `prepare` stores them; raises BadRowError."""
        if row is None:
            raise BadRowError(NO_REGION)
        return usable(row, row.layout, int(row.height), int(row.width), self._top).regions

    def _outputs(self, pixels_BxHxWx3: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Hidden states BxQxF, boxes BxQx4 (centre, width and height as fractions), confidences BxQ, classes BxQ."""
        import torch

        try:
            inputs = self._processor(list(pixels_BxHxWx3), input_data_format="channels_last", return_tensors="pt")
        except Exception as error:  # of several libraries
            raise BadImageError("a size that the detector's image processor refuses") from error
        try:
            with torch.inference_mode():
                output = self._model(**inputs.to(self._model.device))
                hidden, boxes, logits = (
                    getattr(output, key, None) for key in ("last_hidden_state", "pred_boxes", "logits")
                )
                if any(tensor is None for tensor in (hidden, boxes, logits)):
                    raise self._refused("its output lacks last_hidden_state, pred_boxes or logits")
                if self._model.config.model_type == "yolos":  # an encoder, whose last tokens are the queries
                    hidden = hidden[:, -boxes.shape[1] :]
                if not hidden.shape[:2] == boxes.shape[:2] == logits.shape[:2]:
                    raise self._refused(
                        f"its {hidden.shape[1]} hidden states and {boxes.shape[1]} boxes are not of the same queries"
                    )
                number = len(self._classes)
                if logits.shape[2] == number + 1:  # the last one is "no object"
                    probabilities = logits.softmax(-1)[..., :number]
                elif logits.shape[2] == number:
                    probabilities = logits.sigmoid()
                else:
                    raise self._refused(f"it has {logits.shape[2]} logits for {number} classes")
                scores, classes = probabilities.max(-1)
                return tuple(tensor.cpu().numpy() for tensor in (hidden, boxes, scores, classes))
        except torch.OutOfMemoryError as error:
            raise DataError(
                f"The GPU's memory is too small for {len(pixels_BxHxWx3)} images; lower --batch_size."
            ) from error

    def _refused(self, reason: str) -> DataError:
        return DataError(
            f"--detector={self._name} is a {type(self._model).__name__}, and {reason}; give a model of the DETR family."
        )

    def _row(
        self,
        features_QxF: np.ndarray,
        boxes_Qx4: np.ndarray,
        scores_Q: np.ndarray,
        classes_Q: np.ndarray,
        height: int,
        width: int,
    ) -> Row | None:
        sides_2 = np.array([width, height], np.float32)
        low_Qx2, high_Qx2 = (
            np.clip((boxes_Qx4[:, :2] + sign * boxes_Qx4[:, 2:] / 2) * sides_2, 0, sides_2) for sign in (-1, 1)
        )
        # NaN is kept, so that it is reported and not taken for a box without area.
        kept = np.flatnonzero(~((high_Qx2 <= low_Qx2).any(1) | (scores_Q < self._min_confidence)))
        if not len(kept):
            return None
        best = kept[np.argsort(-scores_Q[kept], kind="stable")][: self._top]
        return Row(
            features=features_QxF[best],
            boxes=np.concatenate([low_Qx2, high_Qx2], 1)[best].astype(np.float64),
            in_pixels=True,
            height=float(height),
            width=float(width),
            classes=classes_Q[best],
            scores=scores_Q[best],
            global_feature=np.zeros(0),
        )


def batches_of_one_size(sizes: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Indices of images in batches of equal height and width, so that no image is padded for the sake of another."""
    of_size: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        of_size.setdefault(size, []).append(index)
    return [
        indices[start : start + batch_size]
        for indices in of_size.values()
        for start in range(0, len(indices), batch_size)
    ]


def _libraries() -> tuple[Any, Any]:
    """Torch and transformers, which are imported only where a detector is used."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise DataError(
            "A detector takes PyTorch, which is not installed; install it with `pip install 'pixelbert_jax[detect]'`."
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return torch, transformers


def _folder_of(name: str) -> tuple[Path, str]:
    """The folder of a model, and its commit on the hub; "" for a local folder."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve(), ""
    if not _HUB_NAME.fullmatch(name):
        raise DataError(f"--detector={name}: no such folder; give one that exists, or a Hugging Face name.")
    try:
        folder = snapshot(name, _HUB_FILES)
    except Exception as error:  # of several libraries
        raise DataError(
            f"--detector={name} is neither a folder here nor a Hugging Face repository that can be fetched "
            f"({in_short(error)}); give a folder that exists, or download the repository first."
        ) from None
    return folder, folder.name  # the hub's cache has a folder for each commit


def _fingerprint(folder: Path) -> str:
    """Hex digest of the weights and the configuration; the same wherever the folder is."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted({path for pattern in _FILES for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
