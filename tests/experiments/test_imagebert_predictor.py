"""An ImageBERT's predictor: against evaluation and the model called by hand, from .npz files, and what it refuses."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

import pixelbert_jax
from data_pipelines.errors import DataError
from data_pipelines.storage.records import open_records
from data_pipelines.storage.regions import Regions
from experiments import ask, pointing_game, visualize
from experiments.run.common_flags import IMAGES, OUTPUT, REGIONS, TEXTS, WORKDIR
from pixelbert_jax import ImageWithRegions, Predictor
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.image_index import ImageIndex
from pixelbert_jax.predictor_inputs import pixels_of
from pixelbert_jax.visual_readers import AttentionMap
from tests.experiments.fine_tuning import on_one_device, regions_config, with_whole_image
from tests.experiments.test_imagebert import pairs_alone
from tests.saved_run import save_run

ROOT = Path(__file__).parents[2]
TEXT = "a red circle and a blue cross"


def write_regions(path, regions: Regions, image):
    """The file that detectors' users write: boxes in pixels."""
    height, width = image.shape[:2]
    np.savez(
        path,
        features=regions.features,
        boxes=regions.boxes * [width, height, width, height],
        image_h=height,
        image_w=width,
        objects_id=regions.classes,
        objects_conf=regions.scores,
        global_feature=regions.global_feature,
    )


@pytest.fixture(scope="module")
def records(region_data):
    records = open_records(region_data, "shapes", "validation")
    return [records[i] for i in range(5)]


