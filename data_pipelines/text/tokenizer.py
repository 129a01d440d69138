"""Vocabularies, WordPiece tokenization, and token masking for masked language modelling."""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import BertWordPieceTokenizer
from tokenizers.normalizers import BertNormalizer

from data_pipelines.errors import DataError, in_short
from data_pipelines.hub import snapshot
from data_pipelines.storage.bucket_errors import reason
from data_pipelines.storage.paths import AnyPath, as_path, is_local
from data_pipelines.text.tokenizer_files import FILES, check_case, split_vocabulary

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CACHED_WORDS, _CACHED_LENGTH = 1 << 16, 32  # maximum number of words in the cache, and of characters per word


class Tokenizer:
    """BERT's WordPiece tokenizer over a vocabulary; cheap to pickle, so each worker can have its own."""

    def __init__(self, vocabulary: tuple[str, ...], lowercase: bool = True) -> None:
        """Create a tokenizer from the tokens in the order of their ids; empty tokens keep their id, but match no word.

        Raises:
          DataError: a special token is missing, or a token occurs twice.
        """
        missing = [token for token in SPECIAL if token not in set(vocabulary)]
        if missing:
            raise DataError(
                f"The vocabulary of {len(vocabulary)} tokens has no {', '.join(missing)}; "
                "use a BERT vocabulary (vocab.txt)."
            )
        ids = {token: i for i, token in enumerate(vocabulary)}
        if twice := next((token for i, token in enumerate(vocabulary) if token and ids[token] != i), ""):
            raise DataError(
                f"The vocabulary has tokens that stand twice, such as {twice[:40]!r} for the ids "
                f"{vocabulary.index(twice)} and {ids[twice]}; blank one of the lines, so that others keep their ids."
            )
        self.vocabulary, self.lowercase = tuple(vocabulary), lowercase
        self.pad, self.unknown, self.cls, self.sep, self.mask = (ids[token] for token in SPECIAL)

    def __getstate__(self) -> dict:
        return {"vocabulary": self.vocabulary, "lowercase": self.lowercase}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["vocabulary"], state["lowercase"])

    @functools.cached_property
    def _backend(self) -> BertWordPieceTokenizer:
        ids = {token: i for i, token in enumerate(self.vocabulary)}
        return BertWordPieceTokenizer(vocab=ids, lowercase=self.lowercase)

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """The id of each token."""
        return {token: i for i, token in enumerate(self.vocabulary)}

    @functools.cached_property
    def ordinary_ids(self) -> np.ndarray:
        """Ids of the tokens that are words or parts of words, ascending."""
        return np.array(
            [i for i, token in enumerate(self.vocabulary) if token and not (token[0] == "[" and token[-1] == "]")],
            np.int32,
        )

    @functools.cached_property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of [PAD], [UNK], [CLS], [SEP] and [MASK]."""
        return tuple(self.ids[token] for token in SPECIAL)

    @functools.cached_property
    def continues_word(self) -> np.ndarray:
        """Boolean array over ids: True for tokens that continue a word (##)."""
        return np.array([token.startswith("##") for token in self.vocabulary])

    @functools.cached_property
    def maskable(self) -> np.ndarray:
        """Boolean array over ids: True for all tokens except [PAD], [UNK], [CLS], [SEP] and [MASK]."""
        return ~np.isin(np.arange(len(self.vocabulary)), self.special_ids)

    @functools.cached_property
    def _cached_split(self) -> Callable[[str], tuple[int, ...]]:
        """`_split` with a cache."""
        return functools.lru_cache(_CACHED_WORDS)(self._split)

    def _split(self, word: str) -> tuple[int, ...]:
        return tuple(self._backend.encode(word, add_special_tokens=False).ids)

    def pieces(self, text: str) -> list[int]:
        """Token ids of a text, without [CLS] and [SEP]."""
        # BERT's rules treat each word separately, and words occur many times.
        words = text.split(" ")
        return [i for word in words for i in (self._cached_split if len(word) <= _CACHED_LENGTH else self._split)(word)]

    def encode(self, text: str, max_length: int) -> np.ndarray:
        """Ids of [CLS], the tokens and [SEP]: int32, truncated to `max_length`, not padded."""
        return np.array([self.cls, *self.pieces(text)[: max_length - 2], self.sep], np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, with the tokens of a word joined and without [PAD], [CLS] and [SEP]."""
        words: list[str] = []
        for i in ids:
            token = self.vocabulary[int(i)]
            if i in (self.pad, self.cls, self.sep):
                continue
            if token.startswith("##") and words:
                words[-1] += token[2:]
            else:
                words.append(token)
        return " ".join(words)


def read_vocabulary(name: str, lowercase: bool | None = None) -> tuple[str, ...]:
    """Read the tokens of a vocab.txt, of a folder with a vocab.txt or a tokenizer.json, or of a Hugging Face name.

    Args:
      name: name of the file, folder or repository.
      lowercase: as `data.lowercase`; the tokenizer files beside the vocabulary must agree. None: no check.

    Raises:
      DataError: no readable vocabulary exists, or its tokenizer files disagree with `lowercase`.
    """
    path = as_path(name)
    if not path.exists():
        path = _download(name)
    folder = path if path.is_dir() else path.parent
    if lowercase is not None:
        check_case(folder, lowercase)
    if (path / "vocab.txt").exists():
        path = path / "vocab.txt"
    if path.is_dir():
        return _read_tokenizer(path)
    try:
        return split_vocabulary(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason(error)}); give a vocab.txt that can.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}); give a vocab.txt with one token per line.") from None


def _download(name: str) -> Path:
    """Download the tokenizer of a Hugging Face repository and return its folder."""
    if name.endswith(".txt") or as_path(name).is_absolute():
        raise DataError(f"{name}: no such file; set data.vocabulary to a vocab.txt that exists.")
    try:
        return snapshot(name, FILES)
    except Exception as error:  # of several libraries
        raise DataError(
            f"data.vocabulary={name!r} is neither a file or folder here nor a Hugging Face tokenizer that can be "
            f"loaded ({_reason(error)}); give a path to a vocab.txt."
        ) from None


def _read_tokenizer(folder: AnyPath) -> tuple[str, ...]:
    """Tokens of the tokenizer.json in a folder."""
    if not (folder / "tokenizer.json").exists():
        raise DataError(
            f"{folder}: a folder without vocab.txt or tokenizer.json; give data.vocabulary a folder that has one."
        )
    from transformers import AutoTokenizer

    try:
        # Code beside the tokenizer is never run, and the user gets no prompt about it.
        with _local_folder(folder) as local:
            ids = AutoTokenizer.from_pretrained(local, trust_remote_code=False).get_vocab()
    except Exception as error:  # several libraries, and tokenizers raises Exception itself
        raise DataError(
            f"{folder}: its tokenizer.json cannot be loaded ({_reason(error)}); give a path to a vocab.txt."
        ) from None
    if sorted(ids.values()) != list(range(len(ids))):
        raise DataError(
            f"{folder}: the ids of its {len(ids)} tokens are not the numbers from 0, each once; give a vocab.txt "
            "with a line for each id."
        )
    return tuple(sorted(ids, key=ids.get))


@contextlib.contextmanager
def _local_folder(folder: AnyPath) -> Iterator[str]:
    """The folder, or a temporary one with copies of a bucket's files, for a library that reads from file systems."""
    if is_local(folder):
        yield str(folder)
        return
    with tempfile.TemporaryDirectory() as local:
        for name in FILES:
            if (folder / name).exists():
                Path(local, name).write_bytes((folder / name).read_bytes())
        yield local


def _reason(error: Exception) -> str:
    """The first line of an error's message, short."""
    return in_short((str(error).strip() or type(error).__name__).splitlines()[0])


def train_vocabulary(texts: Iterable[str], size: int, lowercase: bool = True) -> tuple[str, ...]:
    """Train a WordPiece vocabulary of at most `size` tokens from texts: special tokens first, the others sorted.

    Tokens that no word of the texts uses are removed, except single characters, because the set of unused tokens that
    training creates is random. If `size` is large enough for all words, the result depends only on the texts.
    """
    tokenizer = BertWordPieceTokenizer(lowercase=lowercase)
    normalizer = BertNormalizer(lowercase=lowercase)  # the tokenizer locks its own normalizer during training
    words: set[str] = set()

    def recorded_texts() -> Iterator[str]:
        for text in texts:
            words.update(normalizer.normalize_str(text).split())
            yield text

    tokenizer.train_from_iterator(
        recorded_texts(), vocab_size=size, min_frequency=1, special_tokens=list(SPECIAL), show_progress=False
    )
    needed = {token for word in words for token in tokenizer.encode(word, add_special_tokens=False).tokens}
    characters = {token for token in tokenizer.get_vocab() if len(token.removeprefix("##")) == 1}
    return (*SPECIAL, *sorted((needed | characters) - set(SPECIAL)))


def mask_tokens(
    ids_T: np.ndarray,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    *,
    rate: float,
    slots: int,
    whole_words: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask tokens of an encoded text as BERT does: of the chosen tokens, 80% become [MASK], 10% a random token.

    The remaining 10% of the chosen tokens stay unchanged.

    Args:
      ids_T: ids of [CLS], the tokens and [SEP].
      tokenizer: defines the special tokens, which are never chosen.
      rng: the only source of randomness.
      rate: expected share of chosen tokens; at least one token is chosen if the text has a token.
      slots: M, the maximum number of chosen tokens.
      whole_words: choose whole words with all of their tokens.

    Returns:
      masked_T: the text after masking.
      position: int32 array of the chosen positions, ascending.
      target: int32 array of the original ids at these positions.
    """
    # Lists and single draws: NumPy draws the same numbers for arrays, but takes twice the time for such short arrays.
    candidates = tokenizer.maskable[ids_T].nonzero()[0].tolist()
    masked_T = ids_T.copy()
    if not candidates:
        return masked_T, np.zeros(0, np.int32), np.zeros(0, np.int32)
    count = min(slots, max(1, int(rate * len(candidates) + rng.random())))
    if whole_words:
        words: list[list[int]] = []
        for index, continues in zip(candidates, tokenizer.continues_word[ids_T[candidates]].tolist(), strict=True):
            if continues and words:
                words[-1].append(index)
            else:
                words.append([index])
        rng.shuffle(words)
        chosen: list[int] = []
        for word in words:
            if not chosen or len(chosen) + len(word) <= count:
                chosen += word
        chosen = sorted(chosen[:slots])
    else:
        rng.shuffle(candidates)
        chosen = sorted(candidates[:count])
    actions = [rng.random() for _ in chosen]
    for index, action in zip(chosen, actions, strict=True):
        other = rng.integers(len(tokenizer.ordinary_ids))  # drawn for each position, so the number of draws is fixed
        if action < 0.8:
            masked_T[index] = tokenizer.mask
        elif action < 0.9:
            masked_T[index] = tokenizer.ordinary_ids[other]
    position = np.array(chosen, np.int32)
    return masked_T, position, ids_T[position]
