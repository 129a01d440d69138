"""Benchmarks run at a tiny size; their numbers are not looked at."""

import importlib.metadata
import json
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.cpu import phases, retrieval, start_up
from benchmarks.harness import comparing
from benchmarks.harness.measuring import countable, host, machine, operations, processor
from benchmarks.learning import downstream
from benchmarks.pretraining_step import measure, random_batch
from data_pipelines.images.resize import resized_size
from pixelbert_jax.config import EncoderConfig, PixelBertConfig
from pixelbert_jax.encoder import Encoder
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.training.sharding import MeshConfig, make_mesh
from tests.experiments.tiny_config import get_config


def test_pretraining_step():
    config = get_config()
    result = measure(config, images=8, steps=2)
    assert result["devices"] == 8 and result["pairs"] == 16 and result["canvas"] == [48, 48]
    assert len(result["losses"]) == 3 and all(map(math.isfinite, result["losses"]))
    assert result["step_seconds"] > 0 and result["pairs_per_second"] > 0 and result["parameters"] > 0
    assert result["teraflop_a_step_counted_by_the_compiler"] > 0
    assert json.loads(json.dumps(result)) == result


def test_random_images_fill_what_the_rule_allows():
    from experiments.configs.pretrain_r50 import get_config as r50

    config = r50()
    batch = random_batch(config, 1, 100)
    assert batch["images"].shape == (1, 832, 1344, 3)
    assert tuple(batch["image_size"][0]) == resized_size(800, 1333, config.data.resize) == (800, 1333)


def test_operations_are_those_of_the_products():
    a, b = np.ones((8, 16), np.float32), np.ones((16, 32), np.float32)
    assert operations(jnp.dot, a, b) == 2 * 8 * 16 * 32


@pytest.mark.parametrize("layers", [2, 5])
def test_operations_of_a_model_are_those_of_all_layers(layers):
    """However the layers are run; backward takes twice as many as forward."""
    found = []
    for fields in ({"remat": "none"}, {"remat": "full"}, {"remat": "dots", "scan_unroll": 2}):
        encoder = EncoderConfig(layers=layers, width=32, heads=2, mlp_width=64, **fields)
        model = countable(PixelBertConfig(encoder=encoder, dtype="float32"))
        graphdef, state = nnx.split(Encoder(model, rngs=nnx.Rngs(params=0)))

        def loss(state, x_NxSxD, graphdef=graphdef):
            return nnx.merge(graphdef, state)(x_NxSxD, np.ones(x_NxSxD.shape[:2], bool)).sum()

        found.append(operations(jax.grad(loss, argnums=(0, 1)), nnx.as_pure(state), np.ones((4, 20, 32), np.float32)))
    products = 3 * 2 * 80 * (4 * 32 * 32 + 2 * 32 * 64 + 2 * 20 * 32) * layers
    assert len(set(found)) == 1 and products < found[0] < 1.4 * products


def test_retrieval():
    """Our way and the plain one give the same logits; times are consistent with what was measured."""
    config = get_config()
    sizes = retrieval.Sizes(images=3, texts=11, block_images=2, block_texts=5, plain_pairs=5, turns=3)
    result = retrieval.measure(config, sizes)
    assert json.loads(json.dumps(result)) == result
    assert (result["images"], result["plain_pairs"], result["devices"], result["canvas"]) == (4, 8, 8, [48, 48])
    assert result["largest_difference_to_a_plain_logit"] < 2e-5
    ways = ["plain", "backbone_once", "grouped", "cls_only"]
    for figure in ("pairs_per_second", "coco_5k_hours", "coco_5k_gigaflop_a_pair"):
        assert list(result[figure]) == ways
    operations_a_pair = list(result["coco_5k_gigaflop_a_pair"].values())
    assert operations_a_pair == sorted(operations_a_pair, reverse=True) and len(set(operations_a_pair)) == 4
    for spread in result["pairs_per_second"].values():
        assert 0 < spread["least"] <= spread["median"] <= spread["greatest"]
    plain = result["gigaflop"]["backbone_a_image"] + result["gigaflop"]["encoder_a_pair_plain"]
    hours = 25010 * 5000 * plain / result["teraflop_per_second"]["plain"] / 1e3 / 3600
    assert result["coco_5k_hours"]["plain"] == pytest.approx(hours, rel=0.01)
    # The plain way does the same for each pair, so the time of COCO 5K is that of its pairs.
    rate = result["pairs_per_second"]["plain"]["median"]
    assert result["coco_5k_hours"]["plain"] == pytest.approx(25010 * 5000 / rate / 3600, rel=0.01)
    by_length = result["gigaflop"]["encoder_a_pair"]
    assert list(by_length.values()) == sorted(by_length.values())
    assert by_length[str(config.data.max_text_length)] < result["gigaflop"]["encoder_a_pair_plain"]


