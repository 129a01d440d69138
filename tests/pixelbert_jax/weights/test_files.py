"""Weight files: which are read, in which form their tensors come out, and what broken ones say."""

import argparse
import json
import os
import sys
from pathlib import Path

import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from pixelbert_jax.errors import ConfigError
from pixelbert_jax.weights.files import HUB_FILES, beside, check_config, find, read_config, read_published, read_tensors

ONE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
OTHER = {"b": np.arange(4, dtype=np.int64)}


def write(folder, tensors, name="model.safetensors"):
    save_file(tensors, folder / name)
    return folder / name


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array)
        assert actual[name].dtype == array.dtype


def test_file_and_folder(tmp_path):
    file = write(tmp_path, ONE | OTHER)
    assert_same(read_tensors(file), ONE | OTHER)
    assert_same(read_tensors(tmp_path), ONE | OTHER)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
    values = np.array([1.5, -0.375, 3e-3, 200.0], dtype)
    file = write(tmp_path, {"a": values, "whole": np.array([True, False]), "number": np.array(7, np.int32)})
    read = read_tensors(file)
    assert_same(
        read, {"a": values.astype(np.float32), "whole": np.array([True, False]), "number": np.array(7, np.int32)}
    )


def test_shards(tmp_path):
    write(tmp_path, ONE, "model-1.safetensors")
    write(tmp_path, OTHER, "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(json.dumps(index))
    assert_same(read_tensors(tmp_path), ONE | OTHER)
    assert_same(read_tensors(file), ONE | OTHER)
    index["weight_map"]["c"] = "model-2.safetensors"
    file.write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"1 tensors of its index are in no file \(c"):
        read_tensors(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model-2\.safetensors"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {"a": "../a.safetensors"}}'])
def test_broken_index(tmp_path, content):
    write(tmp_path, ONE, "a.safetensors")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ConfigError, match=r"model\.safetensors\.index\.json: .*download it again"):
        read_tensors(tmp_path / "inner")


@pytest.mark.parametrize("keep", [0, 4, 40, -1, -20])
def test_cut_off_safetensors(tmp_path, keep):
    file = tmp_path / "model.safetensors"
    file.write_bytes(save(ONE)[:keep])
    with pytest.raises(ConfigError, match=r"model\.safetensors: broken or cut off"):
        read_tensors(tmp_path)


def test_unknown_type(tmp_path):
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(ConfigError, match="F8_E4M3"):
        read_tensors(file)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "net.pth", "net.pt", "net.ckpt"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict", "net"])
def test_torch_files(tmp_path, name, wrapper):
    torch = pytest.importorskip("torch")
    tensors = {"a": torch.arange(3.0), "n": torch.tensor(2), "h": torch.ones(2, dtype=torch.bfloat16)}
    tensors["p"] = torch.nn.Parameter(torch.zeros(1))
    torch.save({wrapper: tensors, "epoch": 3} if wrapper else tensors, tmp_path / name)
    read = read_tensors(tmp_path / name)
    expected = {"a": np.arange(3, dtype=np.float32), "n": np.array(2), "h": np.ones(2, np.float32)}
    assert_same(read, expected | {"p": np.zeros(1, np.float32)})


def test_wrappers_in_wrappers(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {"a": torch.zeros(1)}
    torch.save({"model": {"state_dict": tensors}, "state_dict": {}}, tmp_path / "net.pth")
    assert_same(read_tensors(tmp_path / "net.pth"), {"a": np.zeros(1, np.float32)})
    torch.save({"model": tensors, "state_dict": tensors}, tmp_path / "net.pth")
    with pytest.raises(ConfigError, match=r"net\.pth: it holds both 'state_dict' and 'model'; save one"):
        read_tensors(tmp_path / "net.pth")
    endless = {"epoch": 1}
    endless["model"] = endless
    torch.save(endless, tmp_path / "net.pth")
    with pytest.raises(ConfigError, match="no state dict"):
        read_tensors(tmp_path / "net.pth")


def test_safetensors_are_preferred(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(2, 3)}, tmp_path / "pytorch_model.bin")
    assert_same(read_tensors(tmp_path), {"a": np.zeros((2, 3), np.float32)})
    write(tmp_path, ONE)
    assert_same(read_tensors(tmp_path), ONE)


def test_prefix_of_data_parallel(tmp_path):
    file = write(tmp_path, {f"module.{name}": array for name, array in (ONE | OTHER).items()})
    assert_same(read_tensors(file), ONE | OTHER)
    write(tmp_path, {"module.a": ONE["a"]} | OTHER)
    assert read_tensors(file).keys() == {"module.a", "b"}


@pytest.mark.parametrize(
    "name",
    ["_orig_mod.{}", "module._orig_mod.{}", "_orig_mod.module.{}", "module._fsdp_wrapped_module._orig_mod.{}"],
)
def test_prefixes_of_torchs_wrappers(tmp_path, name):
    file = write(tmp_path, {name.format(key): array for key, array in (ONE | OTHER).items()})
    assert_same(read_tensors(file), ONE | OTHER)


def test_wrapped_parts_within_a_name(tmp_path):
    file = write(tmp_path, {"x._orig_mod.a": ONE["a"], "my_orig_mod.b": OTHER["b"]})
    assert_same(read_tensors(file), {"x.a": ONE["a"], "my_orig_mod.b": OTHER["b"]})
    write(tmp_path, {"x._orig_mod.a": ONE["a"], "x.a": ONE["a"]})
    with pytest.raises(ConfigError, match=r"the same tensors twice, with and without _orig_mod"):
        read_tensors(file)


