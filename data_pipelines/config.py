"""Which data a run reads, in which order and batch size: frozen dataclasses."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from data_pipelines.errors import DataError
from data_pipelines.images.resize import Canvas, ResizeRule, default_canvases


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """One split of a prepared data set in a mixture of sources."""

    name: str  # as given to `python -m data_pipelines.prepare`
    split: str = "train"  # "train+restval" uses both
    weight: float = 1.0  # passes per epoch: with 0.5 each image comes every second epoch, with 2 twice per epoch

    @classmethod
    def from_text(cls, text: str) -> "SourceConfig":
        """Parse NAME, NAME:SPLIT or NAME:SPLIT:WEIGHT from a command line.

        Raises:
          ValueError: the text has another form.
        """
        name, *rest = text.strip().split(":")
        if not name or len(rest) > 2 or not all(rest):
            raise ValueError(f"{text!r} is not NAME, NAME:SPLIT or NAME:SPLIT:WEIGHT")
        return cls(name, *rest[:1], *map(float, rest[1:]))


def check_weights(sources: Sequence[SourceConfig]) -> None:
    """Check that the weights of all sources are positive.

    Raises:
      DataError: a weight is zero or negative; the message names the source.
    """
    for source in sources:
        if source.weight <= 0:
            raise DataError(f"The weight {source.weight} of {source.name!r} must be positive.")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Settings for the path from prepared data sets to batches."""

    train: tuple[SourceConfig, ...]
    eval: tuple[SourceConfig, ...] = ()
    data_dir: str = "data"  # folder of the prepared data sets
    # A vocab.txt, a folder that has one, or a name on the Hugging Face hub; "": that of init.checkpoint, or trained.
    vocabulary: str = "bert-base-uncased"
    vocabulary_size: int = 30522  # maximum size of a vocabulary that is trained from the texts of the data set
    lowercase: bool = True  # lower-case the texts and strip accents; the vocabulary's tokenizer files must agree
    answers: str = ""  # file with the list of answers (JSON or one per line); "": the answers of the training data
    answer_minimum: int = 9  # an answer of the training data is used if it answers at least this many questions
    # votes: answers of several people, scored by their number (VQA). right: each answer is right by itself.
    # set: the answers are right only together (DAQUAR).
    answers_are: Literal["votes", "right", "set"] = "votes"
    resize: ResizeRule = ResizeRule()  # of all images
    canvases: tuple[Canvas, ...] = ()  # (height, width) of each canvas; empty: derived from the resize rule
    batch_images: int = 1024  # rows of a global batch
    texts_per_image: int = 4  # K; a batch has batch_images * K pairs, both matched and mismatched
    max_text_length: int = 40  # tokens, including [CLS] and [SEP]
    epoch: Literal["texts", "images"] = "texts"  # one epoch is one pass over all texts, or over all images
    mask_rate: float = 0.15  # share of the tokens that are masked
    whole_word_masking: bool = False  # mask all tokens of a word together
    replaced_images: float = 0.0  # share of the mismatched pairs in which the image is replaced instead of the text
    flip_rate: float = 0.0  # share of the training visits with a mirrored image; not in either paper
    regions: int = 0  # highest-scoring regions of a detector to use per image; 0: the model reads pixels
    # One more feature for the whole image: the mean of its regions' features, or the feature stored in the source.
    whole_image: Literal["none", "mean", "stored"] = "none"
    region_mask_rate: float = 0.15  # share of the regions that are masked
    region_keep_rate: float = 0.1  # share of the masked regions that keep their feature
    max_bad_records: int = 100  # damaged records that a process skips before training stops; 0: stop at the first
    workers: int = 0  # processes that load batches; 0: threads of this process
    threads: int = 8  # per process; a thread makes one batch at a time, so at most `prefetch` threads are busy
    prefetch: int = 2  # batches per worker that are ready or in preparation

    def __post_init__(self) -> None:
        positive = ("batch_images", "texts_per_image", "threads", "prefetch")
        for name in positive:
            if getattr(self, name) < 1:
                raise DataError(f"data.{name}={getattr(self, name)} must be at least 1.")
        if self.max_text_length < 3:
            raise DataError(
                f"data.max_text_length={self.max_text_length} leaves no room for a token between [CLS] and [SEP]; "
                "use at least 3."
            )
        for name in ("mask_rate", "region_mask_rate"):
            if not 0 < getattr(self, name) < 1:
                raise DataError(f"data.{name}={getattr(self, name)} must be between 0 and 1.")
        for name in ("replaced_images", "region_keep_rate", "flip_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"data.{name}={getattr(self, name)} must be in [0, 1].")
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
        """The canvases in use: `canvases`, or the defaults for the resize rule; one empty canvas for regions."""
        if self.regions:
            return ((0, 0),)
        return self.canvases or default_canvases(self.resize)

    @property
    def mask_slots(self) -> int:
        """M: the number of masked positions that a text of maximum length can have."""
        return max(1, int(-(-self.mask_rate * (self.max_text_length - 2) // 1)))
