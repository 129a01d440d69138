"""The registry of data sets, and their flags of `prepare`."""

import subprocess
import sys

import pytest

from data_pipelines import datasets
from data_pipelines.datasets.builder import ImageTextBuilder
from data_pipelines.errors import DataError


@pytest.mark.parametrize("name", datasets.names())
def test_every_name_has_a_builder_of_that_name(name: str) -> None:
    builder = datasets.builder_class(name)
    assert issubclass(builder, ImageTextBuilder)
    assert builder.name == name
    assert set(builder.PATH_OPTIONS) <= set(builder.OPTIONS)


@pytest.mark.parametrize(
    ("name", "near"), [("shape", "shapes"), ("coco", "coco_captions"), ("flicker30k", "flickr30k")]
)
def test_unknown_name(name: str, near: str) -> None:
    with pytest.raises(DataError, match=rf"called '{name}'; did you mean {near}\? There are coco_ca"):
        datasets.builder_class(name)


def test_options_and_flags_agree_in_names_and_defaults() -> None:
    code = (
        "from data_pipelines import datasets, prepare\n"
        "flags = {name: flag.default for name, flag in prepare._OPTIONS.items()}\n"
        "options = {}\n"
        "for name in datasets.names(): options.update(datasets.builder_class(name).OPTIONS)\n"
        "print(flags == options, sorted(flags))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("True ['columns', 'first_row', "), done
