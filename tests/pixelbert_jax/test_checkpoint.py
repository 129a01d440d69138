"""Checkpoints: exact, independent of the mesh, self-describing, refused when damaged."""

import importlib.metadata
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from pixelbert_jax.config import ResNetConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.training.checkpoint import Checkpoints, describe
from pixelbert_jax.training.checksums import checksums
from pixelbert_jax.training.optimizer import OptimizerConfig, make_optimizer, parameter_count
from pixelbert_jax.training.sharding import MeshConfig, make_mesh, state_shardings
from pixelbert_jax.training.step import TrainState
from tests.pixelbert_jax.helpers import assert_trees_equal, named

pytestmark = [  # Orbax leaves these behind when it fails
    pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning"),
]

CONFIG = {"model": {"depths": [3, 4], "norm": "batch"}, "rate": 1e-4, "path": None, "on": True}
VOCABULARY = ("[PAD]", "[UNK]", "naïve", "##ün", '"', "\\", "人")


def params(rng):
    def array(*shape):
        return jnp.array(rng.normal(0, 1, shape), jnp.float32)

    backbone = {"stem": {"kernel": array(3, 8)}, "stages": {"0": {"kernel": array(8, 32)}}}
    return {"model": {"backbone": backbone, "encoder": {"kernel": array(2, 16, 8), "bias": array(8)}}}


@pytest.fixture(scope="module")
def state():
    """A state like a trainer's in the middle of a run: both kinds of moments, no arrays alike."""
    rng = np.random.default_rng(0)
    optimizer = make_optimizer(OptimizerConfig(), ResNetConfig(frozen_parts=1), lambda step: 1.0)
    values, gradients = params(rng), params(rng)
    _, opt_state = optimizer.update(gradients, optimizer.init(values), values)
    rest = {"mean": jnp.array(rng.normal(size=8), jnp.float32)}
    return TrainState(jnp.int32(3), values, rest, opt_state, params(rng), jnp.int32(2), jnp.int32(1))


def on_mesh(state, data, fsdp):
    """The state on a mesh, and its description for `restore`."""
    config = MeshConfig(data=data, fsdp=fsdp, min_split_size=16)
    mesh = make_mesh(config, jax.devices()[: data * fsdp])
    shardings = state_shardings(mesh, config, jax.eval_shape(lambda: state))
    abstract = jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        state,
        shardings,
    )
    return jax.device_put(state, shardings), abstract


