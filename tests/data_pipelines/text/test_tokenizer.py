"""Vocabularies, WordPiece and masking."""

import pickle

import numpy as np
import pytest
from tokenizers import BertWordPieceTokenizer

from data_pipelines.errors import DataError
from data_pipelines.text.tokenizer import SPECIAL, Tokenizer, mask_tokens, read_vocabulary, train_vocabulary
from tests.real_data import real_data

WORDS = (*SPECIAL, "a", "red", "blue", "square", "circle", "un", "##believ", "##able", "[unused1]")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(WORDS)


def test_encode_cuts_and_frames(tokenizer):
    assert tokenizer.encode("A red UNBELIEVABLE zebra", 20).tolist() == [2, 5, 6, 10, 11, 12, 1, 3]
    assert tokenizer.encode("a red square", 4).tolist() == [2, 5, 6, 3]
    assert tokenizer.encode("", 4).tolist() == [2, 3]
    assert tokenizer.decode([2, 5, 10, 11, 12, 3, 0]) == "a unbelievable"
    assert pickle.loads(pickle.dumps(tokenizer)).encode("a", 5).tolist() == [2, 5, 3]


def test_encode_equals_transformers():
    from transformers import BertTokenizer

    folder = real_data("bert-base-uncased")
    ours = Tokenizer(read_vocabulary(str(folder)))
    theirs = BertTokenizer.from_pretrained(str(folder))
    assert len(ours.vocabulary) == theirs.vocab_size == 30522
    for text in (
        "A woman's café, in São Paulo — 3 dogs!",
        "pixel-bert ALIGNS pixels",
        "日本 [MASK] x",
    ):
        assert ours.encode(text, 64).tolist() == theirs(text)["input_ids"]


def test_texts_are_split_as_a_whole():
    """Words are tokenized one by one, with a cache: the context of a word does not change its tokens."""
    parts = ["a", "red", "un", "believable", "é", "ß", "İ", "Σ", "日本", "[MASK]", "[unused1]", "##able", "'s", "."]
    spaces = [" ", " ", " ", " ", "  ", "\t", "\n", "\x1c", "\x85", "\xa0", "\u200b", "\u3000", "\ufeff", "\u0301"]
    parts += [*spaces, "x" * 40, "red" * 50]
    ends = ("##believ", "##able", "##red", "##un", "##s")
    words = (*SPECIAL, "a", "red", "un", "s", "'", ".", "日", "e", "[unused1]", *ends)
    tokenizer, rng = Tokenizer(words), np.random.default_rng(0)
    whole = BertWordPieceTokenizer(vocab={word: i for i, word in enumerate(words)})
    texts = ["".join(rng.choice(parts, rng.integers(0, 12))) for _ in range(500)]
    for text in texts + texts[:100]:
        assert tokenizer.pieces(text) == whole.encode(text, add_special_tokens=False).ids, repr(text)
    assert len({tuple(tokenizer.pieces(text)) for text in texts}) > 200


def test_long_words_are_not_cached(tokenizer):
    tokenizer.pieces("red " + "x" * 1000)
    known = tokenizer._cached_split.cache_info().currsize
    tokenizer.pieces("y" * 1000)
    assert tokenizer._cached_split.cache_info().currsize == known > 0


@pytest.mark.parametrize("whole_words", [False, True])
def test_masking_draws_the_same_random_numbers_in_the_same_order(tokenizer, whole_words):
    """A run that continues with another version of this code must get the same batches; this spells out the rule."""

    def plainly(ids_T, rng, rate, slots):
        candidates = np.flatnonzero(~np.isin(ids_T, tokenizer.special_ids))
        count = min(slots, max(1, int(rate * len(candidates) + rng.random())))
        if whole_words:
            word, position = np.cumsum(~tokenizer.continues_word[ids_T[candidates]]), []
            for number in rng.permutation(np.unique(word)):
                pieces = candidates[word == number].tolist()
                position += pieces if not position or len(position) + len(pieces) <= count else []
            position = np.sort(position[:slots])
        else:
            position = np.sort(rng.permutation(candidates)[:count])
        masked_T, action = ids_T.copy(), rng.random(len(position))
        others = rng.choice(tokenizer.ordinary_ids, len(position))
        for index, draw, other in zip(position, action, others, strict=True):
            masked_T[index] = tokenizer.mask if draw < 0.8 else other if draw < 0.9 else ids_T[index]
        return masked_T, position, ids_T[position]

    ids = np.random.default_rng(1)
    first, second = np.random.default_rng(2), np.random.default_rng(2)
    for slots in (4, 2) * 100:
        ids_T = np.array([2, *ids.integers(1, 13, ids.integers(1, 20)), 5, 3], np.int32)
        found = mask_tokens(ids_T, tokenizer, first, rate=0.3, slots=slots, whole_words=whole_words)
        for array, expected in zip(found, plainly(ids_T, second, 0.3, slots), strict=True):
            np.testing.assert_array_equal(array, expected)
        assert first.bit_generator.state == second.bit_generator.state
    assert [array.dtype for array in found] == [np.int32] * 3