def test_a_prefix_that_all_names_share(tmp_path):
    tensors = {"conv.weight": ONE["a"], "conv.bias": OTHER["b"]}
    for prefix in ("", "model.", "model.net.", "_orig_mod.model."):
        file = write(tmp_path, {prefix + name: array for name, array in tensors.items()})
        assert_same(read_published(file, ("conv.weight",)), tensors)
    write(tmp_path, {f"model.{name}": array for name, array in tensors.items()} | {"loss.weight": ONE["a"]})
    assert read_published(file, ("conv.weight",)).keys() == {"model.conv.weight", "model.conv.bias", "loss.weight"}
    write(tmp_path, {"a.b.c": ONE["a"]})
    assert_same(read_published(file, ("conv.weight",)), {"a.b.c": ONE["a"]})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x.weight", np.nan, r"x\.weight holds NaN or infinity"),
        ("x.weight", np.inf, r"x\.weight holds NaN or infinity"),
        ("x.weight", -np.inf, r"x\.weight holds NaN or infinity"),
        ("bn1.running_var", -0.1, r"bn1\.running_var holds a negative variance"),
        ("norm.variance", -0.1, r"norm\.variance holds a negative variance"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16, np.float64])
def test_numbers_that_are_none(tmp_path, name, value, message, dtype):
    good = {"x.bias": np.zeros(2, np.float32), "bn1.running_mean": np.full(2, -1, np.float32)}
    file = write(tmp_path, good | {name: np.array([1, value], dtype)})
    with pytest.raises(ConfigError, match=rf"model\.safetensors: {message}; download it again") as error:
        read_tensors(file)
    assert "\n" not in str(error.value)
    assert len(read_tensors(write(tmp_path, good))) == 2


def test_torch_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        ConfigError, match=r"pytorch_model\.bin: .*convert it to safetensors elsewhere, or install torch"
    ):
        read_tensors(tmp_path)


class Evil:
    """Would make a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_no_code_is_run(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(1), "b": Evil(tmp_path / "made")}, tmp_path / "net.pth")
    with pytest.raises(ConfigError, match=r"net\.pth: broken, or more than tensors"):
        read_tensors(tmp_path / "net.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"no weights at all"])
def test_broken_torch_file(tmp_path, content):
    pytest.importorskip("torch")
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(ConfigError, match=r"net\.pth: broken"):
        read_tensors(tmp_path / "net.pth")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1], {"state_dict": {}}])
def test_torch_file_without_tensors(tmp_path, content):
    torch = pytest.importorskip("torch")
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ConfigError, match="no state dict"):
        read_tensors(tmp_path / "net.pth")


def test_two_state_dicts_or_other_objects_beside_them(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {"a": torch.zeros(1)}
    torch.save({"generator": tensors, "discriminator": tensors}, tmp_path / "net.pth")
    with pytest.raises(ConfigError, match="no state dict"):
        read_tensors(tmp_path / "net.pth")
    torch.save({"model": tensors, "args": argparse.Namespace(lr=1)}, tmp_path / "net.pth")
    with pytest.raises(ConfigError, match=r"more than tensors \(it holds argparse\.Namespace\); download"):
        read_tensors(tmp_path / "net.pth")


def test_no_weights(tmp_path):
    with pytest.raises(ConfigError, match=r"a folder without weights.*model\.safetensors"):
        read_tensors(tmp_path)
    (tmp_path / "weights.h5").touch()
    with pytest.raises(ConfigError, match=r"weights\.h5: not a file of weights"):
        read_tensors(tmp_path / "weights.h5")


def test_find(tmp_path, monkeypatch):
    assert find(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.pth").touch()
    assert find("~/x.pth") == tmp_path / "x.pth"
    requested = []
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)

    def download(name, allow_patterns):
        requested.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find("google-bert/bert-base-uncased") == tmp_path
    assert find("bert", ("vocab.txt",)) == tmp_path
    assert requested == [("google-bert/bert-base-uncased", list(HUB_FILES)), ("bert", ["vocab.txt"])]
    for name in ("/nowhere/model", "a/b/c", "resnet50.pth", "./model", "weights/net.safetensors"):
        with pytest.raises(ConfigError, match="no such file or folder"):
            find(name)
    assert len(requested) == 2


def test_hub_fails(monkeypatch):
    def fail(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("No connection.\nMore lines.")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ConfigError, match=r"google/nothing is neither .* \(No connection\.\)"):
        find("google/nothing")


def test_config_json(tmp_path):
    file = write(tmp_path, ONE)
    assert read_config(tmp_path) == {}
    (tmp_path / "config.json").write_text('{"depths": [1]}')
    assert read_config(tmp_path) == read_config(file) == {"depths": [1]}
    assert read_config(tmp_path / "another.safetensors") == {}  # a stranger beside it
    assert beside(tmp_path) == beside(file) == tmp_path and beside(tmp_path / "another.safetensors") is None
    (tmp_path / "config.json").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"config\.json: not JSON"):
        read_config(tmp_path)


def test_differing_config():
    check_config({"size": 3, "unknown": 1}, {"size": (3, "model.size"), "absent": (1, "")}, "x")
    with pytest.raises(ConfigError, match=r"x: .*size=4 \(here model\.size=3\), kind='b' \(here always 'a'\)"):
        check_config({"size": 4, "kind": "b"}, {"size": (3, "model.size"), "kind": ("a", "")}, "x")


def test_reading_needs_no_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_same(read_tensors(Path(write(tmp_path, ONE))), ONE)
