"""Which package may import which (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOR_NOTEBOOKS = {
    f"pixelbert_jax/{name}.py"
    for name in ("loading", "predictor", "predictor_inputs", "visual_readers", "image_with_regions", "image_index")
}
USE_TORCH_WHERE_IT_IS_INSTALLED = {"pixelbert_jax/weights/files.py", "data_pipelines/regions/detector.py"}
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
        allowed |= {"torch"} if name in USE_TORCH_WHERE_IT_IS_INSTALLED else set()
        assert not imported(file) & FORBIDDEN[package] - allowed, name


def modules() -> dict[str, Path]:
    """All modules of the project by their names."""
    files = [file for package in (*FORBIDDEN, "benchmarks") for file in sorted((ROOT / package).rglob("*.py"))]
    names = [file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for file in files]
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def imported_at_its_head(file: Path, known: set[str]) -> set[str]:
    """Modules of the project that a file imports when it is imported itself, and for its annotations."""
    found = set()
    body = list(ast.parse(file.read_text()).body)
    while body:
        node = body.pop()
        if isinstance(node, ast.If):
            body += node.body
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner | ({node.module} if inner - known else set())
    return found & known


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some modules that import each other in a circle, if there are."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for other in sorted(graph[module]):
                if found := visit(other, [*path, module]):
                    return found
            done.add(module)
        return []

    return next((found for module in graph if (found := visit(module, []))), [])


def test_no_modules_import_each_other():
    known = modules()
    graph = {name: imported_at_its_head(file, set(known)) - {name} for name, file in known.items()}
    assert sum(map(len, graph.values())) > 500
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle(graph) == []


def test_the_top_floor_of_experiments_has_programs_alone():
    for file in (ROOT / "experiments").glob("*.py"):
        assert file.name == "__init__.py" or '__name__ == "__main__"' in file.read_text(), file.name