def save(checkpoints, step, state, **more):
    checkpoints.save(step, state, describe("pretraining", CONFIG, VOCABULARY, **more))
    checkpoints.wait()


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    """A folder with one checkpoint, written on two by four devices; not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(folder)
    save(checkpoints, 3, on_mesh(state, 2, 4)[0], run="first")
    checkpoints.close()
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    """A copy of that folder, to be damaged."""
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.mark.parametrize(("data", "fsdp"), [(1, 1), (8, 1), (2, 4), (1, 8)])
def test_restores_every_bit_on_any_mesh(saved, state, data, fsdp):
    checkpoints = Checkpoints(saved)
    assert checkpoints.latest == 3
    _, abstract = on_mesh(state, data, fsdp)
    restored = checkpoints.restore(3, abstract)
    assert_trees_equal(restored, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for array, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(abstract), strict=True):
        assert array.sharding == expected.sharding and array.dtype == expected.dtype
    kernel = restored.params["model"]["encoder"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // fsdp


def test_saves_from_every_mesh(state, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    _, abstract = on_mesh(state, 1, 1)
    for step, (data, fsdp) in enumerate([(1, 1), (8, 1), (1, 8)], start=1):
        save(checkpoints, step, on_mesh(state, data, fsdp)[0])
        assert_trees_equal(checkpoints.restore(step, abstract), state)


def test_description(saved):
    description = Checkpoints(saved).description(3)
    assert description["config"] == CONFIG and description["run"] == "first"
    assert tuple(description["vocabulary"]) == VOCABULARY
    assert description["versions"]["jax"] == jax.__version__
    assert description["versions"]["orbax-checkpoint"] == importlib.metadata.version("orbax-checkpoint")


def test_saved_state_may_be_donated(state, tmp_path):
    """What is on the disk is the state at `save`, though its memory is written over at once."""
    placed, abstract = on_mesh(state, 1, 1)
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 + 7, tree), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    placed = jax.jit(lambda tree: jax.tree.map(lambda x: x + 0, tree))(placed)
    checkpoints.save(3, placed, describe("pretraining", {}, ()))
    jax.block_until_ready(overwrite(placed))
    checkpoints.wait()
    assert_trees_equal(checkpoints.restore(3, abstract), state)


def steps_on_disk(folder):
    return sorted(int(path.name) for path in folder.iterdir())


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"keep_last": 2}, [5, 6]),
        ({"keep_last": 1, "keep_every": 3}, [3, 6]),
        ({"keep_last": 2, "keep_every": 4}, [4, 5, 6]),
    ],
)
def test_what_is_kept(tmp_path, options, kept):
    tiny = TrainState(*[jnp.int32(i) for i in range(7)])
    checkpoints = Checkpoints(tmp_path, **options)
    for step in range(1, 7):
        save(checkpoints, step, tiny)
    checkpoints.close()
    assert steps_on_disk(tmp_path) == kept
    assert Checkpoints(tmp_path).latest == 6


def test_empty_folder(tmp_path):
    assert Checkpoints(tmp_path / "new" / "folder").latest is None


def test_other_layout_is_refused(copied):
    path = copied / "3" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["custom_metadata"]["layout"] = 0
    path.write_text(json.dumps(metadata))
    with pytest.raises(ConfigError, match="copy/3: checkpoint of layout 0"):
        Checkpoints(copied).description(3)


def test_checkpoint_of_something_else_is_refused(tmp_path):
    ocp.save(tmp_path / "5", {"a": np.arange(3)})
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ConfigError, match="/5: a checkpoint without description"):
        checkpoints.description(5)


def flip(path, position):
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["delete", "truncate"])
@pytest.mark.parametrize("item", ["model", "ema", "training"])
@pytest.mark.parametrize("pattern", ["_METADATA", "manifest.ocdbt", "d/*"])
def test_damaged_files_are_refused(copied, state, damage, item, pattern):
    (path,) = (copied / "3" / item).glob(pattern)
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ConfigError, match="copy/3: cannot be restored"):
        Checkpoints(copied).restore(3, on_mesh(state, 1, 1)[1])


@pytest.mark.parametrize("pattern", ["_METADATA", "manifest.ocdbt", "d/*"])
def test_a_flipped_bit_is_never_read_as_something_else(copied, state, pattern):
    """Some bits of Orbax's own files do not matter: then all is read as it was."""
    (path,) = (copied / "3" / "training").glob(pattern)
    whole, refused = path.read_bytes(), 0
    for position in np.linspace(0.02, 0.98, 8):
        flip(path, position)
        try:
            assert_trees_equal(Checkpoints(copied).restore(3, on_mesh(state, 1, 1)[1]), state)
        except ConfigError as error:
            assert "copy/3: cannot be restored" in str(error)
            refused += 1
        path.write_bytes(whole)
    assert refused


@pytest.mark.parametrize("item", ["model", "ema", "training"])
def test_a_flipped_bit_of_an_array_is_noticed(tmp_path, item):
    """Orbax itself reads most of these without an error."""
    kernel = {"kernel": jax.random.normal(jax.random.key(0), (128, 128))}
    one = jnp.int32(1)
    placed, abstract = on_mesh(TrainState(one, kernel, {}, kernel, kernel, one, one), 1, 1)
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1, placed)
    path = max((tmp_path / "1" / item).glob("ocdbt.process_0/d/*"), key=lambda path: path.stat().st_size)
    whole = path.read_bytes()
    for position in (0.1, 0.4, 0.6, 0.9):
        flip(path, position)
        with pytest.raises(ConfigError, match="/1: cannot be restored"):
            checkpoints.restore(1, abstract)
        path.write_bytes(whole)
    assert_trees_equal(checkpoints.restore(1, abstract), placed)


