"""No file can run code: the sources do not unpickle, and traps replace all files that a user may have downloaded."""

import ast
import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import DataError
from pixelbert_jax.errors import ConfigError
from tests.hostile.checking import Case
from tests.hostile.guards import check_message, guarded
from tests.hostile.readers import READERS

ROOT = Path(__file__).parents[2]
_FOLDERS = ("data_pipelines", "pixelbert_jax", "experiments", "benchmarks", "notebooks")
_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "jsonpickle"}
# Files between the processes of one run, in a folder that only this run writes, are trusted.
_OWN_PICKLES = {"data_pipelines/beam/exchange.py"}
_CALLS = {"eval", "exec", "compile", "__import__"}
_NUMPY = {"load", "read_array", "fromregex", "genfromtxt"}  # the first two unpickle with an option


def sources() -> Iterator[tuple[str, ast.AST]]:
    """Name and syntax tree of every source file of the project, and of every cell of its notebooks."""
    for folder in _FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / folder).rglob("*.ipynb")):
            for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
                if cell["cell_type"] == "code":
                    lines = [
                        line for line in "".join(cell["source"]).split("\n") if line.lstrip()[:1] not in ("%", "!")
                    ]
                    yield f"{path.relative_to(ROOT)}, cell {number}", ast.parse("\n".join(lines))
    yield "setup.py", ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))


def dangers(tree: ast.AST) -> list[str]:
    """Calls in a syntax tree that could run code from a file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = names if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"line {node.lineno}: {name}" for name in modules if name.partition(".")[0] in _MODULES]
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        if called in _CALLS:
            found.append(f"line {node.lineno}: {called}")
        if isinstance(node.func, ast.Attribute):
            owner, name = ast.unparse(node.func.value), node.func.attr
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if owner == "torch" and name == "load" and given.get("weights_only") != "True":
                found.append(f"line {node.lineno}: torch.load without weights_only=True")
            of_numpy = owner in ("np", "numpy") or owner.startswith(("np.lib", "numpy.lib"))
            if of_numpy and name in _NUMPY and given.get("allow_pickle") != "False":
                found.append(f"line {node.lineno}: {owner}.{name} without allow_pickle=False")
            if name == "from_pretrained" and given.get("trust_remote_code") not in (None, "False"):
                found.append(f"line {node.lineno}: trust_remote_code")
    return found


def test_no_code_unpickles_or_evaluates() -> None:
    bad = {name: found for name, tree in sources() if name not in _OWN_PICKLES and (found := dangers(tree))}
    assert bad == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import yaml",
        "def f():\n    import dill as d",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "numpy.load(f, allow_pickle=True)",
        "np.lib.format.read_array(f)",
        "eval(x)",
        "exec(x)",
        "AutoTokenizer.from_pretrained(n, trust_remote_code=True)",
    ],
)
def test_the_search_finds_each_danger(code: str) -> None:
    assert dangers(ast.parse(code))


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.mark,)


def traps(mark: Path) -> dict[str, bytes]:
    """The same trap in each common format of arrays and weights."""
    torch = pytest.importorskip("torch")
    lone, several, weights, old = (io.BytesIO() for _ in range(4))
    array = np.array([Trap(mark), Trap(mark)], object)
    np.save(lone, array, allow_pickle=True)
    np.savez(several, features=array, boxes=array, heights=array, widths=array, num_texts=array)
    torch.save({"a": Trap(mark)}, weights)
    torch.save({"a": Trap(mark)}, old, _use_new_zipfile_serialization=False)
    mixed = io.BytesIO(several.getvalue())
    with zipfile.ZipFile(mixed, "a") as archive:
        archive.writestr("data.pkl", pickle.dumps(Trap(mark)))
    return {
        "pickle": pickle.dumps(Trap(mark)),
        "oldest pickle": pickle.dumps(Trap(mark), 0),
        "npy": lone.getvalue(),
        "npz": several.getvalue(),
        "npz with a pickle": mixed.getvalue(),
        "torch": weights.getvalue(),
        "old torch": old.getvalue(),
    }


def test_the_traps_go_off(tmp_path: Path) -> None:
    """Otherwise the next test proves nothing."""
    torch = pytest.importorskip("torch")
    loads = {
        "npy": lambda file: np.load(file, allow_pickle=True),
        "npz": lambda file: np.load(file, allow_pickle=True)["features"],
        "npz with a pickle": lambda file: np.load(file, allow_pickle=True)["features"],
        "torch": lambda file: torch.load(file, weights_only=False),
        "old torch": lambda file: torch.load(file, weights_only=False),
    }
    for name, content in traps(tmp_path / "mark").items():
        with pytest.raises((FileExistsError, AssertionError)), guarded(tmp_path):
            (tmp_path / "mark").mkdir()
            loads.get(name, lambda file: pickle.load(file))(io.BytesIO(content))
        (tmp_path / "mark").rmdir()


# Lists of words, as old pickles are text; metrics, whose last line may be cut off; one row or image of many.
_MAY_PASS = ("answers_text", "known_words", "metrics", "regions_", "img2dataset", "wordnet")


@pytest.mark.parametrize("name", READERS)
def test_traps_in_place_of_every_file(name: str, tmp_path: Path) -> None:
    case, mark = Case(READERS[name], tmp_path / "files"), tmp_path / "mark"
    for content in traps(mark).values():
        outcomes = [case.outcome({path: content}) for path in case.files]
        assert not mark.exists()
        assert any(outcomes) or name.startswith(_MAY_PASS)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".safetensors"])
def test_traps_as_weights(suffix: str, tmp_path: Path) -> None:
    from pixelbert_jax.weights.files import read_tensors

    for number, (name, content) in enumerate(traps(tmp_path / "mark").items()):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        with guarded(), pytest.raises(ConfigError) as error:
            read_tensors(path)
        check_message(error.value, (str(path),))
        assert not (tmp_path / "mark").exists(), name


def test_a_trap_as_kept_scores(tmp_path: Path) -> None:
    from experiments.evaluation.retrieval import read_part

    for content in (*traps(tmp_path / "mark").values(), b"", b"\x93NUMPY"):
        path = tmp_path / "0.npy"
        path.write_bytes(content)
        with guarded():
            assert read_part(path, (2, 3)) is None
    np.save(tmp_path / "0.npy", np.ones((2, 3), np.float32))
    assert read_part(tmp_path / "0.npy", (2, 3)).shape == (2, 3)
    assert read_part(tmp_path / "0.npy", (3, 2)) is None


def test_code_beside_a_tokenizer_is_not_run(tmp_path: Path, monkeypatch) -> None:
    from data_pipelines.text.tokenizer import read_vocabulary

    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked the user"))
    READERS["tokenizer_folder"].write(tmp_path)
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'mark')!r})\nclass Words: pass\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Words", "auto_map": {"AutoTokenizer": ["evil.Words", "evil.Words"]}})
    )
    with guarded(tmp_path), pytest.raises(DataError):
        read_vocabulary(str(tmp_path))
    assert not (tmp_path / "mark").exists()
