"""Ask a trained model: matching, ranking, masked words, attention maps. What a notebook uses."""

import dataclasses
import functools
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from flax import nnx
from PIL import Image

from data_pipelines import images as pictures
from data_pipelines.image_files import BadImageError, read_header
from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import LoadedModel, load

AnImage = str | Path | bytes | np.ndarray | jax.Array | Image.Image


@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """Pictures after the backbone, to be asked as often as one likes; made by `Predictor.encode`.

    Attributes:
      chunks: (places of the pictures in the list, pixels_BxPxD, mask_BxP) of each batch that was run.
      originals: the pictures, uint8 HxWx3.
    """

    chunks: tuple[tuple[tuple[int, ...], jax.Array, jax.Array], ...]
    originals: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.originals)


@dataclasses.dataclass(frozen=True)
class AttentionMap:
    """Where a word looks.

    Attributes:
      word: the word.
      grid: float32, rows x columns of the pixels; the share of its attention that each gets.
      weights: the same, drawn out smoothly over the picture, height x width.
      image: the picture, uint8 HxWx3.
    """

    word: str
    grid: np.ndarray
    weights: np.ndarray
    image: np.ndarray


class Predictor:
    """A trained model ready to be asked.

    Pictures are paths, encoded bytes, PIL images or uint8 arrays (HxWx3 or HxW; NumPy's, JAX's, torch's), one or a list
    of any sizes, or a batch (NxHxWx3). Texts are strings, one or many: a list, a generator, an array or a column of a
    table. All pixels of a picture are read; white lies behind transparent ones. Programs are compiled once for each
    canvas and kept.
    """

    def __init__(self, loaded: LoadedModel, *, batch_images: int = 0, batch_pairs: int = 0) -> None:
        """Take a model from `pixelbert_jax.load`.

        Args:
          loaded: of the task "pretraining".
          batch_images: pictures that go through the backbone at once; 0: 1 on a CPU, which gains nothing from more,
            else 16.
          batch_pairs: pairs that go through the encoder at once; 0: 8 on a CPU, else 64.

        Raises:
          ConfigError: the model reads regions, which pictures alone do not have.
        """
        if not isinstance(loaded.task.model, PixelBertConfig):
            raise ConfigError(
                f"{loaded.path} is an ImageBERT, which reads a detector's regions, not pictures; prepare the pictures "
                "with --regions and use `python -m experiments.evaluate`."
            )
        self.loaded, self.tokenizer, self.data = loaded, loaded.tokenizer, loaded.data
        on_cpu = next(iter(jax.tree.leaves(nnx.as_pure(nnx.state(loaded.model)))[0].devices())).platform == "cpu"
        self.batch_images = batch_images or (1 if on_cpu else 16)
        self.batch_pairs = batch_pairs or (8 if on_cpu else 64)
        self._graphdef, state = nnx.split(loaded.model)
        self._state = nnx.as_pure(state)

    @classmethod
    def load(cls, path: Any, **options: Any) -> "Predictor":
        """A predictor of `pixelbert_jax.load(path, **options)`."""
        return cls(load(path, **options))

    def encode(self, images: AnImage | Sequence[AnImage]) -> EncodedImages:
        """Run the backbone once for each picture; the other methods take the result in place of pictures.

        Raises:
          DataError: a file that is no readable picture, or is too large.
          ConfigError: an array that is no picture.
        """
        originals = [_pixels(image) for image in _listed(images)]
        by_canvas: dict[int, list[int]] = {}
        sizes = [pictures.resized_size(*pixels.shape[:2], self.data.resize) for pixels in originals]
        for place, size in enumerate(sizes):
            by_canvas.setdefault(pictures.choose_canvas(*size, self.data.all_canvases), []).append(place)
        chunks = []
        for canvas, places in by_canvas.items():
            for chunk in _chunks(places, self.batch_images):
                batch = np.zeros((self.batch_images, *self.data.all_canvases[canvas], 3), np.uint8)
                size_Bx2 = np.ones((self.batch_images, 2), np.int32)
                for row, place in enumerate(chunk):
                    resized = pictures.resize(originals[place], sizes[place])
                    batch[row, : resized.shape[0], : resized.shape[1]] = resized
                    size_Bx2[row] = resized.shape[:2]
                pixels_BxPxD, mask_BxP = self._encode(self._state, batch, size_Bx2)
                chunks.append((tuple(chunk), pixels_BxPxD, mask_BxP))
        return EncodedImages(tuple(chunks), tuple(originals))

    def match(self, images: AnImage | Sequence[AnImage] | EncodedImages, texts: str | Iterable[str]) -> np.ndarray:
        """Probability that each picture and each text belong together: float32, pictures x texts.

        Raises:
          ConfigError: what is no picture or no text, or a text that is too long.
        """
        texts = _texts(texts)
        encoded = self._encoded(images)
        ids_MxT, mask_MxT = self._words(texts)
        scores = np.zeros((len(encoded), len(texts)), np.float32)
        for places, pixels_BxPxD, mask_BxP in encoded.chunks:
            pairs = [(row, text) for row in range(len(places)) for text in range(len(texts))]
            size = self.batch_pairs if len(pairs) > 1 else 1
            for chunk in _chunks(pairs, size):
                filled = chunk + chunk[:1] * (size - len(chunk))
                rows_N, texts_N = np.array(filled, np.int32).T
                probability_N = np.asarray(
                    self._match(self._state, ids_MxT[texts_N], mask_MxT[texts_N], pixels_BxPxD, mask_BxP, rows_N)
                )
                for (row, text), probability in zip(chunk, probability_N, strict=False):
                    scores[places[row], text] = probability
        return scores

    def rank(self, images: Sequence[AnImage] | EncodedImages, text: str) -> list[tuple[int, float]]:
        """Places of the pictures in the list and their probabilities, best match first.

        Raises:
          ConfigError: as `match`, or there is not exactly one text.
        """
        scores = self.match(images, _only_text(text))[:, 0]
        return [(int(place), float(scores[place])) for place in np.argsort(-scores, kind="stable")]

    def fill_mask(self, image: AnImage | EncodedImages, text: str, *, top: int = 5) -> list[list[tuple[str, float]]]:
        """For each [MASK] of the text the `top` likeliest word pieces with their probabilities.

        Raises:
          ConfigError: the text has no [MASK], or there is not exactly one picture and one text.
        """
        text = _only_text(text)
        ids_1xT, mask_1xT = self._words([text])
        position = np.flatnonzero(ids_1xT[0] == self.tokenizer.mask)
        if not len(position):
            raise ConfigError(f"fill_mask: {text!r} has no [MASK]; write [MASK] for each word to be guessed.")
        pixels_1xPxD, pixel_mask_1xP = self._only(image)
        probability_1xTxV = self._fill(self._state, ids_1xT, mask_1xT, pixels_1xPxD, pixel_mask_1xP)
        probability_MxV = np.asarray(probability_1xTxV)[0, position]
        best_MxK = np.argsort(-probability_MxV, axis=-1)[:, :top]
        return [
            [(self.tokenizer.vocabulary[i], float(row[i])) for i in best]
            for row, best in zip(probability_MxV, best_MxK, strict=True)
        ]

    def attention_map(
        self, image: AnImage | EncodedImages, text: str, word: str, *, layer: int = 0, head: int | None = None
    ) -> AttentionMap:
        """Where a word of the text looks in the picture (paper, figure 3).

        Args:
          image: one picture.
          text: the sentence that is read with it.
          word: a word of the text; of several word pieces, or where it stands several times, the mean is taken.
          layer: of the encoder, counted from 0.
          head: one of the layer's heads; None: their mean.

        Raises:
          ConfigError: no such word, layer or head, or not exactly one picture.
        """
        text, word = _only_text(text), _only_text(word)
        encoder = self.loaded.task.model.encoder
        if not 0 <= layer < encoder.layers or (head is not None and not 0 <= head < encoder.heads):
            raise ConfigError(
                f"attention_map: layer={layer}, head={head}: the model has layers 0 to {encoder.layers - 1} "
                f"and heads 0 to {encoder.heads - 1}."
            )
        ids_1xT, mask_1xT = self._words([text])
        places = self._places(ids_1xT[0], word)
        if not places:
            raise ConfigError(f"attention_map: the word {word!r} is not in {text!r}; choose one of the text.")
        encoded = self._encoded(image)
        pixels_1xPxD, pixel_mask_1xP = self._only(encoded)
        attention_HxSxS = np.asarray(
            self._attention(self._state, ids_1xT, mask_1xT, pixels_1xPxD, pixel_mask_1xP, layer)
        )[0].astype(np.float32)
        of_heads = attention_HxSxS.mean(0) if head is None else attention_HxSxS[head]
        row_P = of_heads[places, ids_1xT.shape[1] :].mean(0)
        original = encoded.originals[0]
        size = pictures.resized_size(*original.shape[:2], self.data.resize)
        canvas = self.data.all_canvases[pictures.choose_canvas(*size, self.data.all_canvases)]
        rows, columns = self.loaded.task.model.grid(*size)
        grid = row_P.reshape(self.loaded.task.model.grid(*canvas))[:rows, :columns]
        return AttentionMap(word, grid, _drawn_out(grid, self.loaded.task.model.stride, size, original), original)

    def _encoded(self, images: AnImage | Sequence[AnImage] | EncodedImages) -> EncodedImages:
        return images if isinstance(images, EncodedImages) else self.encode(images)

    def _only(self, image: AnImage | EncodedImages) -> tuple[jax.Array, jax.Array]:
        """Pixels 1xPxD and mask 1xP of exactly one picture."""
        encoded = self._encoded(image)
        if len(encoded) != 1:
            raise ConfigError(f"One picture is needed here, {len(encoded)} were given; call this once for each.")
        _, pixels_BxPxD, mask_BxP = encoded.chunks[0]
        return pixels_BxPxD[:1], mask_BxP[:1]

    def _words(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask, MxT; T is the length of training, or the greatest one where a text needs more."""
        longest = self.loaded.task.model.text.max_positions
        encoded = [self.tokenizer.encode(text, longest + 1) for text in texts]
        length = max(map(len, encoded), default=0)
        if length > longest:
            text = max(zip(encoded, texts, strict=True), key=lambda pair: len(pair[0]))[1]
            raise ConfigError(f"A text has more than the model's {longest} word pieces: {text[:60]!r}...; shorten it.")
        slots = self.data.max_text_length if length <= self.data.max_text_length else longest
        ids_MxT = np.full((len(texts), slots), self.tokenizer.pad, np.int32)
        for row, ids in enumerate(encoded):
            ids_MxT[row, : len(ids)] = ids
        return ids_MxT, np.arange(slots)[None] < np.array([len(ids) for ids in encoded])[:, None]

    def _places(self, ids_T: np.ndarray, word: str) -> list[int]:
        """Places of all word pieces of a word, wherever it stands in the text."""
        pieces = self.tokenizer.pieces(word)
        starts = [i for i in range(len(ids_T)) if pieces and ids_T[i : i + len(pieces)].tolist() == pieces]
        return sorted({i + k for i in starts for k in range(len(pieces))})

    # The parameters are an argument, not a constant of the compiled programs.
    @functools.cached_property
    def _encode(self) -> Any:
        return jax.jit(lambda state, images, size: self._merged(state).model.encode_image(images, size))

    @functools.cached_property
    def _match(self) -> Any:
        def match(state: Any, ids: Any, mask: Any, pixels: Any, pixel_mask: Any, rows: Any) -> jax.Array:
            module = self._merged(state)
            hidden = module.model.fuse_at(ids, mask, pixels[rows], pixel_mask[rows])
            return jax.nn.sigmoid(module.matching_logit(hidden))

        return jax.jit(match)

    @functools.cached_property
    def _fill(self) -> Any:
        def fill(state: Any, ids: Any, mask: Any, pixels: Any, pixel_mask: Any) -> jax.Array:
            module = self._merged(state)
            hidden = module.model.fuse(ids, mask, pixels, pixel_mask)
            everywhere = jax.numpy.arange(ids.shape[1])[None]
            return jax.nn.softmax(module.word_logits(hidden, everywhere))

        return jax.jit(fill)

    @functools.cached_property
    def _attention(self) -> Any:
        def attention(state: Any, ids: Any, mask: Any, pixels: Any, pixel_mask: Any, layer: int) -> jax.Array:
            return self._merged(state).model.attention(ids, mask, pixels, pixel_mask, layer)

        return jax.jit(attention, static_argnums=5)

    def _merged(self, state: Any) -> nnx.Module:
        return nnx.merge(self._graphdef, state)


def _pixels(image: AnImage) -> np.ndarray:
    """A picture as uint8 HxWx3; sizes are checked before anything is decoded."""
    if isinstance(image, str | os.PathLike):
        path = Path(image).expanduser()
        if not path.is_file():
            raise ConfigError(f"{path}: no such picture; give the path of a file.")
        return _decoded(path.read_bytes(), str(path))
    if isinstance(image, bytes | bytearray | memoryview):
        return _decoded(bytes(image), "image")
    if isinstance(image, Image.Image):
        try:
            return pictures.from_pillow(image)
        except BadImageError as error:
            raise pictures.DataError(f"A PIL image cannot be used: {error}.") from None
    array = _array(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ConfigError(
            f"An array of type {array.dtype} and shape {array.shape} is no picture; give uint8, HxWx3 (RGB) or HxW."
        )
    if not array.size:
        raise ConfigError(f"An array of shape {array.shape} has no pixels; give an image of at least one.")
    return np.ascontiguousarray(array) if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2)


def _array(image: Any) -> np.ndarray:
    """An array of any library as NumPy's; for a list too, whose type is then refused."""
    if not (hasattr(image, "__array__") or isinstance(image, list | tuple)):
        raise ConfigError(
            f"{type(image).__name__} {_shown(image)} is no image; give a path, bytes, a PIL image or a uint8 array."
        )
    try:
        return np.asarray(image)
    except Exception as error:  # of the array's library: it lies on a GPU, or is ragged
        reason = " ".join(str(error).split())[:100]
        raise ConfigError(
            f"{type(image).__name__} is no image that NumPy can read ({reason}); give a NumPy array, uint8 HxWx3."
        ) from None


def _decoded(encoded: bytes, name: str) -> np.ndarray:
    try:
        read_header(encoded)
    except pictures.DataError as error:
        raise pictures.DataError(f"{name}: {error}") from None
    return pictures.decode(encoded, name)


def _drawn_out(grid: np.ndarray, stride: int, size: tuple[int, int], original: np.ndarray) -> np.ndarray:
    """A grid over a picture that was resized to `size`, at the original's size, linear between cells."""
    fine = cv2.resize(grid, (grid.shape[1] * stride, grid.shape[0] * stride), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(fine[: size[0], : size[1]], original.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def _listed(images: Any) -> list:
    """One image or many as a list."""
    if isinstance(images, list | tuple):
        return list(images)
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image):
        return [images]
    if hasattr(images, "ndim") and hasattr(images, "__array__"):
        array = _array(images)
        of_objects = array.ndim == 1 and array.dtype.kind in "OU"  # paths or images, such as a column of a table
        return list(array) if array.ndim == 4 or of_objects else [array]
    if (
        isinstance(images, Iterable)
        and not isinstance(images, Mapping | set | frozenset)
        and not hasattr(images, "read")
    ):
        return list(images)
    return [images]


def _texts(texts: Any) -> list[str]:
    """One text or many as a list of strings.

    Raises:
      ConfigError: something else, which is named with its place.
    """
    if isinstance(texts, str):
        found = [texts]
    elif isinstance(texts, np.ndarray) and texts.ndim < 2:
        found = texts.reshape(-1).tolist()
    elif (
        isinstance(texts, Iterable)
        and getattr(texts, "ndim", 1) == 1
        and not isinstance(texts, bytes | bytearray | Mapping | set | frozenset)
    ):
        found = list(texts)
    else:
        raise ConfigError(f"{type(texts).__name__} {_shown(texts)} is no text; give a string or a list of strings.")
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise ConfigError(
                f"Text {place} of {len(found)} is {type(text).__name__} {_shown(text)}, no string; leave it out, or "
                'give "" for none.'
            )
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ConfigError(f"Text {place} of {len(found)} is no valid Unicode: {_shown(text)}; decode it as UTF-8.")
    return [str(text) for text in found]


def _only_text(text: Any) -> str:
    """A text, or the one of a list of one."""
    texts = _texts(text)
    if len(texts) != 1:
        raise ConfigError(f"One text is needed here, {len(texts)} were given; call this once for each.")
    return texts[0]


def _shown(value: Any) -> str:
    """A value in an error: short, on one line."""
    return " ".join(reprlib.repr(value).split())[:60]


def _chunks(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]
