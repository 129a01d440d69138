"""What a run reads, in which order and size: frozen dataclasses."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from data_pipelines.errors import DataError
from data_pipelines.images.resize import Canvas, ResizeRule, default_canvases


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One split of a prepared data set in a mixture."""

    name: str  # as given to `python -m data_pipelines.prepare`
    split: str = "train"  # "train+restval" takes both
    weight: float = 1.0  # passes over it an epoch: 0.5 sees each image every second epoch, 2 twice an epoch

    @classmethod
    def from_text(cls, text: str) -> "SourceConfig":
        """What NAME, NAME:SPLIT or NAME:SPLIT:WEIGHT stands for on a command line.

        Raises:
          ValueError: another form.
        """
        name, *rest = text.strip().split(":")
        if not name or len(rest) > 2 or not all(rest):
            raise ValueError(f"{text!r} is not NAME, NAME:SPLIT or NAME:SPLIT:WEIGHT")
        return cls(name, *rest[:1], *map(float, rest[1:]))


def check_weights(sources: Sequence[SourceConfig]) -> None:
    """Refuse a source that is passed over never or less.

    Raises:
      DataError: it names the source.
    """
    for source in sources:
        if source.weight <= 0:
            raise DataError(f"The weight {source.weight} of {source.name!r} must be positive.")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Everything between prepared data sets and a batch."""

    train: tuple[SourceConfig, ...]
    eval: tuple[SourceConfig, ...] = ()
    data_dir: str = "data"
    vocabulary: str = (
        "bert-base-uncased"  # vocab.txt, a folder with one, a hub's name; "": init.checkpoint's, or trained
    )
    vocabulary_size: int = 30522  # at most, when it is trained from the data set's own texts
    lowercase: bool = True  # words lower-cased and without accents; what lies beside the vocabulary must agree
    answers: str = ""  # list of answers to choose from (JSON or one a line); "": those of the training data
    answer_minimum: int = 9  # questions that an answer of the training data must be the answer of
    # votes: of several people, scored by their number (VQA); right: each alone is right; set: all together (DAQUAR).
    answers_are: Literal["votes", "right", "set"] = "votes"
    resize: ResizeRule = ResizeRule()
    canvases: tuple[Canvas, ...] = ()  # (height, width) each; empty: chosen for the resize rule
    batch_images: int = 1024  # rows of a global batch
    texts_per_image: int = 4  # K; a batch has batch_images * K pairs, matched and mismatched together
    max_text_length: int = 40  # tokens, [CLS] and [SEP] included
    epoch: Literal["texts", "images"] = "texts"  # what an epoch passes over once
    mask_rate: float = 0.15
    whole_word_masking: bool = False
    replaced_images: float = 0.0  # share of the mismatched pairs in which the image, not the text, is another's
    flip_rate: float = 0.0  # share of training visits that show the image mirrored; neither paper does that
    regions: int = 0  # a detector's regions of each image, the highest-scoring; 0: the model reads pixels
    whole_image: Literal["none", "mean", "stored"] = "none"  # one more: their mean, or the source's own feature
    region_mask_rate: float = 0.15
    region_keep_rate: float = 0.1  # share of the masked regions whose feature stays
    max_bad_records: int = 100  # damaged ones that a process leaves out before training stops; 0: the first stops it
    workers: int = 0  # processes that load; 0: threads of this one
    threads: int = 8  # a process; each makes one batch, so no more than `prefetch` are at work
    prefetch: int = 2  # batches ready or in the making, a worker

    def __post_init__(self) -> None:
        positive = ("batch_images", "texts_per_image", "threads", "prefetch")
        for name in positive:
            if getattr(self, name) < 1:
                raise DataError(f"data.{name}={getattr(self, name)} must be at least 1.")
        if self.max_text_length < 3:
            raise DataError(
                f"data.max_text_length={self.max_text_length} leaves no room for a word between [CLS] and [SEP]; "
                "use at least 3."
            )
        for name in ("mask_rate", "region_mask_rate"):
            if not 0 < getattr(self, name) < 1:
                raise DataError(f"data.{name}={getattr(self, name)} must lie between 0 and 1.")
        for name in ("replaced_images", "region_keep_rate", "flip_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"data.{name}={getattr(self, name)} must lie in [0, 1].")
        if self.max_bad_records < 0:
            raise DataError(f"data.max_bad_records={self.max_bad_records} must be at least 0.")
        if self.regions < 0 or (self.whole_image != "none" and not self.regions):
            raise DataError(
                f"data.regions={self.regions} with data.whole_image={self.whole_image!r}: set the first above 0 "
                "for a model of regions, or the second to 'none'."
            )
        if self.flip_rate and self.regions:
            raise DataError(
                f"data.flip_rate={self.flip_rate} mirrors pixels, which a model of regions does not read; set it to 0."
            )
        check_weights((*self.train, *self.eval))

    @property
    def all_canvases(self) -> tuple[Canvas, ...]:
        """The canvases in use: the given ones, or those that suit the resize rule; regions lie on none."""
        if self.regions:
            return ((0, 0),)
        return self.canvases or default_canvases(self.resize)

    @property
    def mask_slots(self) -> int:
        """M: masked places that a text of the greatest length can have."""
        return max(1, int(-(-self.mask_rate * (self.max_text_length - 2) // 1)))
