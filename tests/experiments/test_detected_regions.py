"""From photographs with captions to an ImageBERT, and its refusal of another detector's regions."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver

import pixelbert_jax
from data_pipelines.config import SourceConfig
from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.regions.detecting import detect_folder, find_images
from data_pipelines.regions.detector import Detector
from data_pipelines.storage.records import open_records
from experiments import export as export_program
from experiments.run.common_flags import OUTPUT, WORKDIR
from experiments.run.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pixelbert_jax.config import RegionsConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import find_description
from pixelbert_jax.predictor_inputs import pixels_of
from pixelbert_jax.weights.initialize import InitConfig
from tests.data_pipelines.publishers import lines, write_image
from tests.data_pipelines.regions.tiny_detectors import CLASSES, QUERIES, save
from tests.experiments.evaluating import evaluate
from tests.experiments.fine_tuning import fine_tune, regions_config

pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Data sets of the same images: a and b with regions of two detectors, old with those of an unknown one."""
    folder = tmp_path_factory.mktemp("detected")
    source = folder / "source"
    for number in range(20):
        write_image(source / f"{number:02}.jpg", height=40 + 8 * (number % 3), width=64, seed=number)
    for split, numbers in (("train", range(12)), ("val", range(12, 20))):
        texts = [f"image {number} is {'light' if number % 2 else 'dark'}" for number in numbers]
        rows = [{"image": f"{n:02}.jpg", "texts": [text]} for n, text in zip(numbers, texts, strict=True)]
        lines(source / f"{split}.jsonl", *rows)
    for name, seed in (("a", 0), ("b", 1)):
        save(folder / "detectors" / name, seed=seed)
        regions = folder / "regions" / name
        detect_folder(source, find_images(source), regions, Detector.load(str(folder / "detectors" / name)))
        prepare("image_text", folder / name, source, options={"regions": str(regions)}, num_threads=2)
    (folder / "regions" / "a" / "detector.json").unlink()
    prepare("image_text", folder / "old", source, options={"regions": str(folder / "regions" / "a")}, num_threads=2)
    return folder


def config_of(data_dir: Path, **changes) -> RunConfig:
    """Two steps of eight images."""
    config = regions_config(data_dir)
    data = dataclasses.replace(
        config.data,
        train=(SourceConfig("image_text", "train"),),
        eval=(SourceConfig("image_text", "val"),),
        batch_images=8,
        texts_per_image=1,
        regions=QUERIES,
    )
    return dataclasses.replace(
        config,
        data=data,
        model=dataclasses.replace(config.model, regions=RegionsConfig(feature_size=32, classes=len(CLASSES))),
        train=TrainConfig(steps=2, log_every=1, compilation_cache=""),
        evaluation=EvaluationConfig(every=2, images=0),
        checkpoint=CheckpointConfig(every=2, keep_last=1),
        **changes,
    )


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory, programs) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "a"
    fine_tune(config_of(prepared / "a"), workdir)
    return workdir


def test_the_run_says_whose_regions_it_was_trained_on(run: Path, prepared: Path, tmp_path: Path) -> None:
    description = find_description(run)[1]
    assert description["detector"] == open_records(prepared / "a", "image_text", "train").index.detector
    assert (description["step"], description["detector"]["name"]) == (2, "a")
    assert description["detector"]["classes"] == list(CLASSES.values())
    shared = tmp_path / "shared"
    with flagsaver.flagsaver((WORKDIR, str(run)), (OUTPUT, str(shared))):
        export_program.main()
    assert find_description(shared)[1]["detector"] == description["detector"]
    assert "- regions of the detector a (" in (shared / "README.md").read_text()


