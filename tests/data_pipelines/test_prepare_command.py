"""`python -m data_pipelines.prepare` as users run it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data_pipelines.publishers import coco


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "data_pipelines.prepare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_prepare_and_prepare_again(tmp_path: Path) -> None:
    source = coco(tmp_path / "coco")
    command = ("coco_captions", f"--source_dir={source}", f"--data_dir={tmp_path / 'data'}")
    first = run(*command, "--shorter_edge=64", "--longer_edge=128")
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert lines[0] == f"coco_captions 1.0.0 in {tmp_path / 'data/coco_captions/1.0.0'}"
    assert lines[1] == "official splits"
    assert lines[3].split()[:3] == ["train", "3", "6"]
    assert lines[4].split()[:3] == ["validation", "2", "4"]
    assert lines[5].startswith("canvases (height x width) for shorter edge 64, longer at most 128: ")
    assert "train: 3 of 3 images" in first.stderr
    second = run(*command, "--shorter_edge=64", "--longer_edge=128")
    assert second.returncode == 0
    assert second.stdout == first.stdout
    assert second.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give the name of one data set, not 0: coco_captions, visual_genome, flickr30k"),
        (("shapes", "coco_captions"), "Give the name of one data set, not 2"),
        (("shapes",), "Give --data_dir, the folder for prepared data sets."),
        (("shape", "--data_dir=data"), "did you mean shapes?"),
        (("shapes", "--data_dir=data", "--shorter_edge=0"), "ResizeRule: shorter_edge=0"),
        (("shapes", "--data_dir=data", "--year=2014"), "shapes does not take --year"),
        (("flickr8k", "--data_dir=data", "--source_dir=."), "No split file of Karpathy in ."),
    ],
)
def test_errors_are_one_line(arguments: tuple, message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