@pytest.fixture(scope="module")
def folder(records, tmp_path_factory):
    """Images `images/more/N.png` and their regions `regions/more/N.npz`."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("images", "regions"):
        (folder / name / "more").mkdir(parents=True)
    for number, record in enumerate(records):
        image = pixels_of(record.image)
        Image.fromarray(image).save(folder / "images" / "more" / f"{number}.png")
        write_regions(folder / "regions" / "more" / f"{number}.npz", record.regions, image)
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["regions", "whole_image"])
def saved(request, region_data, tmp_path_factory):
    config = regions_config(region_data)
    with on_one_device():
        return save_run(
            tmp_path_factory.mktemp("run") / "run",
            region_data,
            config=with_whole_image(config) if request.param else config,
        )


@pytest.fixture(scope="module")
def loaded(saved):
    return pixelbert_jax.load(saved)


def paths(folder):
    return sorted(folder.glob("images/more/*.png"))


def test_matching_equals_each_pair_alone(loaded, records, folder):
    """From files; the model gets its highest-scoring regions, as in training."""
    texts = [text for record in records for text in record.texts]
    expected = jax.nn.sigmoid(pairs_alone(loaded, records))
    assert np.ptp(expected, axis=0).min() > 1e-4
    predictor = Predictor(loaded, regions=folder / "regions", batch_images=2, batch_pairs=3)
    np.testing.assert_allclose(predictor.match(paths(folder), texts), expected, atol=2e-3)  # boxes went through pixels
    exact = [ImageWithRegions(pixels_of(record.image), record.regions) for record in records]
    np.testing.assert_allclose(predictor.match(exact, texts), expected, atol=1e-5)
    np.testing.assert_allclose(Predictor(loaded).match(exact[0], texts), expected[:1], atol=1e-5)
    moved = dataclasses.replace(exact[0], regions=records[1].regions)
    np.testing.assert_allclose(predictor.match(moved, texts), expected[1:2], atol=1e-5)
    assert [i for i, _ in predictor.rank(exact, texts[0])] == np.argsort(-expected[:, 0], kind="stable").tolist()


def sequence(loaded, item, text):
    """What the encoder reads, without padding."""
    found = item.regions.best(loaded.data.regions)
    whole = (found.global_feature[None],) if loaded.data.whole_image == "stored" else ()
    visual, mask = loaded.model.model.encode_regions(
        found.features[None], found.boxes[None], np.ones((1, len(found)), bool), *whole
    )
    ids = loaded.tokenizer.encode(text, 32)[None]
    return ids, jnp.ones(ids.shape, bool), visual, mask


def test_masked_tokens_and_attention_by_hand(loaded, records):
    predictor, item = Predictor(loaded), ImageWithRegions(pixels_of(records[2].image), records[2].regions)
    masked = "a [MASK] circle"
    ids, *rest = sequence(loaded, item, masked)
    hidden = loaded.model.model.fuse(ids, *rest)
    position = int(np.flatnonzero(ids[0] == loaded.tokenizer.mask)[0])
    logits = loaded.model.token_logits(hidden, np.array([[position]]))[0, 0]
    expected = np.sort(jax.nn.softmax(logits))[::-1][:5]
    np.testing.assert_allclose([p for _, p in predictor.fill_mask(item, masked)[0]], expected, atol=1e-5)

    ids, *rest = sequence(loaded, item, TEXT)
    count = len(item.regions.best(loaded.data.regions))
    attention_HxSxS = loaded.model.model.attention(ids, *rest, 1)[0]
    found = predictor.attention_map(item, TEXT, "circle", layer=1)
    np.testing.assert_allclose(found.grid, attention_HxSxS.mean(0)[3, -count:], atol=1e-5)
    np.testing.assert_array_equal(found.boxes, item.regions.boxes[:count])
    height, width = found.weights.shape
    assert (height, width) == item.image.shape[:2]
    best = int(found.grid.argmax())
    left, top, right, bottom = found.boxes[best]
    x, y = found.peak
    assert (x, y) == (pytest.approx((left + right) / 2), pytest.approx((top + bottom) / 2))
    assert found.weights[int(y * height), int(x * width)] == found.weights.max() == found.grid.max()


def test_weights_are_the_greatest_share_of_the_regions_that_cover_a_pixel(loaded):
    size = loaded.task.model.regions.feature_size
    boxes = np.array([[0, 0, 0.5, 1], [0.25, 0, 1, 0.5], [0.9, 0.9, 0.9, 0.9]], np.float32)
    regions = Regions(
        features=np.zeros((3, size), np.float16),
        boxes=boxes,
        classes=np.zeros(3, np.int32),
        scores=np.ones(3, np.float32),
        global_feature=np.zeros(loaded.task.model.regions.global_size, np.float16),
    )
    item = ImageWithRegions(np.zeros((4, 8, 3), np.uint8), regions)
    shares = np.zeros(loaded.data.regions, np.float32)
    shares[:3] = 0.2, 0.5, 0.1
    found = Predictor(loaded)._reader.attention_map("a", shares, item)
    expected = np.zeros((4, 8), np.float32)
    expected[:, :4], expected[:2, 2:], expected[3, 7] = 0.2, 0.5, 0.1
    np.testing.assert_array_equal(found.weights, expected)
    assert AttentionMap("a", np.eye(2)[:1], np.eye(2), item.image).peak == (0.25, 0.5)


def test_a_folder_is_searched(loaded, folder, tmp_path):
    predictor = Predictor(loaded, regions=folder / "regions")
    lonely = tmp_path / "images"
    lonely.mkdir()
    for number, path in enumerate(paths(folder)):
        (lonely / path.name).write_bytes(path.read_bytes())
        if number < 2:
            (folder / "regions" / f"{path.stem}.npz").write_bytes(
                (folder / "regions" / "more" / f"{path.stem}.npz").read_bytes()
            )
    index = predictor.index(lonely)
    assert [name[-5:] for name in index.names] == ["0.png", "1.png"]
    assert len(index.skipped) == 3 and "no 2.png.npz, the regions of" in index.skipped[0][1]
    expected = predictor.match(paths(folder)[:2], TEXT)[:, 0]
    assert dict(index.search(TEXT)) == {
        name: pytest.approx(p, abs=1e-5) for name, p in zip(index.names, expected, strict=True)
    }
    index.save(tmp_path / "index.npz")
    assert ImageIndex.load(tmp_path / "index.npz", predictor).search(TEXT)[0][0] == index.search(TEXT)[0][0]


def test_the_programs(saved, loaded, folder, tmp_path, capsys):
    files = [str(path) for path in paths(folder)]
    regions = str(folder / "regions")
    with flagsaver.flagsaver(
        (WORKDIR, str(saved)), (REGIONS, regions), (IMAGES, files[:2]), (TEXTS, [TEXT]), (ask._JSON, True)
    ):
        ask.main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    expected = Predictor(loaded, regions=regions).match(files[:2], TEXT)[:, 0]
    np.testing.assert_allclose([row["probability"] for row in rows], expected, atol=1e-6)
    output = tmp_path / "attention.png"
    with flagsaver.flagsaver(
        (WORKDIR, str(saved)), (REGIONS, regions), (IMAGES, files[:1]), (TEXTS, [TEXT]), (OUTPUT, str(output))
    ):
        visualize.main()
    assert Image.open(output).size[0] > 300 and "circle: 0." in capsys.readouterr().out


def test_the_page_needs_a_detector(saved):
    pytest.importorskip("gradio", reason="the page needs the extra demo")
    command = [sys.executable, "-m", "experiments.demo", f"--workdir={saved}"]  # its flags are also those of others
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1 and "is an ImageBERT, which reads" in ended.stderr and "`detector`" in ended.stderr


def test_the_pointing_game(loaded, region_data):
    """Hits of the regions with the greatest attention."""
    scenes = pointing_game.scenes(open_records(region_data, "shapes", "train"), 4)
    predictor, hits = Predictor(loaded), []
    for record in scenes:
        item = ImageWithRegions(pixels_of(record.image), record.regions)
        for word, thing in pointing_game.named_objects(record):
            found = predictor.attention_map(item, record.texts[0], word)
            box = found.boxes[found.grid.argmax()]
            x0, y0, x1, y1 = thing.box
            hits.append(x0 <= (box[0] + box[2]) / 2 <= x1 and y0 <= (box[1] + box[3]) / 2 <= y1)
    assert len(hits) > 4
    assert pointing_game.play(predictor, scenes)[0] == pytest.approx(np.mean(hits))


def test_what_does_not_fit_is_refused_in_one_sentence(loaded, saved_run, folder, tmp_path):
    image, found = paths(folder)[0], folder / "regions" / "more" / "0.npz"
    pixels, predictor = pixels_of(image), Predictor(loaded, regions=folder / "regions")
    (tmp_path / "broken.npz").write_bytes(found.read_bytes()[:-30])
    with np.load(found) as stored:
        np.savez(tmp_path / "other.npz", **{**stored, "features": stored["features"][:, 1:]})
    cases = [
        (lambda: Predictor(loaded).match(image, "a"), ConfigError, "is an ImageBERT, which reads a detector's regions"),
        (lambda: predictor.match(pixels, "a"), ConfigError, "found by an image's path"),
        (lambda: predictor.match(tmp_path / "9.png", "a"), ConfigError, "no 9.png.npz, the regions of"),
        (lambda: Predictor(loaded, regions=tmp_path / "no"), ConfigError, "no such folder"),
        (lambda: ImageWithRegions.load(image, tmp_path / "no.npz"), ConfigError, "no such file of regions"),
        (lambda: ImageWithRegions.load(image, tmp_path / "broken.npz"), DataError, "not a whole .npz file"),
        (lambda: ImageWithRegions.load(pixels[:, :40], found), DataError, "regions of an image of another shape"),
        (
            lambda: predictor.match(ImageWithRegions.load(image, tmp_path / "other.npz"), "a"),
            ConfigError,
            "features of the regions have 107 numbers, but .* takes 108",
        ),
        (
            lambda: Predictor.load(saved_run, regions=folder / "regions"),
            ConfigError,
            "is a Pixel-BERT, which reads no regions",
        ),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    # A Pixel-BERT takes the image alone.
    item = ImageWithRegions.load(image, found)
    assert Predictor.load(saved_run).match(item, "a") == pytest.approx(Predictor.load(saved_run).match(image, "a"))
