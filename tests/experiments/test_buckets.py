"""Programs with paths in a bucket, on a real server: the same results as on a disk, and no local folder named gs:."""

import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver
from etils import epath
from flax import nnx
from PIL import Image

import pixelbert_jax
from data_pipelines.errors import DataError
from experiments import ask, export, pretrain, visualize
from experiments.evaluation.retrieval import read_part
from experiments.run import metric_writer
from experiments.run.common_flags import IMAGES, OUTPUT, TEXTS, WORKDIR, new_file
from experiments.run.metric_writer import MetricWriter, read_metrics
from pixelbert_jax import loading
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import named_arrays
from pixelbert_jax.weights.files import read_tensors
from tests.bucket_fixtures import copy_to, gs_bucket, s3_bucket
from tests.experiments.evaluating import evaluate
from tests.experiments.tiny_config import get_config


@pytest.fixture(scope="module")
def gs():
    with gs_bucket() as bucket:
        yield bucket


@pytest.fixture
def bucket(gs, request, tmp_path, monkeypatch):
    """A folder of the test's own in gs://; the current folder is empty, and stays so."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield f"{gs}/{request.node.name}"
    assert not [*(tmp_path / "here").iterdir()]


@pytest.fixture(scope="module")
def run(gs, saved_run):
    """The run's folder in gs://."""
    return copy_to(f"{gs}/saved", saved_run)


def arrays(loaded):
    return {name: np.asarray(array) for name, array in named_arrays(nnx.state(loaded.model)).items()}


def assert_same(loaded, expected):
    assert loaded.tokenizer.vocabulary == expected.tokenizer.vocabulary
    np.testing.assert_equal(arrays(loaded), arrays(expected))


def draw(folder: Path) -> Path:
    folder.mkdir()
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 0, 255))):
        Image.fromarray(np.full((40, 48, 3), colour, np.uint8)).save(folder / f"{name}.png")
    return folder


def test_asking_with_images_and_an_index(bucket, run, saved_run, tmp_path, capsys):
    here, there = draw(tmp_path / "images"), copy_to(f"{bucket}/images", tmp_path / "images")

    def rows(workdir, *given):
        with flagsaver.flagsaver((WORKDIR, str(workdir)), (ask._JSON, True), *given):
            ask.main()
        return json.loads(capsys.readouterr().out)["rows"]

    found = rows(run, (IMAGES, [f"{there}/a.png"]), (TEXTS, ["a red square"]))
    expected = rows(saved_run, (IMAGES, [str(here / "a.png")]), (TEXTS, ["a red square"]))
    assert found == [{**expected[0], "image": f"{there}/a.png"}]
    search, index = (ask._SEARCH, "a red square"), (ask.INDEX, f"{bucket}/kept.npz")
    made = rows(run, search, index, (ask._SEARCH_IN, there))
    assert rows(run, search, index) == made  # from the index alone
    expected = rows(saved_run, search, (ask._SEARCH_IN, str(here)))
    assert [row["image"].rpartition("/")[2] for row in made] == [Path(row["image"]).name for row in expected]
    assert [row["probability"] for row in made] == pytest.approx([row["probability"] for row in expected], abs=1e-6)


