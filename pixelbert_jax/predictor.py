"""Use a trained model: image-text matching (ITM), ranking, masked tokens, answers, attention maps."""

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from data_pipelines.regions.detector import Detector
from pixelbert_jax.encoded_images import EncodedImages
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.image_index import ImageIndex, make_index
from pixelbert_jax.image_with_regions import DetectedRegions, FindRegions, ImageWithRegions, RegionFolder
from pixelbert_jax.loading import LoadedModel, load
from pixelbert_jax.predictor_inputs import AnImage as ImageAlone
from pixelbert_jax.predictor_inputs import checked_top, listed_images, listed_texts, only_text
from pixelbert_jax.visual_readers import AttentionMap, visual_reader

AnImage = ImageAlone | ImageWithRegions

# Method -> the head that it needs.
_HEADS = {
    "match": "itm_head",
    "rank": "itm_head",
    "fill_mask": "mlm_head",
    "answer": "answer_head",
    "judge": "truth_head",
}


class Predictor:
    """A trained model with methods for its predictions.

    A pre-trained model has `match`, `rank` and `fill_mask`, a retrieval model `match` and `rank`, a model of visual
    question answering `answer`, a model of NLVR2 `judge`. Each has `attention_map`.

    Images are paths, encoded bytes, PIL images or uint8 arrays (HxWx3 or HxW; NumPy's, JAX's, torch's), one or a list
    of any sizes, or a batch (NxHxWx3). Texts are strings, one or many: a list, a generator, an array or a column of a
    table. All pixels of an image are read. Transparent pixels get a white background. Programs are compiled once for
    each canvas and kept.

    An ImageBERT reads a detector's regions with each image: give `ImageWithRegions`, or say where regions are found.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        regions: str | Path | FindRegions | None = None,
        batch_images: int = 0,
        batch_pairs: int = 0,
    ) -> None:
        """Take a model from `pixelbert_jax.load`.

        Args:
          loaded: a Pixel-BERT or an ImageBERT of any task.
          regions: for an ImageBERT, where an image's regions are found: a folder (see RegionFolder), or DetectedRegions
            of a detector.
          batch_images: images that go through the backbone at once; 0: 1 on a CPU, where larger batches are not
            faster, else 16.
          batch_pairs: pairs that go through the encoder at once; 0: 8 on a CPU, else 64.

        Raises:
          ConfigError: there is no such folder, or the model reads no regions.
          DataError: the regions are of another detector than the model was trained with.
        """
        if isinstance(regions, str | os.PathLike):
            regions = RegionFolder(regions)
        self._reader = visual_reader(loaded, regions)
        self.loaded, self.tokenizer, self.data = loaded, loaded.tokenizer, loaded.data
        on_cpu = next(iter(jax.tree.leaves(nnx.as_pure(nnx.state(loaded.model)))[0].devices())).platform == "cpu"
        self.batch_images = batch_images or (1 if on_cpu else 16)
        self.batch_pairs = batch_pairs or (8 if on_cpu else 64)
        self._graphdef, self._state = loaded.split()

    @classmethod
    def load(
        cls,
        path: Any,
        *,
        regions: str | Path | FindRegions | None = None,
        detector: str | None = None,
        **options: Any,
    ) -> "Predictor":
        """A predictor of `pixelbert_jax.load(path, **options)`.

        Args:
          path: the model.
          regions: as in the constructor.
          detector: in place of `regions`, the detector that the model was trained with: a folder or a Hugging Face
            name. It needs the extra `detect`.
          options: see `pixelbert_jax.load`.

        Raises:
          ConfigError, DataError: as in the constructor, `pixelbert_jax.load` and `Detector.load`.
        """
        if regions and detector:
            raise ConfigError(f"regions={regions} and detector={detector} exclude each other; give one of them.")
        loaded = load(path, **options)
        if detector:
            regions = DetectedRegions(Detector.load(detector, top=max(loaded.data.regions, 1)))
        return cls(loaded, regions=regions)

    def read(self, image: AnImage) -> Any:
        """An image, checked, decoded and with its regions, for the other methods.

        Raises:
          DataError: a file is not a readable image, or is too large; its regions are damaged.
          ConfigError: it is not an image, or has no regions for an ImageBERT.
        """
        return self._reader.read(image)

    def encode(self, images: AnImage | Sequence[AnImage]) -> EncodedImages:
        """Make the visual tokens of each image once; the other methods take the result in place of images.

        Raises:
          DataError, ConfigError: see `read`.
        """
        items = [self.read(image) for image in listed_images(images)]
        by_canvas: dict[int, list[int]] = {}
        for index, item in enumerate(items):
            by_canvas.setdefault(self._reader.canvas(item), []).append(index)
        chunks = []
        for canvas, indices in by_canvas.items():
            for chunk in _chunks(indices, self.batch_images):
                batch = self._reader.batch([items[index] for index in chunk], canvas, self.batch_images)
                chunks.append((tuple(chunk), *self._encode(self._state, batch)))
        return EncodedImages(tuple(chunks), tuple(items))

    def index(self, images: Any, *, progress: Callable[[int, int], None] = lambda done, total: None) -> ImageIndex:
        """An index of a folder or a list, to search by texts; see `make_index`."""
        return make_index(self, images, progress=progress)

    def match(self, images: AnImage | Sequence[AnImage] | EncodedImages, texts: str | Iterable[str]) -> np.ndarray:
        """Image-text matching: probability that each image and each text belong together, float32, images x texts.

        Raises:
          ConfigError: an argument is not an image or not a text, or a text is too long.
        """
        self.requires("match")
        texts, encoded = listed_texts(texts), self._encoded(images)
        pairs = [(image, text) for image in range(len(encoded)) for text in range(len(texts))]
        scores_N = self._of_pairs(self._match, encoded, texts, pairs)
        return np.array(scores_N, np.float32).reshape(len(encoded), len(texts))

    def answer(
        self, images: AnImage | Sequence[AnImage] | EncodedImages, questions: str | Iterable[str], *, top: int = 5
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """The likeliest answers to a question about an image, with their probabilities.

        Args:
          images: one image, or a list.
          questions: one question, or a list. Each question goes with one image, one image with all questions, or one
            question with all images.
          top: how many answers.

        Returns:
          (answer, probability) pairs, the likeliest first; for lists one such list for each pair. Each probability is
          a sigmoid, as in training, so the probabilities need not add up to 1.

        Raises:
          ConfigError: the model was not fine-tuned to answer questions; an argument is not an image or not a text; the
            lists have different lengths.
        """
        self.requires("answer")
        top = checked_top(top)
        encoded, texts = self._encoded(images), listed_texts(questions)
        pairs = list(zip(*_broadcast(images=len(encoded), questions=len(texts)), strict=True))
        answers = self.loaded.description["answers"]
        found = []
        for probability_A in self._of_pairs(self._answer, encoded, texts, pairs):
            best = np.argsort(-probability_A, kind="stable")[:top]
            found.append([(answers[i], float(probability_A[i])) for i in best])
        return found[0] if len(found) == 1 and isinstance(questions, str) else found

    def judge(self, *images_and_sentence: Any) -> float | np.ndarray:
        """Probability that a sentence is true of two images (NLVR2) or of one (NLVR).

        Args:
          images_and_sentence: `judge(left, right, sentence)`, or `judge(image, sentence)` for a model of one image; one
            of each, or lists of equal length.

        Returns:
          A probability; for lists float32 N.

        Raises:
          ConfigError: the model was not fine-tuned to judge sentences, or takes another number of images; an argument
            is not an image or not a text; the lists have different lengths.
        """
        self.requires("judge")
        needed = self.loaded.task.config.images
        if len(images_and_sentence) != needed + 1:
            form = "judge(left, right, sentence)" if needed == 2 else "judge(image, sentence)"
            raise ConfigError(
                f"judge: {len(images_and_sentence)} arguments were given, but {self.loaded.path} takes {form}."
            )
        *sides, sentences = images_and_sentence
        texts = listed_texts(sentences)
        encoded = [self._encoded(side) for side in sides]
        names = ("left", "right") if needed == 2 else ("images",)
        *of_sides, of_text = _broadcast(**dict(zip(names, map(len, encoded), strict=True)), sentences=len(texts))
        cls_IxNxD = [
            self._of_pairs(self._cls, side, texts, list(zip(of_side, of_text, strict=True)))
            for side, of_side in zip(encoded, of_sides, strict=True)
        ]
        if not len(of_text):
            return np.zeros(0, np.float32)
        joined_NxI = np.concatenate([np.stack(cls_NxD) for cls_NxD in cls_IxNxD], axis=-1)
        probability_N = np.asarray(self._judge(self._state, joined_NxI), np.float32)
        return float(probability_N[0]) if len(probability_N) == 1 and isinstance(sentences, str) else probability_N

    def rank(self, images: Sequence[AnImage] | EncodedImages, text: str) -> list[tuple[int, float]]:
        """Indices of the images in the list and their probabilities, best match first.

        Raises:
          ConfigError: as `match`, or there is not exactly one text.
        """
        self.requires("rank")
        scores = self.match(images, only_text(text))[:, 0]
        return [(int(index), float(scores[index])) for index in np.argsort(-scores, kind="stable")]

    def fill_mask(self, image: AnImage | EncodedImages, text: str, *, top: int = 5) -> list[list[tuple[str, float]]]:
        """For each [MASK] of the text the `top` likeliest tokens with their probabilities.

        Raises:
          ConfigError: the text has no [MASK], or there is not exactly one image and one text.
        """
        self.requires("fill_mask")
        text = only_text(text)
        ids_1xT, mask_1xT = self._tokens([text])
        position = np.flatnonzero(ids_1xT[0] == self.tokenizer.mask)
        if not len(position):
            raise ConfigError(f"fill_mask: {text!r} has no [MASK]; write [MASK] for each token to predict.")
        top = checked_top(top)
        visual_1xPxD, visual_mask_1xP = self._only(image)
        probability_1xTxV = self._fill(self._state, ids_1xT, mask_1xT, visual_1xPxD, visual_mask_1xP)
        probability_MxV = np.asarray(probability_1xTxV)[0, position]
        best_MxK = np.argsort(-probability_MxV, axis=-1)[:, :top]
        return [
            [(self.tokenizer.vocabulary[i], float(row[i])) for i in best]
            for row, best in zip(probability_MxV, best_MxK, strict=True)
        ]

    def attention_map(
        self, image: AnImage | EncodedImages, text: str, word: str, *, layer: int = 0, head: int | None = None
    ) -> AttentionMap:
        """The attention of a word of the text over the image (paper, figure 3).

        Args:
          image: one image.
          text: the sentence that is read with it.
          word: a word of the text. If it has several tokens or occurs several times, the mean is taken.
          layer: layer of the encoder, counted from 0.
          head: one of the layer's heads; None: their mean.

        Raises:
          ConfigError: no such word, layer or head, or not exactly one image.
        """
        text, word = only_text(text), only_text(word)
        encoder = self.loaded.task.model.encoder
        if not 0 <= layer < encoder.layers or (head is not None and not 0 <= head < encoder.heads):
            raise ConfigError(
                f"attention_map: layer={layer}, head={head}: the model has layers 0 to {encoder.layers - 1} "
                f"and heads 0 to {encoder.heads - 1}."
            )
        ids_1xT, mask_1xT = self._tokens([text])
        positions = self._positions(ids_1xT[0], word)
        if not positions:
            raise ConfigError(f"attention_map: the word {word!r} is not in {text!r}; choose one of the text.")
        encoded = self._encoded(image)
        visual_1xPxD, visual_mask_1xP = self._only(encoded)
        attention_HxSxS = np.asarray(
            self._attention(self._state, ids_1xT, mask_1xT, visual_1xPxD, visual_mask_1xP, layer)
        )[0].astype(np.float32)
        of_heads = attention_HxSxS.mean(0) if head is None else attention_HxSxS[head]
        row_P = of_heads[positions, ids_1xT.shape[1] :].mean(0)
        return self._reader.attention_map(word, row_P, encoded.items[0])

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods that this model's heads make possible."""
        return tuple(name for name, head in _HEADS.items() if hasattr(self.loaded.model, head))

    def requires(self, method: str) -> None:
        """Refuse, with a ConfigError, what the model has no head for."""
        if method not in self.methods:
            able = ", ".join((*self.methods, "attention_map"))
            raise ConfigError(
                f"{self.loaded.path} is a model of the task {self.loaded.description['task']}, which has no head for "
                f"{method}; use {able}, or a model that was trained for it."
            )

    def _of_pairs(
        self, program: Any, encoded: EncodedImages, texts: Sequence[str], pairs: Sequence[tuple[int, int]]
    ) -> list[np.ndarray]:
        """The output of a program of `_on_cls` for each (image, text) pair, in their order."""
        ids_MxT, mask_MxT = self._tokens(texts)
        found: list[Any] = [None] * len(pairs)
        of_image: dict[int, list[int]] = {}
        for number, (image, _) in enumerate(pairs):
            of_image.setdefault(image, []).append(number)
        for indices, visual_BxPxD, mask_BxP in encoded.chunks:
            row_of = {image: row for row, image in enumerate(indices)}
            mine = [number for image in indices for number in of_image.get(image, ())]
            size = self.batch_pairs if len(mine) > 1 else 1
            for chunk in _chunks(mine, size):
                padded = [pairs[number] for number in chunk + chunk[:1] * (size - len(chunk))]
                rows_N = np.array([row_of[image] for image, _ in padded], np.int32)
                texts_N = np.array([text for _, text in padded], np.int32)
                values_N = np.asarray(
                    program(self._state, ids_MxT[texts_N], mask_MxT[texts_N], visual_BxPxD, mask_BxP, rows_N)
                )
                for number, value in zip(chunk, values_N, strict=False):
                    found[number] = value
        return found

    def _encoded(self, images: AnImage | Sequence[AnImage] | EncodedImages) -> EncodedImages:
        return images if isinstance(images, EncodedImages) else self.encode(images)

    def _only(self, image: AnImage | EncodedImages) -> tuple[jax.Array, jax.Array]:
        """Visual tokens 1xPxD and mask 1xP of exactly one image."""
        encoded = self._encoded(image)
        if len(encoded) != 1:
            raise ConfigError(f"One image is needed here, {len(encoded)} were given; call this once for each.")
        _, visual_BxPxD, mask_BxP = encoded.chunks[0]
        return visual_BxPxD[:1], mask_BxP[:1]

    def _tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask, MxT. T is the length in training, or the model's greatest where a text needs more."""
        longest = self.loaded.task.model.text.max_positions
        encoded = [self.tokenizer.encode(text, longest + 1) for text in texts]
        length = max(map(len, encoded), default=0)
        if length > longest:
            text = max(zip(encoded, texts, strict=True), key=lambda pair: len(pair[0]))[1]
            raise ConfigError(f"A text has more than the model's {longest} tokens: {text[:60]!r}...; shorten it.")
        slots = self.data.max_text_length if length <= self.data.max_text_length else longest
        ids_MxT = np.full((len(texts), slots), self.tokenizer.pad, np.int32)
        for row, ids in enumerate(encoded):
            ids_MxT[row, : len(ids)] = ids
        return ids_MxT, np.arange(slots)[None] < np.array([len(ids) for ids in encoded])[:, None]

    def _positions(self, ids_T: np.ndarray, word: str) -> list[int]:
        """Positions of all tokens of a word, at all its occurrences in the text."""
        pieces = self.tokenizer.pieces(word)
        starts = [i for i in range(len(ids_T)) if pieces and ids_T[i : i + len(pieces)].tolist() == pieces]
        return sorted({i + k for i in starts for k in range(len(pieces))})

    # The parameters are an argument, not a constant of the compiled programs.
    @functools.cached_property
    def _encode(self) -> Any:
        return jax.jit(lambda state, batch: self._merged(state).model.encode_visual(batch))

    @functools.cached_property
    def _match(self) -> Any:
        return self._on_cls(lambda module, cls_Nx1xD: jax.nn.sigmoid(module.itm_logit(cls_Nx1xD)))

    @functools.cached_property
    def _answer(self) -> Any:
        return self._on_cls(lambda module, cls_Nx1xD: jax.nn.sigmoid(module.answer_head(cls_Nx1xD[:, 0])))

    @functools.cached_property
    def _cls(self) -> Any:
        return self._on_cls(lambda module, cls_Nx1xD: cls_Nx1xD[:, 0])

    @functools.cached_property
    def _judge(self) -> Any:
        return jax.jit(lambda state, x: jax.nn.softmax(self._merged(state).truth_head(x))[:, 1])

    def _on_cls(self, read: Callable[[nnx.Module, jax.Array], jax.Array]) -> Any:
        """A compiled program that applies `read` to [CLS] of pairs; `rows` are the rows of the pairs' images."""

        def program(state: Any, ids: Any, mask: Any, visual: Any, visual_mask: Any, rows: Any) -> jax.Array:
            module = self._merged(state)
            return read(module, module.model.fuse_at(ids, mask, visual[rows], visual_mask[rows]))

        return jax.jit(program)

    @functools.cached_property
    def _fill(self) -> Any:
        def fill(state: Any, ids: Any, mask: Any, visual: Any, visual_mask: Any) -> jax.Array:
            module = self._merged(state)
            hidden = module.model.fuse(ids, mask, visual, visual_mask)
            everywhere = jax.numpy.arange(ids.shape[1])[None]
            return jax.nn.softmax(module.token_logits(hidden, everywhere))

        return jax.jit(fill)

    @functools.cached_property
    def _attention(self) -> Any:
        def attention(state: Any, ids: Any, mask: Any, visual: Any, visual_mask: Any, layer: int) -> jax.Array:
            return self._merged(state).model.attention(ids, mask, visual, visual_mask, layer)

        return jax.jit(attention, static_argnums=5)

    def _merged(self, state: Any) -> nnx.Module:
        return nnx.merge(self._graphdef, state)


def _broadcast(**counts: int) -> tuple[list[int], ...]:
    """Indices into lists that go together; a list of one goes with each of the others.

    Raises:
      ConfigError: two lists have different lengths.
    """
    sizes = {count for count in counts.values() if count != 1}
    if len(sizes) > 1:
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ConfigError(f"{found}: give as many of each, or one.")
    size = sizes.pop() if sizes else 1
    return tuple([0] * size if count == 1 else list(range(size)) for count in counts.values())


def _chunks(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]
