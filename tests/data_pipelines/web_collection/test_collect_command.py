"""`python -m data_pipelines.collect` as users run it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.errors import DataError
from data_pipelines.web_collection.settings import Settings
from tests.data_pipelines.web_collection.crawl import image_bytes, shard


def run(*arguments: object, path: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "data_pipelines.collect", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else None
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_without_beam(tmp_path: Path) -> None:
    (tmp_path / "apache_beam.py").write_text("raise ModuleNotFoundError('none', name='apache_beam')\n")
    done = run("--source=crawl", "--output=out", path=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: Collecting needs Apache Beam; run `pip install 'pixelbert_jax[beam]'`.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give --source: "),
        (("--source=a",), "Give --output: "),
        (("--source=a", "--output=b", "stray"), "Unknown argument 'stray'; Beam's options follow `--`"),
        (("--source=a", "--output=b", "--min_score=0.3"), "--min_score needs a model that gives scores"),
        (("--source=a", "--output=b", "--min_side=0"), "--min_side=0 is not at least 1; change it."),
        (("--source=a", "--output=b", "--words=none.txt"), "--words=none.txt cannot be read"),
    ],
)
def test_errors_are_one_line(arguments: tuple, message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_words": 2}, "--max_words=2 is not at least 3"),
        ({"min_letters": 1.5}, "--min_letters=1.5 is not between 0 and 1"),
        ({"min_score": float("nan")}, "--min_score=nan is not between 0 and 1"),
        ({"max_distance": 11}, "--max_distance=11 is not between -1 and 10"),
        ({"images_per_shard": 0}, "--images_per_shard=0 is not at least 1"),
        ({"unknown_language": "maybe"}, "--unknown_language=maybe is neither keep nor drop"),
        ({"split": "../x"}, "--split=../x cannot be the name of a split"),
        ({"split": "all"}, "--split=all cannot be the name of a split"),
    ],
)
def test_settings_that_mean_nothing(fields: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Settings(**fields)


def test_a_run(tmp_path: Path) -> None:
    pytest.importorskip("apache_beam", reason="needs Apache Beam, the extra `beam`")
    samples = [(image_bytes(i), {"alt": f"a good text {i}", "language": "de-AT"}) for i in range(3)]
    shard(tmp_path / "crawl" / "0.tar", *samples, (image_bytes(9), {"alt": "a good text", "language": "en"}))
    flags = ("--min_side=32", "--language=de,FR", "--split=web", "--images_per_shard=2", "--min_words=4")
    done = run(f"--source={tmp_path / 'crawl'}", f"--output={tmp_path / 'out'}", *flags, "--", "--direct_num_workers=1")
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if not line.startswith("images ")]
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["stage", "images", "dropped"]
    assert lines[3].split()[:4] == ["language", "4", "1", "3"]
    assert lines[-2] == "text: the longest of each image; no model looked at the images"
    assert lines[-1] == (
        f"3 of 4 images with a text each are in {tmp_path / 'out'}; next: python -m data_pipelines.prepare image_text "
        f"--source_dir={tmp_path / 'out'} --data_dir=FOLDER"
    )
    assert sorted(path.name for path in (tmp_path / "out" / "web").iterdir()) == [
        "web-00000-of-00002.tar",
        "web-00001-of-00002.tar",
    ]


def test_jax_is_not_imported_before_a_model_is_loaded() -> None:
    modules = "data_pipelines.web_collection.run, data_pipelines.web_collection.scoring"
    code = f"import sys, {modules}; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "False\n", done.stderr
