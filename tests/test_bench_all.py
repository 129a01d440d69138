"""All benchmarks one after the other, with small programs in their place."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl.testing import flagsaver

from benchmarks import all as all_benchmarks
from benchmarks import running
from benchmarks.all import Benchmark, Figure, cpu_set, lines, run_all
from pixelbert_jax.errors import ConfigError

ROOT = Path(__file__).parents[1]
STAND_IN = """
import json, sys, time
what, output = sys.argv[1], sys.argv[2].removeprefix("--output=")
if what == "fails":
    sys.exit("the disk is broken")
if what == "sleeps":
    time.sleep(60)
json.dump({"ratio": {"median": float(what)}}, open(output, "w"))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Makes benchmarks of a small program that is found as a module."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name, what, goal=0.9, *, path="ratio.median", **fields):
        return Benchmark(name, ("stand_in", what), (Figure(f"{name}'s ratio", path, goal),), **fields)

    return make


def test_results_and_table(stand_in, tmp_path):
    made = [stand_in("good", "0.95"), stand_in("slow", "0.85")]
    table, well = run_all(made, tmp_path, str(tmp_path), "", 60)
    assert well and [line.split() for line in table] == [
        ["good's", "ratio", "0.95", ">=", "0.9", "met"],
        ["slow's", "ratio", "0.85", ">=", "0.9", "not", "met"],
    ]
    found = json.loads((tmp_path / "good.json").read_text())
    assert found["ratio"] == {"median": 0.95} and found["cores"] >= 1 and found["host"] and found["jaxlib"]
    assert found["command"].startswith("python -m stand_in 0.95") and found["benchmark_seconds"] > 0


def test_it_goes_on_after_a_failure(stand_in, tmp_path):
    (tmp_path / "broken.json").write_text("before")
    made = [stand_in("broken", "fails"), stand_in("other", "1", path="no.such"), stand_in("good", "1")]
    table, well = run_all(made, tmp_path, str(tmp_path), "", 60)
    assert not well and len(table) == 3
    assert "broken" in table[0] and "failed: exit code 1: the disk is broken" in table[0]
    assert "failed: its result has no 'no'" in table[1] and table[2].endswith("met")
    assert (tmp_path / "broken.json").read_text() == "before"


def test_what_lacks_its_data_is_skipped(stand_in, tmp_path):
    made = [stand_in("photographs", "1", needs="coco_captions"), stand_in("words", "1", needs_vocabulary=True)]
    table, well = run_all(made, tmp_path, str(tmp_path), "no/vocab.txt", 60)
    assert well and not (tmp_path / "photographs.json").exists()
    assert "skipped: No prepared data set 'coco_captions'" in table[0] and "prepare coco_captions" in table[0]
    assert "skipped: --vocabulary=no/vocab.txt is no file" in table[1]


def test_data_that_is_there_is_used(stand_in, tmp_path, data_dir):
    table, well = run_all([stand_in("shapes", "1", needs="shapes")], tmp_path, str(data_dir), "", 60)
    assert well and table[0].endswith("met")


def test_the_limit_of_time_is_kept(stand_in, tmp_path):
    begun = time.monotonic()
    table, well = run_all([stand_in("long", "sleeps"), stand_in("late", "1")], tmp_path, str(tmp_path), "", 0.5)
    assert not well and "seconds were over" in table[0] and "seconds were over" in table[1]
    assert time.monotonic() - begun < 20


def test_upper_bounds():
    figure = Figure("seconds", "a.b", 12.0, at_most=True)
    assert lines([figure], {"a": {"b": 11.96}})[0].split() == ["seconds", "11.96", "<=", "12.0", "met"]
    assert lines([figure], {"a": {"b": 12.01}})[0].endswith("not met")
    assert lines([Figure("seconds", "a", None)], {"a": 3})[0].split() == ["seconds", "3.0"]


@pytest.mark.parametrize(("what", "code"), [("1", None), ("fails", 1)])
def test_exit_code(stand_in, what, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(all_benchmarks, "cpu_set", lambda data_dir, vocabulary: [stand_in("it", what)])
    with flagsaver.flagsaver(output_dir=str(tmp_path)):
        if code is None:
            all_benchmarks.main()
        else:
            with pytest.raises(SystemExit) as ended:
                all_benchmarks.main()
            assert ended.value.code == code
    assert "it" in capsys.readouterr().out


def test_names_are_checked(tmp_path):
    for given, said in (({"only": ["start_down"]}, "start_down"), ({"output_dir": "no/folder"}, "no such folder")):
        with flagsaver.flagsaver(**{"output_dir": str(tmp_path), **given}), pytest.raises(ConfigError, match=said):
            all_benchmarks.main()


def test_the_cpu_set_is_of_programs_that_are_there():
    """Modules are found, and their committed results have the figures of the table."""
    made = cpu_set("data", "vocab.txt")
    assert len({benchmark.name for benchmark in made}) == len(made) == 11
    for benchmark in made:
        assert importlib.util.find_spec(benchmark.command[0]), benchmark.name
        committed = ROOT / "benchmarks" / "results" / f"{benchmark.name}.json"
        if committed.is_file():
            assert len(lines(benchmark.figures, json.loads(committed.read_text()))) == len(benchmark.figures)


def test_make_bench():
    said = subprocess.run(
        ["make", "-n", "bench", "DATA_DIR=there", "VOCABULARY=words"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert "-m benchmarks.all --data_dir=there --vocabulary=words" in said


def test_a_program_that_is_ended_leaves_nothing(tmp_path):
    """Nor does what it started."""
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('child', child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    code, printed = running.run([sys.executable, "-c", program], 1.5)
    child = int(printed.split()[1])
    assert code is None
    for _ in range(100):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    os.kill(child, 9)
    pytest.fail("the child was left")
