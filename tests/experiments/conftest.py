"""Fixtures of several test files: data, an untrained run and a fine-tuned run, each made once."""

import dataclasses
from pathlib import Path

import pytest

import pixelbert_jax
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import Records, open_records
from experiments.run.config import RunConfig
from pixelbert_jax.loading import LoadedModel
from pixelbert_jax.tasks.vqa import VqaConfig
from tests.experiments.fine_tuning import config_of, fine_tune, prepare_own_data, programs_kept_in, small_config
from tests.saved_run import save_run


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> Path:
    """The folder of the compiled programs that several tests share."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def compiled_once(programs):
    """Keeps compiled programs, for files whose tests compile the same programs."""
    with programs_kept_in(programs):
        yield


@pytest.fixture(scope="session")
def own_data(tmp_path_factory) -> Path:
    """A user's questions and pairs (train, val, test)."""
    return prepare_own_data(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, data_dir, programs) -> Path:
    """A pre-training run of the small model at step 0."""
    with programs_kept_in(programs):
        return save_run(tmp_path_factory.mktemp("small") / "run", data_dir, config=small_config())


@pytest.fixture(scope="session")
def vqa_config(own_data, small_run) -> RunConfig:
    """Questions on a user's data, the best checkpoint kept."""
    config = config_of(VqaConfig(), own_data, small_run, "vqa")
    return dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, best="eval/vqa_loss"))


@pytest.fixture(scope="session")
def vqa_run(tmp_path_factory, vqa_config, programs) -> Path:
    """A run of six steps; not to be changed."""
    workdir = tmp_path_factory.mktemp("vqa") / "run"
    with programs_kept_in(programs):
        fine_tune(vqa_config, workdir)
    return workdir


@pytest.fixture(scope="session")
def pretrained(small_run) -> LoadedModel:
    """The small model of step 0; not to be changed."""
    return pixelbert_jax.load(small_run)


@pytest.fixture(scope="session")
def region_data(tmp_path_factory) -> Path:
    """Drawn scenes with regions: 40 for training, 13 for validation, 12 for testing."""
    folder = tmp_path_factory.mktemp("regions")
    options = {"num_train": 40, "num_validation": 13, "num_test": 12, "regions": "drawn"}
    prepare("shapes", folder, options=options, num_threads=2)
    return folder


@pytest.fixture(scope="session")
def scenes(data_dir) -> Records:
    """Drawn scenes of the validation split."""
    return open_records(data_dir, "shapes", "validation")
