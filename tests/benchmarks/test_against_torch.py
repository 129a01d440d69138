"""The benchmarks against PyTorch, at a tiny size: the peer is the same model, and the programs run."""

import dataclasses
import json
import math
import sys

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from flax import nnx

from data_pipelines.config import DataConfig, SourceConfig
from data_pipelines.images.resize import ResizeRule
from data_pipelines.storage.records import open_records
from data_pipelines.text.tokenizer import Tokenizer, train_vocabulary
from experiments.run.config import TrainConfig
from pixelbert_jax.config import EncoderConfig, PixelBertConfig, ResNetConfig, TextConfig
from pixelbert_jax.conv import Conv
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.pretraining import ModelForPretraining
from tests.experiments.fine_tuning import small_config

torch = pytest.importorskip("torch")
from benchmarks.cpu import against_torch, input_pipeline, loop_overhead  # noqa: E402
from benchmarks.harness.sides import alternate  # noqa: E402
from benchmarks.harness.torch_peer import TorchPixelBert  # noqa: E402
from benchmarks.harness.turns import compared, in_turn  # noqa: E402

BACKBONE = ResNetConfig(depths=(1, 2), widths=(32, 48), inner_widths=(8, 12), strides=(1, 2), stem_width=16)
MODEL = PixelBertConfig(
    backbone=BACKBONE,
    encoder=EncoderConfig(layers=1, width=32, heads=2, mlp_width=64),
    text=TextConfig(100, 64),
    dtype="float32",
)
GROUPED = dataclasses.replace(MODEL, backbone=dataclasses.replace(BACKBONE, inner_widths=(16, 24), groups=4))

STRIDE_IN_1X1 = dataclasses.replace(GROUPED, backbone=dataclasses.replace(GROUPED.backbone, stride_in="conv1x1"))


@pytest.fixture
def threads():
    """Benchmarks set PyTorch's threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("model", [MODEL, GROUPED, STRIDE_IN_1X1], ids=["ResNet", "ResNeXt", "stride in 1x1"])
def test_the_peer_is_the_same_model(model):
    """As many parameters and, layer by layer of the backbone, of the same sizes, with strides in the same places.

    BERT has two token types besides.
    """
    ours = nnx.eval_shape(lambda: ModelForPretraining(model, platform="cpu", rngs=nnx.Rngs(params=0)))
    peer = TorchPixelBert(model)
    sizes = {
        "ours": sorted(math.prod(x.shape) for x in jax.tree.leaves(nnx.state(ours.model.backbone, nnx.Param))),
        "peer": sorted(p.numel() for p in peer.backbone.parameters()),
    }
    assert sizes["ours"] == sizes["peer"]
    places = [(c.kernel.shape[0], c.stride) for _, c in nnx.iter_modules(ours.model.backbone) if isinstance(c, Conv)]
    convolutions = [c for c in peer.backbone.modules() if isinstance(c, torch.nn.Conv2d)]
    assert sorted(places) == sorted((c.kernel_size[0], c.stride[0]) for c in convolutions)
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.state(ours, nnx.Param)))
    unused = (512 - model.text.max_positions + 2) * model.encoder.width
    assert count == sum(p.numel() for p in peer.parameters()) - unused


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("what", ["inference", "step"])
def test_both_sides_do_the_same_work(what, dtype, monkeypatch):
    monkeypatch.setattr(against_torch, "INFERENCE", (64, 128))
    monkeypatch.setattr(against_torch, "STEP", (64, 128))
    monkeypatch.setattr(against_torch, "WORDS", 8)
    monkeypatch.setattr(against_torch, "make_mesh", make_mesh_of_one)
    model = against_torch.comparable(MODEL, dtype)
    ours, about = against_torch.side_of("ours", model, what, compiled=False)
    peer, about_peer = against_torch.side_of("torch", model, what, compiled=False)
    assert about["image"] == [64, 128] and about["pairs"] == {"inference": 1, "step": 2}[what]
    assert about_peer["torch"] == torch.__version__ and about_peer["torch_compile"] is False
    assert np.shape(ours()) == np.shape(peer()) and np.isfinite(ours()).all() and np.isfinite(peer()).all()


SIDE = """
import sys, time
from benchmarks.harness.sides import serve
calls = []
def step():
    calls.append(0)
    time.sleep({seconds} * (len(calls) > 2))
