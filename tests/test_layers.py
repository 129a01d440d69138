"""Which package may import which (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOR_NOTEBOOKS = {f"pixelbert_jax/{name}.py" for name in ("loading", "predictor", "predictor_inputs", "image_index")}
SCORES_BY_A_MODEL = "data_pipelines/web_collection/scoring.py"
FORBIDDEN = {
    "pixelbert_jax": {"experiments", "data_pipelines", "torch", "tensorflow"},
    "data_pipelines": {"experiments", "pixelbert_jax", "jax", "flax", "torch", "tensorflow"},
    "experiments": {"torch", "tensorflow", "tests", "benchmarks"},
}


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports, at its head or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_direction_of_imports(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        name = str(file.relative_to(ROOT))
        allowed = {"data_pipelines"} if name in FOR_NOTEBOOKS else set()
        allowed |= {"pixelbert_jax"} if name == SCORES_BY_A_MODEL else set()
        allowed |= {"torch"} if name == "pixelbert_jax/weights/files.py" else set()  # reads .bin where torch is there
        assert not imported(file) & FORBIDDEN[package] - allowed, name