def test_captions_are_as_long_as_those_of_coco():
    length_T = retrieval.caption_lengths(25010, 40)
    assert length_T.mean() == pytest.approx(12.5, abs=0.1) and length_T.min() == 10
    assert 30 < length_T.max() <= 40
    for count in (16, 1000):
        part = retrieval.caption_lengths(count, 40)
        assert len(part) == count and part.mean() == pytest.approx(length_T.mean(), abs=0.25)
    assert retrieval.caption_lengths(10, 12).max() == 12


def test_operations_of_all_texts_of_a_image():
    """Groups of four rows: two of texts of 8, one of 8 and 16, one of 16 that is filled up."""
    pair = {(slots, whole): slots + 100 * whole for slots in (8, 16, 24) for whole in (False, True)}
    counted = retrieval.Operations(backbone=1000, pair=pair, longest=24, rows=4)
    length_T = np.array([3, 16, 8, 8, 9, 8, 8, 5, 7, 8, 4, 10, 11])
    assert counted.encoder(retrieval.PairScorer, length_T) == 4 * (8 + 8 + 16 + 16)
    assert counted.encoder(retrieval.WholeLastLayer, length_T) == 4 * (108 + 108 + 116 + 116)
    assert counted.encoder(retrieval.OneLength, length_T) == 4 * 4 * 124
    assert counted.plain() == 1124


def test_guesses_of_the_downstream_comparison():
    known = [("what is red", "chair"), ("what is red", "table"), ("what is red", "table"), ("how many lamps", "2")]
    asked = [("what is red", "table"), ("What is blue", "chair"), ("how many cups", "2")]
    assert downstream.nearest(known, asked) == [True, False, True]


def test_table_of_a_comparison():
    printed = "step 7\naccuracy      0.2500\nquestions                                4\nwritten to predictions.json\n"
    assert comparing.metrics_in(printed) == {"accuracy": 0.25, "questions": 4}
    runs = {"guess": [{"accuracy": 0.5}], "trained": [{"accuracy": 0.25}, {"accuracy": 0.75}]}
    assert comparing.table_of(("accuracy", "other"), runs).splitlines() == [
        "| | accuracy | other |",
        "|---|---|---|",
        "| guess | 0.500 |  |",
        "| trained | 0.500 ± 0.354 |  |",
    ]


