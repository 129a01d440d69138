"""Paths of a kind that is not supported: one sentence of every program that names what works, and no local folder."""

import pytest
from absl.testing import flagsaver

import pixelbert_jax
from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.storage import paths
from experiments import evaluate, export, pretrain
from experiments.run.common_flags import OUTPUT, SPLIT, WORKDIR
from tests.experiments.tiny_config import get_config

KINDS = ("abfs", "memory", "http", "https", "ftp", "gcs", "s3a")


def run_with(main, *flags):
    with flagsaver.flagsaver(*flags):
        main()


USES = {
    "prepare --data_dir": lambda path, run: prepare("shapes", path),
    "prepare --source_dir": lambda path, run: prepare("image_text", run.parent / "data", path),
    "prepare --regions": lambda path, run: prepare("shapes", run.parent / "data", options={"regions": path}),
    "pretrain --workdir": lambda path, run: pretrain.pretrain(get_config(), path),
    "evaluate --workdir": lambda path, run: run_with(
        evaluate.main, (WORKDIR, path), (SPLIT, "test"), (OUTPUT, "scores.npz")
    ),
    "evaluate --output": lambda path, run: run_with(
        evaluate.main, (WORKDIR, str(run)), (SPLIT, "test"), (OUTPUT, path)
    ),
    "load": lambda path, run: pixelbert_jax.Predictor.load(path),
    "export --workdir": lambda path, run: run_with(export.main, (WORKDIR, path), (OUTPUT, str(run.parent / "model"))),
    "export --output": lambda path, run: run_with(export.main, (WORKDIR, str(run)), (OUTPUT, path)),
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """The current folder, which stays empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


@pytest.mark.parametrize("use", USES)
def test_unknown_kinds(use, tmp_path):
    for kind in KINDS:
        sentence = rf"{kind}://host/x: only gs://, s3://, az://, hf:// and paths of a file system are read here; mount"
        with pytest.raises(DataError, match=sentence):
            USES[use](f"{kind}://host/x", tmp_path / "run")


@pytest.mark.parametrize("use", USES)
def test_a_kind_whose_package_is_missing(use, tmp_path, monkeypatch):
    monkeypatch.setitem(paths._PACKAGES, "az", ("adlfs_that_is_missing", "pip install adlfs"))
    with pytest.raises(DataError, match=r"az://c/x needs the package adlfs.*; install it with: pip install adlfs"):
        USES[use]("az://c/x", tmp_path / "run")
