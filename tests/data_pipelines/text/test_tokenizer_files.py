"""Lines of a vocabulary, and the settings for upper case and accents in tokenizer files."""

import json

import pytest
from tokenizers import BertWordPieceTokenizer

from data_pipelines.errors import DataError
from data_pipelines.text.tokenizer import SPECIAL, Tokenizer, read_vocabulary
from data_pipelines.text.tokenizer_files import cased_pieces, check_case, split_vocabulary

WORDS = (*SPECIAL, "a", "red")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a\nb\n", ("a", "b")),
        ("a\nb", ("a", "b")),
        ("a\r\nb\r\n", ("a", "b")),
        ("a\r\nb", ("a", "b")),
        ("a\r\nb\n", ("a\r", "b")),
        ("a\n\r\nb\n", ("a", "\r", "b")),
        ("a\n\nb\n\n", ("a", "", "b", "")),
        ("a\n \u2028\nb\u0085\x0b\x0c\x1c\x1d\x1e\u2029\n", ("a", " \u2028", "b\u0085\x0b\x0c\x1c\x1d\x1e\u2029")),
        ("", ()),
    ],
)
def test_a_line_is_a_token(text, pieces):
    assert split_vocabulary(text) == pieces


def test_every_line_keeps_its_id(tmp_path):
    words = (*SPECIAL, "a", "\u2028", "", "\u0085", "", " ", "\r", "red", "x\x0by")
    (tmp_path / "vocab.txt").write_bytes(("\n".join(words) + "\n").encode())
    assert read_vocabulary(str(tmp_path)) == read_vocabulary(str(tmp_path / "vocab.txt")) == words
    (tmp_path / "vocab.txt").write_bytes(("\ufeff" + "\n".join(words) + "\n").encode())  # as Windows' editors write
    assert read_vocabulary(str(tmp_path)) == words
    tokenizer = Tokenizer(words)
    assert tokenizer.encode("a red", 9).tolist() == [2, 5, 12, 3]
    assert not {7, 9} & set(tokenizer.ordinary_ids)  # empty tokens match no words
    with pytest.raises(DataError, match=r"'a' for the ids 5 and 7; blank one of the lines"):
        Tokenizer((*SPECIAL, "a", "b", "a"))


def test_ids_of_a_tokenizer_json_with_a_gap_are_refused(tmp_path):
    ids = {word: i for i, word in enumerate(WORDS)} | {"blue": 9}
    BertWordPieceTokenizer(vocab=ids).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="ids of its 8 tokens are not the numbers from 0"):
        read_vocabulary(str(tmp_path))


def write(folder, config=None, normalizer=...):
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if normalizer is not ...:
        (folder / "tokenizer.json").write_text(json.dumps({"normalizer": normalizer}))


BERT = {"type": "BertNormalizer", "lowercase": False, "strip_accents": None}


@pytest.mark.parametrize(
    ("config", "normalizer", "lowercase"),
    [
        ({"do_lower_case": False}, ..., False),
        ({"do_lower_case": True, "strip_accents": None}, ..., True),
        ({"do_lower_case": False}, BERT | {"lowercase": True}, False),  # the first file has priority
        ({}, BERT, False),
        (None, BERT | {"lowercase": True, "strip_accents": True}, True),
        (None, {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "StripAccents"}]}, True),
        (None, {"type": "Sequence", "normalizers": [{"type": "NFC"}]}, False),
        (None, None, False),
    ],
)
def test_case_of_a_tokenizer(tmp_path, config, normalizer, lowercase):
    write(tmp_path, config, normalizer)
    for name in (tmp_path, tmp_path / "vocab.txt"):
        assert read_vocabulary(str(name), lowercase) == read_vocabulary(str(name)) == WORDS
        with pytest.raises(DataError, match=rf"do_lower_case is .*set data.lowercase={lowercase}") as error:
            read_vocabulary(str(name), not lowercase)
        assert "\n" not in str(error.value)


def test_files_without_settings_fit_both(tmp_path):
    write(tmp_path, {"model_max_length": 512})
    check_case(tmp_path, True)
    check_case(tmp_path, False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"do_lower_case": true, "strip_accents": false}', "strip_accents is false"),
        ('{"do_lower_case": "no"}', "do_lower_case is neither true nor false"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_other_accents_and_damaged_files_are_refused(tmp_path, content, message):
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(DataError, match=rf"tokenizer_config\.json: {message}"):
        check_case(tmp_path, True)


def test_tokens_with_upper_case():
    assert cased_pieces((*SPECIAL, "a", "\u1d43", "Red", "##X", "[unused1]")) == 2
