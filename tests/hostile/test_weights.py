"""Weights and shared models with wrong headers, and with names outside of their folder."""

import io
import json
import struct
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pixelbert_jax.errors import ConfigError
from pixelbert_jax.weights.files import read_tensors
from tests.hostile.checking import Case
from tests.hostile.guards import check_message, guarded
from tests.hostile.readers import READERS

LITTLE = 256 << 20


def refused(path: Path, match: str) -> None:
    with guarded(memory=LITTLE), pytest.raises(ConfigError, match=match) as error:
        read_tensors(path)
    check_message(error.value, (str(path),))


def tensor(start: int, end: int, shape: tuple[int, ...] = (2,), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 1 << 40, 10**9, 0, 1])
def test_length_of_a_safetensors_header(tmp_path: Path, length: int) -> None:
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", length) + b"{}      " + bytes(64))
    refused(tmp_path / "a.safetensors", "broken or cut off")


@pytest.mark.parametrize(
    "header",
    [
        {"a": tensor(0, 8), "b": tensor(4, 12)},
        {"a": tensor(0, 8), "b": tensor(0, 8)},
        {"a": tensor(-8, 0)},
        {"a": tensor(8, 0)},
        {"a": tensor(0, 1 << 62, (1 << 60,))},
        {"a": tensor(0, 8, (1 << 62, 4))},
        {"a": tensor(0, 8, (-2,))},
        {"a": tensor(0, 8, (3,))},
        {"a": tensor(8, 16)},
        {"a": tensor(0, 8, dtype="P9")},
        {"a": {"dtype": "F32"}},
        ["a"],
    ],
)
def test_offsets_and_shapes_of_a_safetensors_header(tmp_path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    refused(tmp_path / "a.safetensors", "broken or cut off")


def saved(path: Path, tensors: object) -> Path:
    torch = pytest.importorskip("torch")
    torch.save(tensors, path)
    return path


def test_torch_tensors_that_grow(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    refused(saved(tmp_path / "a.bin", {"w": torch.zeros(1).expand(1 << 40)}), "larger than the file")
    refused(saved(tmp_path / "b.bin", {"w": torch.zeros(4, 4).to_sparse()}), "sparse|more than tensors|odd kind")
    refused(saved(tmp_path / "c.bin", {"w": torch.zeros(4, device="meta")}), "odd kind|more than tensors|larger")


def test_an_error_of_torch_in_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_, **__):
        raise ValueError("there are two options, \x1b[1mdo those\x1b[0m\x07 only\nor not")

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    (tmp_path / "a.bin").write_bytes(b"x")
    refused(tmp_path / "a.bin", r"\(there are two options, do those only\)")


def test_a_compressed_torch_archive(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = saved(tmp_path / "a.bin", {"w": torch.zeros(1 << 20)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as small:
        for part in whole.namelist():
            small.writestr(part, whole.read(part))
    path.write_bytes(buffer.getvalue())
    refused(path, "its parts are compressed")


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\0b"])
def test_an_index_of_weights_names_files_of_its_folder_only(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    READERS["safetensors"].write(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "secret.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": name}}))
    with guarded(), pytest.raises(ConfigError) as error:
        read_tensors(folder)
    check_message(error.value, (str(index),))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "README.md", "a\0b"])
def test_digests_of_a_shared_model_are_of_its_own_files(tmp_path: Path, name: str) -> None:
    from pixelbert_jax.loading import find_description

    (tmp_path / "secret").write_text("x")
    READERS["exported"].write(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "sha256": {name: "0"}}))
    with guarded(), pytest.raises(ConfigError, match="sha256 is of other files") as error:
        find_description(tmp_path)
    check_message(error.value, (str(tmp_path / "config.json"),))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("backbone", "depths"), [100_000]),
        (("backbone", "depths"), [1] * 1000),
        (("backbone", "stem_width"), 10**11),
        (("backbone", "norm_groups"), 0),
        (("encoder", "layers"), 10**11),
        (("encoder", "heads"), 0),
        (("encoder", "width"), -2),
        (("text", "vocabulary_size"), 10**11),
        (("text", "vocabulary_size"), 0),
        (("encoder", "dropout"), 10**400),
    ],
)
def test_a_shared_model_of_impossible_size_is_not_built(tmp_path: Path, keys: tuple[str, str], value: object) -> None:
    case = Case(READERS["exported"], tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["config"]["model"][keys[0]][keys[1]] = value
    assert case.outcome({tmp_path / "config.json": json.dumps(content).encode()})


def checkpoint(tmp_path: Path) -> tuple[Case, Path, dict]:
    case = Case(READERS["checkpoint"], tmp_path)
    path = tmp_path / "checkpoints" / "0" / "_CHECKPOINT_METADATA"
    return case, path, json.loads(path.read_text())


@pytest.mark.parametrize("item", ["../../secret", "/etc", "..", "model/../../x"])
def test_items_of_a_checkpoint_that_leave_its_folder(tmp_path: Path, item: str) -> None:
    from pixelbert_jax.training.checkpoint import seal

    case, path, metadata = checkpoint(tmp_path)
    kept = {key: value for key, value in metadata["custom_metadata"].items() if key != "digest"}
    kept["checksums"] = {item: kept["checksums"]["model"]}
    metadata["custom_metadata"] = seal(kept)
    metadata["item_handlers"] = {item: next(iter((metadata.get("item_handlers") or {"": ""}).values()))}
    assert "it holds" in case.outcome({path: json.dumps(metadata).encode()})


def test_a_checkpoint_without_checksums(tmp_path: Path) -> None:
    from pixelbert_jax.training.checkpoint import seal

    for sums in (None, [], "model", {"model": 3}):
        case, path, metadata = checkpoint(tmp_path / str(sums))
        kept = {key: value for key, value in metadata["custom_metadata"].items() if key != "digest"}
        metadata["custom_metadata"] = seal({**kept, "checksums": sums})
        assert "no checksums" in case.outcome({path: json.dumps(metadata).encode()})


def test_arrays_are_compared_with_what_was_saved(tmp_path: Path) -> None:
    """The input of the other tests is readable without damage, so that they prove something."""
    case, _, _ = checkpoint(tmp_path)
    items = case.reader.read(tmp_path)
    np.testing.assert_array_equal(items["model"]["params"]["a"], np.ones((2, 3)))