def test_machine(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Sums & Co 9000\nflags\t: a b\nmodel name\t: other\n")
    assert processor(cpuinfo) == "Sums & Co 9000"
    cpuinfo.write_text("Features\t: fp\n")
    assert processor(cpuinfo) == processor(tmp_path / "none") != ""
    found = machine(make_mesh(MeshConfig()))
    assert found["devices"] == 8 and found["host"] == processor() and found["cores"] >= 1
    monkeypatch.setenv("GLIBC_TUNABLES", "a=1")
    assert host()["glibc_tunables"] == "a=1" and host({})["glibc_tunables"] == ""
    assert found["jax"] == jax.__version__ and found["numpy"] == np.__version__ and found["jaxlib"] and found["flax"]

    def no_torch(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", no_torch)
    assert host()["torch"] is None


def test_each_moment_counts_for_the_innermost_phase(monkeypatch):
    now = SimpleNamespace(wall=105.0, processor=2.0)
    clocks = SimpleNamespace(monotonic=lambda: now.wall, process_time=lambda: now.processor)
    monkeypatch.setattr(phases, "time", clocks)

    def spend(wall, processor=0.0):
        now.wall, now.processor = now.wall + wall, now.processor + processor
        return wall

    found = phases.Phases(100.0)
    found.open("start")
    found.close()
    spend(3.0)
    with found.phase("outer"):
        spend(1.0, 0.5)
        assert found.timed("inner", spend)(10.0, 4.0) == 10.0
        spend(2.0)
    with pytest.raises(ValueError), found.phase("inner"):
        spend(20.0)
        raise ValueError
    assert found.seconds == {"start": 5.0, "rest": 3.0, "outer": 3.0, "inner": 30.0}
    assert found.processor_seconds == {"start": 2.0, "rest": 0.0, "outer": 0.5, "inner": 4.0}


def test_imports_by_package():
    written = """import time: self [us] | cumulative | imported package
import time:     30000 |      30000 |   jax._src.core
import time:     20000 |      50000 | jax
import time:       100 |        100 |     site
import time:       200 |        300 |     io
"""
    assert start_up.packages(written) == pytest.approx({"jax": 0.05, "all others": 0.0003})


def test_a_run_up_to_its_first_step(data_dir, tmp_path):
    """Its phases are those of the program, and the steps of a run are not gone through."""
    config = Path(__file__).parents[1] / "experiments" / "tiny_config.py"
    workdir = tmp_path / "run"
    found = start_up.first_step([f"--config={config}", f"--config.data.data_dir={data_dir}"], workdir)
    named = {phase for _, _, phase in phases.WRAPPED} | {"Python", "imports", "trainer", "first parameters"}
    steps = {"first batch", "step: trace", "step: lower", "step: compile or read", "step: run"}
    assert set(found["seconds"]) == set(found["processor_seconds"]) == named | steps | {"rest"}
    assert all(seconds > 0 for seconds in found["seconds"].values())
    assert found["programs"]["asked_for"] >= 2 and found["programs"]["seconds"] > 0
    assert (workdir / "config.json").is_file() and not (workdir / "metrics.jsonl").read_text()
    with pytest.raises(ConfigError, match=r"did not reach its first step \(exit code 1\).*No prepared data set"):
        start_up.first_step([f"--config={config}", f"--config.data.data_dir={tmp_path}"], tmp_path / "other")


def test_start_up(monkeypatch):
    """The first run is the cold one; of the others medians are told."""
    given = []

    def stand_in(arguments, workdir):
        given.append((arguments, workdir.name))
        turn = len(given)
        seconds = {"imports": 10.0 * turn, "step": 1.0}
        return {"seconds": seconds, "processor_seconds": seconds, "all_processor_seconds": 7.0, "programs": {}}

    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    monkeypatch.setattr(start_up, "first_step", stand_in)
    monkeypatch.setattr(start_up, "imports", lambda: {"jax": 1.0})
    found = start_up.measure(["--config=it"], Path("data"), 3)
    assert json.loads(json.dumps(found)) == found
    assert found["cold_seconds"] == 11 and found["seconds"] == {"median": 31.0, "least": 21.0, "greatest": 41.0}
    assert found["phases"] == {
        "imports": {"seconds": 30.0, "processor_seconds": 30.0},
        "step": {"seconds": 1.0, "processor_seconds": 1.0},
    }
    assert found["glibc_tunables"] == start_up.ENVIRONMENT["GLIBC_TUNABLES"]  # of the runs, not of this process
    caches = {next(argument for argument in arguments if "compilation_cache" in argument) for arguments, _ in given}
    assert len(caches) == 1 and [name for _, name in given] == ["0", "1", "2", "3"]