serve(step, {{"name": "{name}"}})
"""


def test_sides_in_processes_of_their_own_take_turns(tmp_path):
    """Calls that compile do not count; the ratio is that of the work; both processes are gone afterwards."""
    code = {name: SIDE.format(name=name, seconds=seconds) for name, seconds in (("slow", 0.2), ("fast", 0.05))}
    about, seconds = alternate({name: [sys.executable, "-c", text] for name, text in code.items()}, 2)
    assert [said["name"] for said in about.values()] == ["slow", "fast"]
    assert all(said["first_call_seconds"] < 0.05 for said in about.values())
    assert [len(times) for times in seconds.values()] == [2, 2]
    assert min(seconds["slow"]) > 0.19 and min(seconds["fast"]) > 0.04 and min(seconds["fast"]) < 0.19


def test_a_side_that_fails_is_named(capfd):
    with pytest.raises(ConfigError, match="The side torch ended with exit code 3"):
        alternate({"torch": [sys.executable, "-c", "import sys; print('no torch', file=sys.stderr); sys.exit(3)"]}, 1)
    assert "no torch" in capfd.readouterr().err


def test_the_program_starts_both_sides(monkeypatch, capsys):
    """With the peer's own Python, and the same options."""
    seen = {}

    def stand_in(commands, turns):
        seen.update(commands)
        return {name: {"first_call_seconds": 1.0} for name in commands}, {"ours": [1.0] * turns, "torch": [2.0] * turns}

    monkeypatch.setattr(against_torch, "alternate", stand_in)
    with flagsaver.flagsaver(dtype="bfloat16", what="step", peer_python="/other/python"):
        against_torch.main()
    found = json.loads(capsys.readouterr().out)
    assert found["ratio"]["median"] == 0.5 and found["dtype"] == "bfloat16" and found["torch_first_call_seconds"] == 1.0
    assert seen["ours"][0] == sys.executable and seen["torch"][0] == "/other/python"
    assert seen["ours"][1:-1] == seen["torch"][1:-1] and seen["torch"][-1] == "--side=torch"


@pytest.mark.parametrize(
    ("choice", "what", "compiler", "compiled"),
    [
        ("auto", "inference", "/bin/g++", True),
        ("auto", "inference", None, False),
        ("auto", "step", "/bin/g++", False),
        ("yes", "step", "/bin/g++", True),
        ("no", "inference", "/bin/g++", False),
        ("no", "step", None, False),
    ],
)
def test_the_peer_is_compiled_where_that_helps(choice, what, compiler, compiled, monkeypatch, capsys):
    """The program chooses, and the result says what was chosen."""
    monkeypatch.setattr(against_torch.shutil, "which", lambda name: compiler if name == "g++" else "/bin/other")
    seen = lambda *_, compiled: {"torch_compile": compiled}  # noqa: E731
    monkeypatch.setattr(against_torch, "measure", seen)
    with flagsaver.flagsaver(torch_compile=choice, what=what):
        against_torch.main()
    assert json.loads(capsys.readouterr().out)["torch_compile"] is compiled


def test_a_compiler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(against_torch.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"there is no g\+\+; install it, or give --torch_compile=no"):
        against_torch.is_compiled("yes", "inference")


def make_mesh_of_one(config):
    from pixelbert_jax.training.sharding import make_mesh

    return make_mesh(config, jax.devices()[:1])


def test_the_peer_learns_from_where_chance_is():
    """Its loss begins at the logarithm of the vocabulary plus that of two, and falls."""
    torch.manual_seed(0)
    encoder = dataclasses.replace(MODEL.encoder, dropout=0.0, attention_dropout=0.0)
    batch = against_torch.batch_of((64, 128), 2, 2, 8, 100)
    step = against_torch.peer_step(dataclasses.replace(MODEL, encoder=encoder), batch, compiled=False)
    losses = [step() for _ in range(10)]
    assert losses[0] == pytest.approx(math.log(100) + math.log(2), abs=0.5) and losses[-1] < losses[0]


