"""Photographs with an orientation tag: turned in users' own data sets and in Predictor, not in published data sets."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from data_pipelines.batches import shared
from data_pipelines.images import resize
from data_pipelines.images.files import verify
from data_pipelines.images.orientation import orientation_of, upright, upright_size
from data_pipelines.images.resize import ResizeRule
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import open_records
from pixelbert_jax.predictor_inputs import pixels_of

ORIENTATIONS = range(1, 9)


def image(height=24, width=40):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def encoded(orientation, form="PNG", pixels=None):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(image() if pixels is None else pixels).save(buffer, form, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_as_pillow_turns_it(orientation, form):
    file = encoded(orientation, form)
    stored = resize.decode(file)
    image = Image.open(io.BytesIO(file))
    assert orientation_of(image) == orientation and stored.shape == (24, 40, 3)
    expected = np.asarray(ImageOps.exif_transpose(Image.fromarray(stored)))  # no tag: as stored
    np.testing.assert_array_equal(expected, stored)
    marked = Image.fromarray(stored)
    marked.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(marked))
    turned = resize.decode(file, orientation=orientation)
    np.testing.assert_array_equal(turned, expected)
    assert turned.shape[:2] == upright_size(24, 40, orientation) and turned.flags.c_contiguous
    header, plain = verify(file, turn=True), verify(file)
    assert (header.height, header.width, header.orientation) == (*expected.shape[:2], orientation)
    assert (plain.height, plain.width, plain.orientation) == (24, 40, 1)


@pytest.mark.parametrize("tag", [0, 9, 300, "6", None])
def test_other_tags_are_ignored(tag):
    class Odd:
        def getexif(self):
            return {0x0112: tag}

    class Damaged:
        def getexif(self):
            raise SyntaxError("bad tag")

    assert orientation_of(Odd()) == orientation_of(Damaged()) == 1


def test_the_predictor_reads_it_upright_from_any_input(tmp_path):
    file = encoded(6)
    (tmp_path / "phone.png").write_bytes(file)
    expected = upright(image(), 6)
    for given in (tmp_path / "phone.png", file, Image.open(io.BytesIO(file))):
        np.testing.assert_array_equal(pixels_of(given), expected)


def own(folder, name):
    """Two images, one of them not upright, in the layout of a user's data set."""
    source = folder / "source"
    source.mkdir()
    (source / "phone.png").write_bytes(encoded(6))
    (source / "flat.png").write_bytes(encoded(1))
    lines = {
        "image_text": [{"image": f"{i}.png", "texts": ["a dog"]} for i in ("phone", "flat")],
        "vqa": [
            {"image": f"{i}.png", "questions": [{"question": "what?", "answers": ["a"]}]} for i in ("phone", "flat")
        ],
        "image_pairs": [
            {"images": ["flat.png", "phone.png"], "sentences": [{"sentence": "same", "label": True}]},
        ],
    }[name]
    (source / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return source


@pytest.mark.parametrize("name", ["image_text", "vqa", "image_pairs"])
def test_own_images_are_turned_and_counted(tmp_path, name, capsys):
    prepare(name, tmp_path / "data", source_dir=own(tmp_path, name), num_threads=1)
    records = open_records(tmp_path / "data", name, "train")
    found = records[0].second if name == "image_pairs" else records[0]
    assert (found.height, found.width, found.orientation) == (40, 24, 6) and found.image == encoded(6)
    sizes = records.index.second_heights if name == "image_pairs" else records.index.heights
    assert sizes[0] == 40
    canvas, size = np.full((64, 64, 3), 7, np.uint8), np.zeros(2, np.int32)
    shared.show(canvas, size, found, "x", ResizeRule(24, 40))
    assert size.tolist() == [40, 24]
    np.testing.assert_array_equal(canvas[:40, :24], upright(image(), 6))
    summary = json.loads(next((tmp_path / "data" / name).glob("*/index.json")).read_text())
    assert summary["skipped"]["train"]["turned"] == 1
