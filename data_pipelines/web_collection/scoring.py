"""How well texts fit an image, by a trained model.

The only file of this package that needs pixelbert_jax, and so JAX; it imports it where the model is loaded, on the
workers, so that the other stages run without.
"""

from collections.abc import Sequence
from typing import Any

from data_pipelines.errors import DataError

_DIGITS = 4  # beyond them a score depends on the machine
_CAN_MATCH = ("pretraining", "retrieval")


class Scorer:
    """A trained matching head: the probability that an image and a text belong together."""

    def __init__(self, path: str) -> None:
        """Load a model; raises DataError if there is none, or it was not trained to match."""
        from pixelbert_jax.errors import ConfigError
        from pixelbert_jax.predictor import Predictor

        check_model(path)
        try:
            self._predictor: Any = Predictor.load(path)
        except ConfigError as error:
            raise DataError(f"--model: {error}") from None

    def score(self, encoded: bytes, texts: Sequence[str]) -> list[float]:
        """Of each text with the image, rounded to four digits.

        An image is scored alone, so that its scores do not depend on its neighbours. Texts that are too long for the
        model are scored by their first words.

        Raises:
          DataError: the model gives no number.
        """
        cut = [self._cut(text) for text in texts]
        scores = [round(float(score), _DIGITS) for score in self._predictor.match(encoded, cut)[0]]
        if any(score != score for score in scores):
            raise DataError(f"--model={self._predictor.loaded.path} gives no number for {texts[0][:60]!r}; train it.")
        return scores

    def _cut(self, text: str) -> str:
        """As many words from the beginning as the model can read."""
        tokenizer, most = self._predictor.tokenizer, self._predictor.loaded.task.model.text.max_positions
        words = text.split()
        while len(words) > 1 and len(tokenizer.pieces(" ".join(words))) > most - 2:
            words.pop()
        if len(tokenizer.pieces(" ".join(words))) <= most - 2:
            return " ".join(words)
        return words[0][: most - 2]  # a token has at least one character


def check_model(path: str) -> None:
    """Raise DataError unless a trained model that can match lies at `path`; its arrays are not read."""
    from pixelbert_jax.errors import ConfigError
    from pixelbert_jax.loading import find_description

    try:
        _, description = find_description(path)
    except ConfigError as error:
        raise DataError(f"--model: {error}") from None
    if description["task"] not in _CAN_MATCH:
        raise DataError(
            f"--model={path} was trained for {description['task']}, not to match images and texts; "
            f"give a run of the task {' or '.join(_CAN_MATCH)}."
        )
    if "regions" in description["config"]["model"]:
        raise DataError(f"--model={path} reads regions, which a crawl does not have; give a run of Pixel-BERT.")