def test_input_pipeline(data_dir, threads):
    records = open_records(data_dir, "shapes", "train")
    words = [text for record in records.texts() for text in record.texts]
    data = DataConfig(train=(SourceConfig("shapes"),), resize=ResizeRule(48, 64), canvases=((48, 48), (48, 64)))
    found = input_pipeline.measure(records, data, Tokenizer(train_vocabulary(words, 200)), 16, 2)
    assert found["images"] == 16 and found["canvas"] == [48, 48] and found["host"] and "glibc_tunables" in found
    split = input_pipeline.described(str(data_dir), "shapes", records)
    assert (data_dir / "shapes" / split.pop("version")).is_dir()
    assert split == {"name": "shapes", "images": 48, "fingerprint": records.index.fingerprint[:8]}
    assert set(found["images_per_second_per_core"]) == {"ours", "alone", "bare", "placed", "torch"}
    assert found["ours_over_alone"]["median"] > 0 and found["ours_over_torch"]["median"] > 0
    parts = {name for _, _, name in input_pipeline.PARTS}
    assert found["ours_parts"].keys() | {"resize"} == parts  # some images have their size from the beginning
    assert found["ours_parts"]["decode"] > 0 and found["ours_parts"]["rest"] >= 0


def test_parts_count_without_those_within_them(monkeypatch):
    """A clock that ticks once a call: the outer part has what the inner one leaves."""
    ticks = iter(range(100))
    monkeypatch.setattr(input_pipeline.time, "process_time", lambda: next(ticks))

    class Work:
        def outer(self):
            return self.inner() + self.inner()

        def inner(self):
            return 1

    monkeypatch.setattr(input_pipeline, "PARTS", ((Work, "outer", "outer"), (Work, "inner", "inner")))
    with input_pipeline.counted_parts() as parts:
        assert Work().outer() == 2
    assert parts == {"outer": 3, "inner": 2} and Work().inner() == 1


@pytest.mark.slow
def test_loop_overhead(data_dir):
    config = small_config()
    data = dataclasses.replace(config.data, data_dir=str(data_dir))
    found = loop_overhead.measure(
        dataclasses.replace(config, data=data, train=TrainConfig(steps=9, compilation_cache="")), 4, 1
    )
    assert found["steps"] == 4 and found["loop_over_bare_rate"]["median"] > 0
    assert found["extra_seconds"].keys() == {*loop_overhead.WAITS, "rest"}
    assert all(found["extra_seconds"][name] > 0 for name in loop_overhead.WAITS)
    assert 0 < found["limit_by_input"]["median"] < 1 and found["input_cpu_seconds"] > 0


def test_what_the_loop_waits_for_is_taken_apart():
    seconds = {"loop": [20.0, 30.0], "bare": [10.0, 20.0]}
    waits = [{"first_batch": 1.0, "checkpoint": 4.0, "input_cpu": 9.0}, {"first_batch": 1.0, "checkpoint": 4.0}]
    parts = loop_overhead.parts_of(seconds, waits)
    assert parts == {"first_batch": 1.0, "input_wait": 0.0, "metrics": 0.0, "checkpoint": 4.0, "rest": 5.0}
    assert loop_overhead.at_interval(seconds, waits, 0.25) == [10 / 16, 20 / 26]
    account = loop_overhead.Account()
    ticks = iter(range(100))
    with account.spent("a", lambda: next(ticks)), account.spent("a", lambda: next(ticks)):  # the second is the first's
        pass
    assert account.seconds == {"a": 1}


def test_turns_alternate_and_warm_up_does_not_count():
    calls = []
    seconds = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, turns=3, warm_up=1)
    assert "".join(calls) == "abababab" and {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    found = compared({"a": [1.0, 2.0, 6.0], "b": [2.0, 2.0, 2.0]}, "a", "b")
    assert found["ratio"] == {"median": 1.0, "least": 0.5, "greatest": 3.0} and found["ratio_of_least"] == 0.5
    assert np.isclose(found["seconds"]["a"]["median"], 2.0)
