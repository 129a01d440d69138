"""The preflight as a whole, with a stand-in for the compiler; the TPU's own compiler in a slow test."""

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

from experiments import preflight as program_of_flags
from experiments.preflight import choose_canvases, preflight
from experiments.preflighting import environment
from experiments.preflighting.chips import GIB, Slice
from experiments.preflighting.collectives import Transfer
from experiments.preflighting.estimate import Counts, estimate
from experiments.preflighting.program import Compiled, Memory, TooLarge, compile_step, complete, make_step, mesh_of
from experiments.run.config_flags import override
from pixelbert_jax.errors import ConfigError
from tests.experiments.preflighting.programs import CHIP
from tests.experiments.tiny_config import get_config

TINY = Path(__file__).with_name("tiny_config.py")
COMPILED = Compiled(
    canvas=(48, 48),
    seconds=2.0,
    memory=Memory(arguments=20_000_000, outputs=19_000_000, aliased=19_000_000, temporaries=30_000_000, program=0),
    counts=Counts(1e9, 1e8, 0, (Transfer("all-reduce", 10_000_000, 8, 1),)),
    unknown_loops=(),
)


def test_canvases_are_chosen_by_name():
    several = override(get_config(), {"data.canvases": "[[48, 48], [64, 48], [48, 64]]"})
    assert choose_canvases(several, "largest") == [(48, 64)]
    assert choose_canvases(several, "all") == [(48, 64), (64, 48), (48, 48)]
    assert choose_canvases(several, "48x48,64x48") == [(64, 48), (48, 48)]
    with pytest.raises(ConfigError, match=r"--canvases=48x48,9x9: the config has no 9x9; it has 48x64, 64x48, 48x48"):
        choose_canvases(several, "48x48,9x9")


@pytest.fixture
def quick_compiler(monkeypatch):
    """The whole command with a step that is compiled already; it fits from two micro-batches on."""

    def compile_(config, mesh, canvas):
        if config.train.accumulation > 1:
            return dataclasses.replace(COMPILED, canvas=canvas, memory=Memory(10, 10, 10, 10, 0))
        return dataclasses.replace(COMPILED, canvas=canvas)

    monkeypatch.setattr(program_of_flags, "compile_step", compile_)


def test_a_step_that_fits(quick_compiler, capsys):
    slice_ = Slice(dataclasses.replace(CHIP, memory=GIB), (2, 4))
    found = preflight(get_config(), jax.devices(), slice_)
    assert found["ok"] and found["fits_with"] is None and json.loads(json.dumps(found)) == found
    (canvas,) = found["canvases"]
    times = estimate(COMPILED.counts, slice_)
    assert canvas["operations"] == COMPILED.counts.operations and canvas["seconds"]["likely"] == times.likely
    assert canvas["images_per_second"] == 8 / times.likely and canvas["pairs_per_second"] == 16 / times.likely
    assert canvas["images_per_second_per_host"] == {"4": 4 / times.likely}
    assert found["run"]["hours"] == pytest.approx(12 * times.likely / 3600)
    printed = capsys.readouterr().out
    assert "t:2x4: 8 devices on 1 host(s), mesh data=8, fsdp=1; 8 images and 16 pairs per step" in printed
    assert f"{COMPILED.memory.total / GIB:.2f} of 1.00 GiB" in printed and "DOES NOT FIT" not in printed
    assert "whole run: 12 steps" in printed


def test_a_step_that_does_not_fit(quick_compiler, capsys):
    slice_ = Slice(dataclasses.replace(CHIP, memory=1000), (2, 4))
    config = override(get_config(), {"data.batch_images": "16"})
    found = preflight(config, jax.devices(), slice_)
    assert not found["ok"] and found["fits_with"].endswith("--config.train.accumulation=2")
    printed = capsys.readouterr().out
    assert "DOES NOT FIT" in printed and f"fits with {found['fits_with']}" in printed
    assert printed.count("with --config.model.encoder.remat=full") == 4  # three attempts, and what was found
    none = preflight(config, jax.devices(), slice_, tries=2)
    assert none["fits_with"] is None and "nothing that was tried fits" in capsys.readouterr().out
    assert preflight(config, jax.devices(), slice_, tries=0)["fits_with"] is None
    assert "searching" not in capsys.readouterr().out


