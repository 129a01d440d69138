"""Opening trained models: every bit, from any kind of path, on any devices; damage is refused by name."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import pixelbert_jax
from data_pipelines.text.tokenizer import Tokenizer
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import export, named_arrays
from pixelbert_jax.training.sharding import MeshConfig, make_mesh
from tests.pixelbert_jax.helpers import assert_trees_equal
from tests.saved_run import save_run


def arrays(loaded):
    return {name: np.asarray(array) for name, array in named_arrays(nnx.state(loaded.model)).items()}


@pytest.fixture(scope="module")
def loaded(saved_run):
    return pixelbert_jax.load(saved_run)


@pytest.fixture(scope="module")
def exported(loaded, tmp_path_factory):
    """An exported folder; not to be changed."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(loaded, folder, "# A card\n")
    return folder


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of that folder, to be damaged."""
    return shutil.copytree(exported, tmp_path / "copy")


def test_every_bit_of_the_run_comes_back(saved_run, loaded):
    from orbax.checkpoint import v1 as ocp

    saved = ocp.load_checkpointables(saved_run / "checkpoints" / "0", {"model": None})["model"]
    params, rest = (nnx.as_pure(part) for part in nnx.state(loaded.model, nnx.Param, ...))
    assert_trees_equal(params, saved["params"])
    assert not jax.tree.leaves(rest) and not jax.tree.leaves(saved["rest"])
    assert loaded.tokenizer.vocabulary == tuple(loaded.description["vocabulary"])
    assert loaded.task.model.text.vocabulary_size == len(loaded.tokenizer.vocabulary)
    assert loaded.data.resize.shorter_edge == 48 and loaded.data.max_text_length == 22
    assert "--config=tiny.py" in loaded.description["command"]


def test_opens_a_workdir_its_checkpoints_one_of_them_and_an_export(saved_run, loaded, exported):
    for path in (str(saved_run), saved_run / "checkpoints", saved_run / "checkpoints" / "0", exported):
        other = pixelbert_jax.load(path)
        assert_trees_equal(arrays(other), arrays(loaded))
        assert other.tokenizer.vocabulary == loaded.tokenizer.vocabulary and other.task == loaded.task


def test_the_newest_finished_checkpoint_counts(saved_run, tmp_path):
    copy = shutil.copytree(saved_run, tmp_path / "run")
    for name in ("7", "9.orbax-checkpoint-tmp", "notes"):
        (copy / "checkpoints" / name).mkdir()
    assert pixelbert_jax.load(copy).path.endswith("checkpoints/0")


def test_the_optimizers_arrays_are_not_read(saved_run, loaded, tmp_path):
    copy = shutil.copytree(saved_run, tmp_path / "run")
    shutil.rmtree(copy / "checkpoints" / "0" / "training")
    assert_trees_equal(arrays(pixelbert_jax.load(copy)), arrays(loaded))


def test_a_moving_average_replaces_the_parameters(loaded, data_dir, tmp_path):
    averaged = pixelbert_jax.load(save_run(tmp_path / "run", data_dir, ema=True))
    assert_trees_equal(arrays(averaged), {name: array + 1 for name, array in arrays(loaded).items()})


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_dtypes(exported, loaded, dtype):
    other = pixelbert_jax.load(exported, dtype=dtype)
    assert other.task.model.dtype == dtype
    assert {str(array.dtype) for array in arrays(other).values()} == {dtype}
    scores = []
    for each in (loaded, other):
        pixels, mask = each.model.model.encode_image(np.full((1, 48, 48, 3), 90, np.uint8), jnp.array([[48, 40]]))
        text = np.array([[2, 9, 10, 3]])
        scores.append(each.model.itm_logit(each.model.model.fuse(text, text > 0, pixels, mask)))
    np.testing.assert_allclose(scores[1], scores[0], atol=0 if dtype == "float32" else 0.1)


def test_any_devices(saved_run, loaded):
    mesh = make_mesh(MeshConfig(fsdp=4))
    spread = pixelbert_jax.load(saved_run, mesh=mesh)
    assert_trees_equal(arrays(spread), arrays(loaded))
    assert jax.tree.leaves(nnx.as_pure(nnx.state(spread.model)))[0].devices() == set(jax.devices())
    assert jax.tree.leaves(nnx.as_pure(nnx.state(loaded.model)))[0].devices() == {jax.devices()[0]}


def test_an_export_is_plain_safetensors(exported, loaded):
    assert sorted(path.name for path in exported.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "vocab.txt",
    ]
    tensors = safetensors.numpy.load_file(exported / "model.safetensors")
    assert_trees_equal(tensors, arrays(loaded))
    assert tensors["model.encoder.layers.query_key_value.kernel"].shape == (2, 32, 96)
    config = json.loads((exported / "config.json").read_text())
    assert config["task"] == "pretraining" and config["config"]["model"]["encoder"]["width"] == 32
    assert (exported / "README.md").read_text() == "# A card\n"
    with pytest.raises(ConfigError, match="model exists; remove it"):
        export(loaded, exported, "")


def test_an_export_keeps_the_ids_of_odd_tokens(loaded, tmp_path):
    pieces = list(loaded.tokenizer.vocabulary)
    pieces[7:10] = ["x\u2028y", "", "z\x85\x0b\r"]
    odd = dataclasses.replace(loaded, tokenizer=Tokenizer(tuple(pieces)))
    export(odd, tmp_path / "model", "")
    assert pixelbert_jax.load(tmp_path / "model").tokenizer.vocabulary == tuple(pieces)
    pieces[7] = "x\ny"
    broken = dataclasses.replace(loaded, tokenizer=Tokenizer(tuple(pieces)))
    with pytest.raises(ConfigError, match="a token has a line break"):
        export(broken, tmp_path / "other", "")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_from_the_hub(exported, loaded, monkeypatch):
    import huggingface_hub

    requested = []
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: requested.append(name) or str(exported))
    assert_trees_equal(arrays(pixelbert_jax.load("someone/pixelbert")), arrays(loaded))
    assert requested == ["someone/pixelbert"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def change_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def other_tensors(folder):
    safetensors.numpy.save_file({"a": np.zeros(3)}, folder / "model.safetensors")
    change_config(folder, sha256={})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: flip(f / "model.safetensors"), "copy/model.safetensors: damaged, its SHA-256"),
        (lambda f: flip(f / "vocab.txt"), "copy/vocab.txt: damaged, its SHA-256"),
        (lambda f: (f / "model.safetensors").write_bytes(b"1234"), "copy/model.safetensors: damaged"),
        (lambda f: (f / "config.json").write_text("{"), "copy/config.json: not valid JSON"),
        (lambda f: (f / "vocab.txt").unlink(), "copy: not a model exported by this code, it has no vocab.txt"),
        (lambda f: (f / "config.json").unlink(), "copy: neither a run's folder"),
        (lambda f: change_config(f, layout=1), "copy: checkpoint of layout 1, this code reads 2"),
        (lambda f: change_config(f, task="chess"), "of the task 'chess'; this code knows pretraining"),
        (other_tensors, "tensors do not fit config.json"),
    ],
)
def test_damaged_exports_are_refused(copied, damage, message):
    damage(copied)
    with pytest.raises(ConfigError, match=message) as error:
        pixelbert_jax.load(copied)
    assert "\n" not in str(error.value)


def test_a_damaged_checkpoint_is_refused_by_name(saved_run, tmp_path):
    copy = shutil.copytree(saved_run, tmp_path / "run")
    path = max((copy / "checkpoints/0/model").glob("ocdbt.process_0/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="checkpoints/0: cannot be restored"):
        pixelbert_jax.load(copy)


def test_nothing_there(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for path, message in (
        (tmp_path, "neither a run's folder with a finished checkpoint nor an exported model"),
        (tmp_path / "missing", "missing: no such file or folder"),
        ("nobody/nothing-at-all", "nor a Hugging Face repository that can be fetched"),
    ):
        with pytest.raises(ConfigError, match=message):
            pixelbert_jax.load(path)
    with pytest.raises(ConfigError, match="use 'bfloat16', 'float32' or None"):
        pixelbert_jax.load(tmp_path, dtype="float16")
