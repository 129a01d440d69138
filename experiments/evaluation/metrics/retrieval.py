"""Recall of image-text retrieval, with ties counted against the model."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import DataError


@dataclasses.dataclass(frozen=True)
class Ranks:
    """How many wrong items rank before the first right one; 0 is best. A wrong item with an equal score ranks before.

    Attributes:
      text_I: int64, for each image the rank of its best text among all texts.
      image_T: int64, for each text the rank of its image among all images.
    """

    text_I: np.ndarray
    image_T: np.ndarray

    def recalls(self, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """Share of the queries whose rank is below each k: text_recall_K (query: image) and image_recall_K."""
        ranks = {"text": self.text_I, "image": self.image_T}
        return {f"{kind}_recall_{k}": float((rank < k).mean()) for kind, rank in ranks.items() for k in ks}


def rank_items(scores_IxT: np.ndarray, image_of_text: np.ndarray) -> Ranks:
    """Rank every text for every image and every image for every text, exactly, in the memory of one more row.

    Args:
      scores_IxT: a score for each image and text, more is better; may be infinite.
      image_of_text: T indices of the images that the texts describe.

    Raises:
      DataError: the shapes do not fit, a score is not a number, or an image has no text.
    """
    scores_IxT, image_of_text = np.asarray(scores_IxT), np.asarray(image_of_text)
    _check(scores_IxT, image_of_text)
    images, texts = scores_IxT.shape
    right_T = scores_IxT[image_of_text, np.arange(texts)]
    text_I, image_T = np.zeros(images, np.int64), np.zeros(texts, np.int64)
    for image, score_T in enumerate(scores_IxT):
        if np.isnan(score_T).any():
            raise DataError(f"A score of image {image} is not a number; score it again, in float32.")
        own_T = image_of_text == image
        text_I[image] = (~own_T & (score_T >= score_T[own_T].max())).sum()
        image_T += ~own_T & (score_T >= right_T)
    return Ranks(text_I, image_T)


def recalls(scores_IxT: np.ndarray, image_of_text: np.ndarray, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """text_recall_K and image_recall_K, shares in [0, 1], of `rank_items`; arguments and exceptions as there."""
    return rank_items(scores_IxT, image_of_text).recalls(ks)


def folded_recalls(
    scores_IxT: np.ndarray, image_of_text: np.ndarray, folds: int = 5, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Mean of `recalls` over folds of consecutive images with their texts: COCO 1K is five folds of the 5K test images.

    Raises:
      DataError: as `rank_items`, or the images cannot be cut into equal folds.
    """
    scores_IxT, image_of_text = np.asarray(scores_IxT), np.asarray(image_of_text)
    _check(scores_IxT, image_of_text)
    images = len(scores_IxT)
    if folds < 1 or images % folds:
        raise DataError(f"{images} images cannot be cut into {folds} equal folds; choose another number of folds.")
    size, results = images // folds, []
    for start in range(0, images, size):
        texts = np.flatnonzero((image_of_text >= start) & (image_of_text < start + size))
        results.append(recalls(scores_IxT[start : start + size, texts], image_of_text[texts] - start, ks))
    return {key: sum(result[key] for result in results) / folds for key in results[0]}


def _check(scores_IxT: np.ndarray, image_of_text: np.ndarray) -> None:
    if scores_IxT.ndim != 2 or not scores_IxT.size or image_of_text.shape != scores_IxT.shape[1:]:
        raise DataError(
            f"Scores of shape {scores_IxT.shape} do not fit {image_of_text.shape} texts; give a row for each image."
        )
    images = len(scores_IxT)
    if image_of_text.dtype.kind not in "iu" or image_of_text.min() < 0 or image_of_text.max() >= images:
        raise DataError(f"The images of the texts are not indices of {images} images; give one for each text.")
    without = np.setdiff1d(np.arange(images), image_of_text)
    if len(without):
        raise DataError(
            f"Image {without[0]} has no text, so none can be found; leave out the {len(without)} such images."
        )
