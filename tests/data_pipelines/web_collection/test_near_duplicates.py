"""Near-duplicates."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.images.resize import decode
from data_pipelines.web_collection.near_duplicates import (
    MAX_DISTANCE,
    ImageHash,
    bands,
    near_duplicates,
    perceptual_hash,
)
from tests.data_pipelines.web_collection.crawl import image_bytes
from tests.real_data import real_data

BITS = st.integers(0, 2**64 - 1)


@given(BITS, st.integers(0, MAX_DISTANCE), st.data())
def test_near_hashes_share_a_band(value: int, distance: int, data: st.DataObject) -> None:
    flipped = data.draw(st.sets(st.integers(0, 63), max_size=distance))
    other = value ^ sum(1 << bit for bit in flipped)
    assert len(bands(value, distance)) == distance + 1
    assert set(bands(value, distance)) & set(bands(other, distance))


@given(BITS, st.integers(0, MAX_DISTANCE))
def test_bands_hold_every_bit_once(value: int, distance: int) -> None:
    pieces = [band.split(":") for band in bands(value, distance)]
    assert sum(int(piece, 16) << int(start) for start, piece in pieces) == value
    assert all(not set(bands(value, distance)) & {f"{start}:{int(piece, 16) ^ 1:x}"} for start, piece in pieces)


@given(st.lists(st.tuples(st.integers(0, 255), st.sampled_from([0.0, 0.5, 1.0])), max_size=12), st.randoms())
def test_near_duplicates_have_a_better_image(drawn: list, random) -> None:
    images = [ImageHash(f"{i:02d}", value, score) for i, (value, score) in enumerate(drawn)]
    expected = {}
    for image in images:
        better = [
            other
            for other in images
            if (image.value ^ other.value).bit_count() <= 2
            and (other.score > image.score or (other.score == image.score and other.sha256 < image.sha256))
        ]
        if better:
            expected[image] = min(better, key=lambda other: (-other.score, other.sha256))
    shuffled = images * 2
    random.shuffle(shuffled)
    assert dict(near_duplicates(shuffled, 2)) == expected


def test_a_better_image_that_is_itself_a_near_duplicate_counts() -> None:
    chain = [ImageHash("a", 0b000, 0.9), ImageHash("b", 0b011, 0.8), ImageHash("c", 0b1111, 0.7)]
    assert [(worse.sha256, better.sha256) for worse, better in near_duplicates(chain, 2)] == [("b", "a"), ("c", "b")]


def test_all_64_bits_count() -> None:
    top = 1 << 63
    assert not list(near_duplicates([ImageHash("a", 0), ImageHash("b", top | 1)], 1))
    assert list(near_duplicates([ImageHash("a", top), ImageHash("b", top | 1)], 1))


@pytest.mark.parametrize("shade", [0, 17, 128, 255])
def test_images_of_one_colour_have_the_same_hash(shade: int) -> None:
    assert perceptual_hash(np.full((301, 400, 3), shade, np.uint8)) == 0


def test_small_changes_turn_few_bits() -> None:
    for seed in range(20):
        original = Image.open(io.BytesIO(image_bytes(seed, 320, 400)))
        buffer = io.BytesIO()
        original.resize((300, 260)).save(buffer, "JPEG", quality=40)
        same = perceptual_hash(decode(image_bytes(seed, 320, 400))) ^ perceptual_hash(decode(buffer.getvalue()))
        assert same.bit_count() <= 4
        other = perceptual_hash(decode(image_bytes(seed, 320, 400))) ^ perceptual_hash(
            decode(image_bytes(seed + 1, 320, 400))
        )
        assert other.bit_count() > 12


def test_real_photographs_are_distinguished() -> None:
    paths = sorted((real_data("coco") / "val2017").glob("*.jpg"))[:60]
    photographs = [decode(path.read_bytes()) for path in paths]
    values = [perceptual_hash(pixels) for pixels in photographs]
    small = [
        perceptual_hash(np.asarray(Image.fromarray(pixels).resize((pixels.shape[1] // 2, pixels.shape[0] // 2))))
        for pixels in photographs
    ]
    assert all((a ^ b).bit_count() <= 6 for a, b in zip(values, small, strict=True))
    assert min((a ^ b).bit_count() for i, a in enumerate(values) for b in values[:i]) > 10