def test_masking_statistics(tokenizer):
    rng = np.random.default_rng(0)
    ids = np.array([2, *rng.integers(5, 9, 20), 3], np.int32)
    chosen, masked_away, kept, runs = 0, 0, 0, 4000
    counts = np.zeros(len(ids))
    for _ in range(runs):
        masked, position, target = mask_tokens(ids, tokenizer, rng, rate=0.15, slots=4)
        assert (target == ids[position]).all()
        assert (np.delete(masked, position) == np.delete(ids, position)).all()
        assert not np.isin(masked[position], (0, 1, 2, 3)).any()
        chosen += len(position)
        counts[position] += 1
        masked_away += (masked[position] == tokenizer.mask).sum()
        kept += (masked[position] == target).sum()
    assert chosen / runs == pytest.approx(0.15 * 20, rel=0.01)
    assert masked_away / chosen == pytest.approx(0.8, abs=0.015)
    # 10% are unchanged, and one in eight of the 10% random words is the same word.
    assert kept / chosen == pytest.approx(0.1 + 0.1 / 8, abs=0.012)
    assert counts[0] == counts[-1] == 0
    assert counts[1:-1] == pytest.approx(np.full(20, chosen / 20), rel=0.15)


def test_random_words_are_never_special(tokenizer):
    assert set(tokenizer.ordinary_ids) == set(range(5, 13))


def test_at_least_one_word_is_masked_and_never_a_special_one(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(50):
        _, position, _ = mask_tokens(np.array([2, 6, 3], np.int32), tokenizer, rng, rate=0.15, slots=3)
        assert position.tolist() == [1]
    masked, position, _ = mask_tokens(np.array([2, 1, 3], np.int32), tokenizer, rng, rate=0.9, slots=3)
    assert masked.tolist() == [2, 1, 3] and not len(position)


def test_fractional_counts_are_right_in_the_mean(tokenizer):
    rng = np.random.default_rng(0)
    ids = np.array([2, *[6] * 12, 3], np.int32)
    counts = [len(mask_tokens(ids, tokenizer, rng, rate=0.15, slots=9)[1]) for _ in range(4000)]
    assert set(counts) == {1, 2} and np.mean(counts) == pytest.approx(1.8, abs=0.03)


def test_whole_words_are_masked_together(tokenizer):
    ids = np.array([2, 5, 10, 11, 12, 6, 3], np.int32)
    rng = np.random.default_rng(0)
    together = 0
    for _ in range(300):
        _, position, _ = mask_tokens(ids, tokenizer, rng, rate=0.6, slots=5, whole_words=True)
        pieces = {2, 3, 4} & set(position.tolist())
        together += len(pieces) == 3
        assert len(pieces) in (0, 3)
    assert together > 50


def test_vocabulary_is_trained_with_special_tokens_first(tmp_path):
    texts = ["a red square", "a blue circle", "a red circle", "a blue square"] * 3
    vocabulary = train_vocabulary(texts, 200)
    assert vocabulary[:5] == SPECIAL
    assert {"red", "blue", "square", "circle"} <= set(vocabulary)
    assert train_vocabulary(texts, 200) == vocabulary
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    assert read_vocabulary(str(tmp_path)) == read_vocabulary(str(tmp_path / "vocab.txt")) == vocabulary


def test_vocabulary_from_a_hugging_face_folder(tmp_path):
    from transformers import BertTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizer.from_pretrained(str(tmp_path)).save_pretrained(str(tmp_path / "saved"))
    (tmp_path / "saved" / "vocab.txt").unlink(missing_ok=True)
    assert read_vocabulary(str(tmp_path / "saved")) == WORDS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/vocab.txt", "no such file; set data.vocabulary"),
        ("no-such-name-anywhere", "neither a file or folder here nor a Hugging Face tokenizer"),
    ],
)
def test_missing_vocabulary_is_a_clear_error(name, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=message):
        read_vocabulary(name)


def test_bad_vocabularies_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no \[MASK\]"):
        Tokenizer(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"))
    with pytest.raises(DataError, match="twice"):
        Tokenizer((*SPECIAL, "a", "a"))
    with pytest.raises(DataError, match=r"vocab.txt"):
        read_vocabulary(str(tmp_path))
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        read_vocabulary(str(tmp_path))
