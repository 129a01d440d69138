"""The options of `experiments.evaluate`."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """Flags of `experiments.evaluate`; those below `shuffle_images` are for some tasks only.

    Attributes:
      split: the split to evaluate.
      shuffle_images: give each text another image: a control that must score worse.
      measure: "retrieval" or "tasks", of a pre-trained model.
      num_images: > 0: number of images, evenly spaced over the split.
      wordnet: folder of WordNet, for WUPS.
      rerank_top: > 0: score exactly only this many of each image's texts and of each text's images.
      rerank_pixels: pixels of each image in the first pass of re-ranking.
    """

    split: str = ""
    shuffle_images: bool = False
    measure: str = "retrieval"
    num_images: int = 0
    wordnet: str = ""
    rerank_top: int = 0
    rerank_pixels: int = 16

    def given(self) -> dict[str, Any]:
        """Flags that not every task takes and that have another value than their default."""
        names = ("measure", "num_images", "wordnet", "rerank_top")
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(EvaluationOptions, name)}
