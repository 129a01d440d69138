"""Two packages that do not import each other have the same hub.py; tests/data_pipelines/test_hub.py tests it."""

import inspect

import data_pipelines.hub
import pixelbert_jax.weights.hub


def test_both_packages_have_the_same_file():
    assert inspect.getsource(pixelbert_jax.weights.hub) == inspect.getsource(data_pipelines.hub)