def test_an_image_of_attention(bucket, run, tmp_path):
    image = str(draw(tmp_path / "images") / "a.png")
    for output in (f"{bucket}/a.png", str(tmp_path / "a.png")):
        with flagsaver.flagsaver((WORKDIR, run), (OUTPUT, output), (IMAGES, [image]), (TEXTS, ["a red square"])):
            visualize.main()
    assert (epath.Path(bucket) / "a.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_evaluation_writes_there(bucket, saved_run, tmp_path):
    loaded = pixelbert_jax.load(saved_run)
    scores = evaluate(loaded, "validation", epath.Path(bucket) / "scores.npz", num_images=3)
    assert evaluate(loaded, "validation", tmp_path / "scores.npz", num_images=3) == scores
    assert (epath.Path(bucket) / "scores.npz").read_bytes() == (tmp_path / "scores.npz").read_bytes()
    assert [path.name for path in epath.Path(bucket).iterdir()] == ["scores.npz"]  # and no parts


def test_a_part_of_an_evaluation_is_read_again(bucket):
    content = io.BytesIO()
    np.save(content, np.ones((2, 3), np.float32))
    part = epath.Path(bucket) / "0.npy"
    part.write_bytes(content.getvalue())
    np.testing.assert_array_equal(read_part(part, (2, 3)), np.ones((2, 3)))
    assert read_part(part, (3, 3)) is None and read_part(part.parent / "1.npy", (2, 3)) is None
    part.write_bytes(content.getvalue() + bytes(5000))
    assert read_part(part, (2, 3)) is None  # larger than it can be


def test_an_export_goes_there_and_comes_back(bucket, run, saved_run, monkeypatch):
    with flagsaver.flagsaver((WORKDIR, run), (OUTPUT, f"{bucket}/model")):
        export.main()
        with pytest.raises(ConfigError, match=r"gs://.*/model exists; remove it"):
            export.main()
    assert_same(pixelbert_jax.load(f"{bucket}/model"), pixelbert_jax.load(saved_run))
    assert (epath.Path(bucket) / "model" / "README.md").read_text().startswith("---")
    monkeypatch.setattr(loading, "upload", fail_at_the_last(loading.upload))
    with pytest.raises(KeyboardInterrupt):
        loading.export(pixelbert_jax.load(saved_run), f"{bucket}/half", "")
    with pytest.raises(ConfigError, match="neither a run's folder with a finished checkpoint nor an exported model"):
        pixelbert_jax.load(f"{bucket}/half")
    with (
        flagsaver.flagsaver((WORKDIR, run), (OUTPUT, f"{bucket}/x"), (export._PUSH_TO_HUB, "me/x")),
        pytest.raises(ConfigError, match="uploads a local folder"),
    ):
        export.main()


def fail_at_the_last(upload):
    def stopped(source, target):
        if target.name == "config.json":
            raise KeyboardInterrupt
        upload(source, target)

    return stopped


def test_weights_are_read_there(bucket, tmp_path):
    torch = pytest.importorskip("torch")
    safetensors_torch = pytest.importorskip("safetensors.torch")
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3)}
    (tmp_path / "w").mkdir()
    torch.save(tensors, tmp_path / "w" / "w.bin")
    safetensors_torch.save_file(tensors, tmp_path / "w" / "model.safetensors")
    there = copy_to(f"{bucket}/w", tmp_path / "w")
    for path in (f"{there}/w.bin", f"{there}/model.safetensors", there):
        np.testing.assert_equal(read_tensors(path), {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3)})


def test_a_bucket_that_is_missing_is_noticed_at_the_start(bucket):
    with pytest.raises(DataError, match="gs://nobucket cannot be reached"):
        new_file("gs://nobucket/a.json", ".json")
    assert str(new_file(f"{bucket}/a.json", ".json")) == f"{bucket}/a.json"
    with pytest.raises(ConfigError, match=r"name a .json file"):
        new_file(f"{bucket}/a.png", ".json")


def test_s3_has_exported_models_and_no_runs(saved_run, tmp_path, monkeypatch):
    loaded = pixelbert_jax.load(saved_run)
    loading.export(loaded, tmp_path / "model", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrain.build, "assemble", None)
    monkeypatch.setattr(pretrain.build, "start_compilation_cache", None)
    with s3_bucket() as s3:
        assert_same(pixelbert_jax.load(copy_to(f"{s3}/model", tmp_path / "model")), loaded)
        with pytest.raises(ConfigError, match=r"checkpoints are written to a file system or to gs:// only; mount"):
            pretrain.pretrain(get_config(), f"{s3}/run")
        with pytest.raises(ConfigError, match=r"checkpoints are read from a file system or from gs:// only; copy"):
            pixelbert_jax.load(copy_to(f"{s3}/run", saved_run))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_metrics_are_sent_whole_at_flush_and_after_a_minute(bucket, monkeypatch):
    path = epath.Path(bucket) / "metrics.jsonl"
    writer = MetricWriter(path)
    writer.write(1, {"loss": 0.5})
    assert read_metrics(path) == []
    writer.flush()
    writer.write(2, {"loss": 0.25})
    assert [record["step"] for record in read_metrics(path)] == [1]
    monkeypatch.setattr(metric_writer, "_SECONDS_BETWEEN_UPLOADS", 0.0)
    writer.write(3, {"loss": 0.125})
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]
    writer = MetricWriter(path, resume_step=2)
    writer.write(3, {"loss": -1.0})
    writer.close()
    assert [record["loss"] for record in read_metrics(path)] == [0.5, 0.25, -1.0]


def test_a_process_that_does_not_write_touches_nothing(tmp_path):
    writer = MetricWriter(tmp_path / "metrics.jsonl", tensorboard=True, writes=False)
    writer.write(1, {"loss": 0.5})
    writer.flush()
    writer.close()
    assert not list(tmp_path.iterdir())


def test_a_librarys_warning_is_said_once(bucket, caplog):
    for text in ("one", "two", "one", "one"):
        logging.getLogger("gcsfs").warning(text)
    assert caplog.messages == ["one", "two"]
