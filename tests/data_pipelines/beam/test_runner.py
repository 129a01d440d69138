"""Common parts of the programs on Apache Beam: errors and signals of workers leave a pipeline unchanged."""

from typing import NoReturn

import pytest

pytest.importorskip("apache_beam", reason="needs Apache Beam, the extra `beam`")

import apache_beam as beam

from data_pipelines.beam.runner import is_direct, pipeline_options, run_pipeline
from data_pipelines.errors import DataError


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (DataError("a.jpg is bad; remove it."), DataError, "^a.jpg is bad; remove it.$"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
        (ZeroDivisionError("a fault of ours"), Exception, "a fault of ours"),
    ],
)
def test_errors_of_workers(error: BaseException, expected: type[BaseException], message: str) -> None:
    def fail(_: int) -> NoReturn:
        raise error

    options = pipeline_options("direct", [], "runner", "docs/data.md")
    with pytest.raises(expected, match=message) as raised:
        run_pipeline(lambda pipeline: pipeline | beam.Create([1]) | beam.Map(fail), options)
    assert isinstance(raised.value, DataError) == (expected is DataError)


def test_names_of_the_direct_runner() -> None:
    assert is_direct("direct") and is_direct("DirectRunner") and not is_direct("FlinkRunner")
