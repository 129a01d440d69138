"""Heuristics for single texts."""

import time
from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.web_collection.settings import Settings
from data_pipelines.web_collection.texts import HEURISTICS, MAX_CHARACTERS, judge, read_words

WORDS = frozenset({"a", "dog", "runs", "on", "the", "beach", "dog's"})


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("", "length"),
        ("a dog", "length"),
        ("a dog - !", "length"),
        ("a dog runs", ""),
        ("a , dog runs", ""),
        ("a dog " * 25, ""),
        ("a dog " * 25 + "runs", "length"),
        (("x" * 333 + " ") * 3, "length"),
        (None, "length"),
        (7, "length"),
        (["a dog runs"], "length"),
        ("write to jane.doe+x@mail.example now", "e-mail"),
        ("a dog @ the beach", ""),
        ("see http://dogs.example/x today", "address"),
        ("see www.dogs today please", "address"),
        ("the best of Dogs.com for you", "address"),
        ("a page called index.html here", "address"),
        ("a dog. commas are fine", ""),
        ("image of IMG_1234.jpg here", "file name"),
        ("my photo.JPEG from Rome", "file name"),
        ("taken as DSC01234 in Rome", "file name"),
        ("taken as IMG 20190101 in Rome", "file name"),
        ("taken as P1030456 in Rome", "file name"),
        ("dog_on_beach by the sea", "file name"),
        ("a p 5 sign and img", ""),
        ("12.99 $ 14.99 $ now", "characters"),
        ("** a dog runs **", ""),
        ("*** a dog on *** !!", "characters"),
        ("BEST DOGS EVER SEEN", "capitals"),
        ("BEST dogs EVER SEEN", ""),
        ("1990 to 1999 2000", "characters"),
    ],
)
def test_stage_that_drops(text: object, stage: str) -> None:
    _, dropped_by, reason = judge(text, Settings())
    assert dropped_by == stage
    assert bool(reason) == bool(stage)


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("hund läuft über strand", "vocabulary"),
        ("the dog's 3 beach runs", ""),
        ("a dog runs zig", ""),
        ("a dog zig zag", "vocabulary"),
        ("The DOG runs on", ""),
        ("a dog 1 2 3 zig", ""),
        ("a dog zig 1 2 3", ""),
        ("dog zig 1 2 3 a b", "vocabulary"),
    ],
)
def test_known_words(text: str, stage: str) -> None:
    assert judge(text, Settings(words=WORDS, min_letters=0.0, max_unknown_words=0.34))[1] == stage


def test_without_a_list_any_word_is_known() -> None:
    assert judge("hund läuft über strand", Settings())[1:] == ("", "")


def test_scripts_without_capitals_and_with_vowel_signs() -> None:
    for text in ("कुत्ता समुद्र तट पर दौड़ता है", "собака бежит по пляжу"):
        assert judge(text, Settings(min_letters=1.0))[1] == ""


def test_thresholds_are_the_settings() -> None:
    assert judge("a dog", Settings(min_words=2))[1] == ""
    assert judge("a dog runs", Settings(max_words=3))[1] == ""
    assert judge("a dog runs on", Settings(max_words=3))[1:] == ("length", "over 3 words")
    assert judge("a dog, 1999", Settings(min_letters=0.4))[1] == ""
    assert judge("a dog, 1999", Settings(min_letters=0.5))[1] == "characters"
    assert judge("a dog 1999", Settings(min_letters=0.5))[1] == ""
    assert judge("a dog zig zag", Settings(words=WORDS, max_unknown_words=0.5))[1] == ""


def test_what_is_kept_is_clean() -> None:
    assert judge(" Tom &amp; his\n dog\0run ", Settings())[0] == "Tom & his dog run"


def test_every_heuristic_is_a_stage_of_the_funnel() -> None:
    from data_pipelines.web_collection.funnel import STAGES

    assert [stage for stage in STAGES if stage in HEURISTICS] == list(HEURISTICS)


PIECES = pytest.mark.parametrize(
    "piece", ["a", "a ", "a-", "a.", "a@", "&amp;", "\N{COMBINING ACUTE ACCENT}", "_", "IMG"]
)
LONG = Settings(min_words=1, max_words=100_000, words=WORDS)


@PIECES
@pytest.mark.parametrize("length", [999, 9_999])
def test_long_texts_cost_little(piece: str, length: int) -> None:
    """Under 10 ms; a pattern with cubic time in the length would take 600 ms."""
    text, took = (piece * length)[:length], []
    for _ in range(3):  # the fastest run, because the garbage collector may run in between
        begun = time.thread_time()
        cleaned, stage, _ = judge(text, LONG)
        took.append(time.thread_time() - begun)
    assert min(took) < 0.5
    assert len(cleaned) <= length and stage == ("length" if length > MAX_CHARACTERS else stage)


@PIECES
def test_huge_texts_are_not_cleaned(monkeypatch: pytest.MonkeyPatch, piece: str) -> None:
    monkeypatch.setattr("data_pipelines.web_collection.texts.clean", lambda _: pytest.fail("cleaned"))
    text = (piece * 5_000_000)[:5_000_000]
    assert judge(text, LONG) == (text[:MAX_CHARACTERS], "length", f"over {MAX_CHARACTERS} characters")


def test_lists_of_words(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[unused1]\n!\nDog\n##s\nRuns \n\n7\nrock'n'roll\n", encoding="utf-8")
    assert read_words(path) == {"dog", "runs", "rock'n'roll"}


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"\xff\xfe\n", "is not UTF-8 text"), (b"1\n##a\n", "holds no word")],
)
def test_bad_lists_of_words(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"--words=.*words.txt {message}.*; give a file with one word per line"):
        read_words(path)