def test_a_changed_description_is_noticed(copied):
    path = copied / "3" / "_CHECKPOINT_METADATA"
    path.write_text(path.read_text().replace("0.0001", "0.0002"))
    with pytest.raises(ConfigError, match="copy/3: the description of the checkpoint is damaged"):
        Checkpoints(copied).description(3)


def test_checksums_depend_on_bits_and_indices_and_not_on_meshes(state):
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    flipped, swapped = array.copy(), array.copy()
    flipped.view(np.uint32)[3, 5] ^= 1 << 31
    swapped[[0, 1]] = swapped[[1, 0]]
    sums = [checksums({"a": jnp.array(x)})["a"] for x in (array, flipped, swapped)]
    assert len(set(sums)) == 3
    bits = array.view(np.uint32).astype(np.uint64).ravel()
    assert sums[0] == int((bits * (2 * np.arange(24, dtype=np.uint64) + 1)).sum() % 2**32)
    assert checksums(on_mesh(state, 2, 4)[0]) == checksums(on_mesh(state, 1, 1)[0])
    small = {"half": jnp.ones(3, jnp.bfloat16), "yes": jnp.array([True]), "byte": jnp.array([3], jnp.int8)}
    assert checksums(small) == {"half": 0x3F80 * (1 + 3 + 5), "yes": 1, "byte": 3}


def test_missing_part_is_refused(copied, state):
    shutil.rmtree(copied / "3" / "training")
    with pytest.raises(ConfigError, match="copy/3: cannot be restored"):
        Checkpoints(copied).restore(3, on_mesh(state, 1, 1)[1])


def test_step_that_is_not_there(saved, state):
    with pytest.raises(ConfigError, match="/9: not a checkpoint, or a damaged one"):
        Checkpoints(saved).restore(9, on_mesh(state, 1, 1)[1])


def test_other_shapes_and_other_arrays_are_refused(saved, state):
    """The message names the reason."""
    _, abstract = on_mesh(state, 1, 1)
    wide, more = (jax.tree.map(lambda x: x, abstract) for _ in range(2))
    sharding = abstract.step.sharding
    other = jax.ShapeDtypeStruct((9,), np.float32, sharding=sharding)
    wide.params["model"]["encoder"]["bias"] = other
    more.params["model"]["encoder"]["new"] = other
    less = abstract._replace(ema={})
    for changed, reason in ((wide, r"\(9,\)"), (more, "encoder.new"), (less, "ema")):
        with pytest.raises(ConfigError, match=f"cannot be restored .*{reason}"):
            Checkpoints(saved).restore(3, changed)


def test_half_written_checkpoint_is_never_the_latest(copied, state):
    """Left by a process that was killed; the same step can be saved again."""
    shutil.copytree(copied / "3", copied / "4.orbax-checkpoint-tmp")
    for path in (copied / "4.orbax-checkpoint-tmp").rglob("*"):
        if path.name in ("commit_success.txt", "_CHECKPOINT_METADATA", "manifest.ocdbt"):
            path.unlink()
    checkpoints = Checkpoints(copied)
    assert checkpoints.latest == 3
    placed, abstract = on_mesh(state, 1, 1)
    save(checkpoints, 4, placed)
    assert checkpoints.latest == 4
    assert_trees_equal(checkpoints.restore(4, abstract), state)
    checkpoints.close()
    assert steps_on_disk(copied) == [3, 4]


def test_model_can_be_read_alone(copied, state):
    """With Orbax and nothing of this package, even where the optimizer's arrays are gone."""
    shutil.rmtree(copied / "3" / "training")
    model = ocp.load_checkpointables(copied / "3", {"model": None})["model"]
    assert_trees_equal(model, {"params": state.params, "rest": state.rest})


def test_parameter_count(state):
    assert parameter_count(state.params) == 3 * 8 + 8 * 32 + 2 * 16 * 8 + 8
    assert len(named(state.params)) == 4
