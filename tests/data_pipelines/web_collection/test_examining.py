"""The examination of an image."""

import hashlib
import io

import cv2
import pytest
from PIL import Image

from data_pipelines.images.files import BadImageError
from data_pipelines.images.resize import decode
from data_pipelines.web_collection import examining
from data_pipelines.web_collection.examining import examine
from data_pipelines.web_collection.funnel import FOUND, KEPT, Drop, funnel
from data_pipelines.web_collection.near_duplicates import perceptual_hash
from data_pipelines.web_collection.samples import Found, Location, WebImage
from data_pipelines.web_collection.settings import Settings
from tests.data_pipelines.web_collection.crawl import bomb, image_bytes, split, tallies

LOCATION = Location("0.tar", 3, 512, 100)
SETTINGS = Settings(min_side=40)
GOOD = "a dog runs"


def look(encoded: bytes, *texts: object, language: object = "en") -> tuple[list[WebImage], list[Drop]]:
    return split(examine(Found(LOCATION, texts, language, "http://x"), lambda: encoded, SETTINGS))


def test_what_is_kept() -> None:
    encoded = image_bytes(1)
    kept, drops = look(encoded, "www.x.com is a page", GOOD, "short", "&lt;a&gt; dog runs", language="en-GB")
    assert kept == [
        WebImage(
            sha256=hashlib.sha256(encoded).hexdigest(),
            location=LOCATION,
            format="PNG",
            height=40,
            width=48,
            image_hash=perceptual_hash(decode(encoded)),
            texts=(GOOD, "<a> dog runs"),
            language="en",
            page="http://x",
        )
    ]
    assert [(d.stage, d.text, d.images, d.texts) for d in drops] == [
        (FOUND, "", 1, 4),
        ("address", "www.x.com is a page", 0, 1),
        ("length", "short", 0, 1),
    ]


@pytest.mark.parametrize(
    ("encoded", "texts", "language", "stage", "lost"),
    [
        (b"", (GOOD, "x"), "en", "image file", 2),
        (b"<html>", (GOOD, "x"), "en", "image file", 2),
        (bomb(), (GOOD, "x"), "en", "image file", 2),
        (image_bytes(1, 39, 48), (GOOD, "x"), "en", "size", 2),
        (image_bytes(1, 48, 39), (GOOD, "x"), "en", "size", 2),
        (image_bytes(1, 39, 48)[:60], (GOOD,), "en", "size", 1),
        (image_bytes(1), (GOOD, "x"), "de", "language", 2),
        (image_bytes(1), ("x",), "en", "some text", 0),
        (image_bytes(1), (), "en", "some text", 0),
        (image_bytes(1)[:60], (GOOD, "x"), "en", "whole file", 1),
    ],
)
def test_stage_that_drops(encoded: bytes, texts: tuple, language: str, stage: str, lost: int) -> None:
    kept, drops = look(encoded, *texts, language=language)
    assert not kept
    assert (drops[-1].stage, drops[-1].images, drops[-1].texts) == (stage, 1, lost)
    rows = funnel(tallies(drops))
    assert (rows[-1].images_left, rows[-1].texts_left) == (0, 0)


def test_an_image_that_lies_on_its_side_is_turned() -> None:
    """Its size and its hash are those of the upright image."""
    upright, tag = Image.open(io.BytesIO(image_bytes(1, 40, 64))), Image.Exif()
    tag[0x0112] = 6  # a viewer turns the stored image by a quarter clockwise
    files = io.BytesIO(), io.BytesIO()
    upright.save(files[0], "PNG")
    upright.rotate(90, expand=True).save(files[1], "PNG", exif=tag)
    (straight,), (turned,) = (look(file.getvalue(), GOOD)[0] for file in files)
    assert (turned.height, turned.width) == (straight.height, straight.width) == (40, 64)
    assert turned.image_hash == straight.image_hash and turned.sha256 != straight.sha256


def test_the_funnel_closes_for_what_is_kept() -> None:
    kept, drops = look(image_bytes(1), GOOD, "x", "BUY NOW OR NEVER", "another dog runs")
    rows = funnel(tallies([*drops, Drop(KEPT, images=1, texts=len(kept[0].texts))]))
    assert (rows[-1].images_left, rows[-1].texts_left) == (1, 2)


def test_nothing_is_decoded_before_the_cheap_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(_: bytes, turn: bool) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(examining, "verify", verify)
    for encoded, texts, language in (
        (bomb(), GOOD, "en"),
        (image_bytes(1, 39, 39), GOOD, "en"),
        (image_bytes(1), GOOD, "de"),
        (image_bytes(1), "x", "en"),
    ):
        assert not look(encoded, texts, language=language)[0]
    with pytest.raises(AssertionError):
        look(image_bytes(1), GOOD)


def test_reasons() -> None:
    def missing() -> bytes:
        raise BadImageError("missing file")

    _, drops = split(examine(Found(LOCATION, [GOOD]), missing, SETTINGS))
    assert (drops[-1].stage, drops[-1].reason, drops[-1].location) == ("image file", "missing file", "0.tar:3")
    assert look(image_bytes(1)[:60], GOOD)[1][-1].reason == "truncated or damaged file"
    assert look(image_bytes(1, 39, 50), GOOD)[1][-1].detail == "39x50 pixels"
    assert look(image_bytes(1), GOOD, language="de-AT")[1][-1].reason == "de"


def test_what_opencv_alone_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    assert look(image_bytes(1), GOOD)[1][-1].stage == "whole file"