def test_a_compiler_that_gives_up(monkeypatch, capsys):
    monkeypatch.setattr(program_of_flags, "compile_step", lambda config, mesh, canvas: TooLarge(canvas, 3.0, 20 * GIB))
    found = preflight(get_config(), jax.devices(), Slice(CHIP, (2, 4)), tries=0)
    assert not found["ok"] and found["canvases"][0]["needed_bytes"] == 20 * GIB and found["run"] is None
    assert "does not fit: needs 20.00 of 10.00 GiB" in capsys.readouterr().out


def test_a_run_that_would_be_refused_is_not_fine(quick_compiler, monkeypatch, capsys):
    monkeypatch.setattr(program_of_flags, "refusal", lambda config, trainer: "rows lie badly")
    found = preflight(get_config(), jax.devices(), None)
    assert not found["ok"] and found["refused"] == "rows lie badly"
    assert "the run would be refused: rows lie badly" in capsys.readouterr().out


def set_flags(monkeypatch, **flags):
    for name, value in flags.items():
        monkeypatch.setattr(program_of_flags, f"_{name}", types.SimpleNamespace(name=name.lower(), value=value))


@pytest.mark.parametrize(("memory", "code"), [(GIB, 0), (1000, 1)])
def test_exit_code_and_file(quick_compiler, monkeypatch, tmp_path, memory, code):
    set_flags(monkeypatch, TOPOLOGY="local", CANVASES="largest", VISITS=0, TRIES=0)
    monkeypatch.setattr(program_of_flags, "OUTPUT", types.SimpleNamespace(value=str(tmp_path / "found.json")))
    chip = dataclasses.replace(CHIP, memory=memory)
    monkeypatch.setattr(program_of_flags, "find_chip", lambda kind: chip)
    if code:
        with pytest.raises(SystemExit) as ended:
            program_of_flags.main(get_config())
        assert ended.value.code == 1
    else:
        program_of_flags.main(get_config())
    assert json.loads((tmp_path / "found.json").read_text())["ok"] is (code == 0)


def test_for_a_tpu_the_program_starts_itself_again(monkeypatch):
    set_flags(monkeypatch, TOPOLOGY="v5e:2x2")
    monkeypatch.setattr(program_of_flags, "OUTPUT", types.SimpleNamespace(value=None))
    monkeypatch.setattr(sys, "argv", ["preflight", "--topology=v5e:2x2", "--config=x"])
    calls = []
    monkeypatch.setattr(environment, "run_again", lambda *arguments: calls.append(arguments) or 7)
    with pytest.raises(SystemExit) as ended:
        program_of_flags.main(get_config())
    assert ended.value.code == 7
    assert calls == [("experiments.preflight", ["--topology=v5e:2x2", "--config=x"])]


@pytest.mark.slow
def test_with_the_tpus_own_compiler(tmp_path):
    """The command as a user gives it; libtpu is fetched if it is not there."""
    try:
        environment.library_folder()
    except ConfigError as error:
        pytest.skip(str(error))
    output = tmp_path / "found.json"
    command = [sys.executable, "-m", "experiments.preflight", f"--config={TINY}", "--topology=v5e:2x4"]
    root = Path(__file__).parents[2]
    ended = subprocess.run([*command, f"--output={output}"], cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(output.read_text())
    (canvas,) = found["canvases"]
    config = complete(get_config())
    parameters = make_step(config, mesh_of(config, jax.devices()))[1].abstract_state.params
    size = 4 * sum(array.size for array in jax.tree.leaves(parameters))
    assert (found["topology"], found["devices"], found["ok"]) == ("v5e:2x4", 8, True)
    assert size <= canvas["collectives"]["all-reduce"]["bytes"] < 1.2 * size
    assert canvas["memory"]["aliased"] > 2 * size and canvas["compiler_cycles"] > 0
    expected = compile_step(config, mesh_of(config, jax.devices()), (48, 48)).counts.operations
    assert canvas["operations"] == pytest.approx(expected, rel=0.01)
    times = canvas["seconds"]
    assert 0 < times["least"] < times["likely"] < 1 and found["run"]["hours"] > 0
