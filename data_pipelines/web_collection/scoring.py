"""Score how well texts fit an image, with a trained model.

Only this file of the package needs pixelbert_jax and so JAX. They are imported when the model is loaded on the workers,
so that the other stages run without them.
"""

from collections.abc import Sequence
from typing import Any

from data_pipelines.errors import DataError

_DIGITS = 4  # further digits of a score depend on the machine
_CAN_MATCH = ("pretraining", "retrieval")


class Scorer:
    """A trained head for image-text matching: the probability that an image and a text belong together."""

    def __init__(self, path: str, checkpoint: str = "best") -> None:
        """Load a model, of a run its "best" or "last" checkpoint.

        Raises:
          DataError: it does not exist, or was not trained for image-text matching.
        """
        from pixelbert_jax.errors import ConfigError
        from pixelbert_jax.predictor import Predictor

        check_model(path, checkpoint)
        try:
            self._predictor: Any = Predictor.load(path, checkpoint=checkpoint)
        except ConfigError as error:
            raise DataError(f"--model: {error}") from None

    def score(self, encoded: bytes, texts: Sequence[str]) -> list[float]:
        """The score of each text with the image, rounded to four digits.

        Images are scored one by one, so that scores do not depend on other images. A text that is too long for the
        model is scored by its first words.

        Raises:
          DataError: a score is NaN.
        """
        cut = [self._cut(text) for text in texts]
        scores = [round(float(score), _DIGITS) for score in self._predictor.match(encoded, cut)[0]]
        if any(score != score for score in scores):
            raise DataError(f"--model={self._predictor.loaded.path} gives no number for {texts[0][:60]!r}; train it.")
        return scores

    def _cut(self, text: str) -> str:
        """The first words of a text, as many as fit in the model's maximum length."""
        tokenizer = self._predictor.tokenizer
        max_tokens = self._predictor.loaded.task.model.text.max_positions - 2  # without [CLS] and [SEP]
        words = text.split()
        while len(words) > 1 and len(tokenizer.pieces(" ".join(words))) > max_tokens:
            words.pop()
        if len(tokenizer.pieces(" ".join(words))) <= max_tokens:
            return " ".join(words)
        return words[0][:max_tokens]  # a token has at least one character


def check_model(path: str, checkpoint: str = "best") -> str:
    """The model at `path` for the summary, with its step; its arrays are not read.

    Raises:
      DataError: there is no model, or it was not trained for image-text matching of pixels.
    """
    from pixelbert_jax.errors import ConfigError
    from pixelbert_jax.loading import find_description, origin_of

    try:
        folder, description = find_description(path, checkpoint)
    except ConfigError as error:
        raise DataError(f"--model: {error}") from None
    if description["task"] not in _CAN_MATCH:
        raise DataError(
            f"--model={path} was trained for {description['task']}, not to match images and texts; "
            f"give a run of the task {' or '.join(_CAN_MATCH)}."
        )
    if "regions" in description["config"]["model"]:
        raise DataError(f"--model={path} reads regions, which a crawl does not have; give a run of Pixel-BERT.")
    return origin_of(folder, description)