def test_another_detectors_regions_are_refused(run: Path, prepared: Path, tmp_path: Path, monkeypatch) -> None:
    both = r"has regions of the detector a \(\w{12}\), and .* has those of b \(\w{12}\); .* use regions of one detector"
    scores = evaluate(pixelbert_jax.load(run), "val", tmp_path / "a.npz", data_dir=str(prepared / "a"))
    assert scores["images"] == 8
    with pytest.raises(DataError, match=both) as error:
        evaluate(pixelbert_jax.load(run), "val", tmp_path / "b.npz", data_dir=str(prepared / "b"))
    assert "\n" not in str(error.value) and not (tmp_path / "b.npz").exists()
    monkeypatch.setattr("experiments.run.build.make_trainer", lambda *_, **__: pytest.fail("built a model"))
    begins_with_a = config_of(prepared / "b", init=InitConfig(checkpoint=str(run)))
    with pytest.raises(DataError, match=f"init.checkpoint={run} {both}") as error:
        fine_tune(begins_with_a, tmp_path / "fine-tuned")
    assert "\n" not in str(error.value)
    # The same run, whose data was replaced.
    monkeypatch.setattr(
        "experiments.run.stages.open_records", lambda _, name, split: open_records(prepared / "b", name, split)
    )
    with pytest.raises(DataError, match=f"the run in this workdir {both}"):
        fine_tune(config_of(prepared / "a"), run)


def test_a_mixture_of_two_detectors_is_refused(prepared: Path, tmp_path: Path, monkeypatch) -> None:
    def open_either(_, name, split):
        return open_records(prepared / ("a" if split == "train" else "b"), name, split)

    monkeypatch.setattr("experiments.run.stages.open_records", open_either)
    with pytest.raises(DataError, match=r"Records\(12 images .* detector a .*Records\(8 images .* has those of b"):
        fine_tune(config_of(prepared / "a"), tmp_path / "run")


def test_regions_of_an_unknown_detector_are_used_as_before(run: Path, prepared: Path, tmp_path: Path) -> None:
    old = open_records(prepared / "old", "image_text", "train").index
    new = open_records(prepared / "a", "image_text", "train").index
    assert old.detector is None and old.fingerprint == new.fingerprint  # the records are the same
    fine_tune(config_of(prepared / "old"), tmp_path / "old")
    assert "detector" not in find_description(tmp_path / "old")[1]
    scores = [
        evaluate(pixelbert_jax.load(path), "val", tmp_path / f"{i}.npz", data_dir=str(prepared / data))
        for i, (path, data) in enumerate(((run, "old"), (tmp_path / "old", "b")))
    ]
    assert all(score["images"] == 8 for score in scores)
    fine_tune(config_of(prepared / "old", init=InitConfig(checkpoint=str(run))), tmp_path / "more")
    assert find_description(tmp_path / "more")[1]["detector"]["name"] == "a"  # known from the run that it began with


def test_a_model_is_asked_with_its_detector(prepared, run):
    """From images alone: the same as with the regions that the detector wrote; another detector is refused."""
    images = find_images(prepared / "source")[:3]
    files, texts = [prepared / "source" / name for name in images], ["image 1 is light", "image 2 is dark"]
    of_files = pixelbert_jax.Predictor.load(run, regions=prepared / "regions" / "a").match(files, texts)
    by_detector = pixelbert_jax.Predictor.load(run, detector=str(prepared / "detectors" / "a"))
    np.testing.assert_allclose(by_detector.match(files, texts), of_files, atol=1e-4)
    np.testing.assert_allclose(by_detector.match(pixels_of(files[0]), texts), of_files[:1], atol=1e-4)
    assert np.ptp(of_files[:, 0]) > 1e-3
    other = {"regions": prepared / "regions" / "b"}, {"detector": str(prepared / "detectors" / "b")}
    for given in other:
        with pytest.raises(DataError, match=r"has regions of the detector a .*, and this predictor has those of b"):
            pixelbert_jax.Predictor.load(run, **given)
    with pytest.raises(ConfigError, match="exclude each other"):
        pixelbert_jax.Predictor.load(run, regions="regions", detector="a")
