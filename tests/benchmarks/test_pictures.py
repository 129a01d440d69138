"""The programs of `make pictures`."""

import itertools
import re
from pathlib import Path

from PIL import Image

from benchmarks.pictures import attention, diagram
from pixelbert_jax.predictor import Predictor

ROOT = Path(__file__).parents[2]
MOST_BYTES = 300_000


def test_each_picture_has_its_command_and_its_place():
    written = re.findall(r"--output=docs/images/(\S+)", (ROOT / "Makefile").read_text())
    texts = "".join(file.read_text() for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    files = sorted((ROOT / "docs" / "images").iterdir())
    assert set(written) <= {file.name for file in files}
    for file in files:
        # `make photographs` draws its curves, benchmarks/pictures/page.py the tabs.
        assert file.name in (*written, "photographs_curves.png") or file.name.startswith("demo_"), file
        assert f"images/{file.name})" in texts, file
        assert file.stat().st_size < MOST_BYTES, file


def test_pictures_are_drawn(saved_run, tmp_path):
    diagram.draw(tmp_path / "diagram.png")
    attention.draw(Predictor.load(saved_run), tmp_path / "attention.png")
    for name in ("diagram", "attention"):
        with Image.open(tmp_path / f"{name}.png") as image, Image.open(ROOT / f"docs/images/{name}.png") as shown:
            assert image.size == shown.size and image.mode == "RGBA"
            assert image.getpixel((0, 0))[3] == 0 and image.getpixel((image.width // 2, 12)) == (255, 255, 255, 255)


def test_texts_are_one_true_and_two_false():
    for scene in itertools.islice(attention.scenes(), 20):
        true, another, exchanged = attention.texts_of(scene).values()
        assert sorted(true.split()) == sorted(exchanged.split()) and true != exchanged
        assert sum(a != b for a, b in zip(true.split(), another.split(), strict=True)) == 1
        assert all(thing.description in true for thing in scene.objects)
        assert not any(thing.description in exchanged for thing in scene.objects)
