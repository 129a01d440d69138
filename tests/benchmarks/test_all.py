"""All benchmarks one after the other, with small programs in their place."""

import dataclasses
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from absl.testing import flagsaver

from benchmarks import all as all_benchmarks
from benchmarks.all import ALWAYS, ENVIRONMENT, Benchmark, Metric, cpu_set, lines, run_all
from benchmarks.harness import processes
from pixelbert_jax.errors import ConfigError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
AMX_OR_NEWEST = (  # with the newest jax on a processor with AMX
    "r50_inference_bfloat16",
    "r50_step_bfloat16",
    "x152_inference_bfloat16",
    "r50_inference_newest_jax",
    "r50_step_newest_jax",
)
BESIDES = {  # results that are not of the CPU set, and their programs
    "preparing": "benchmarks.cpu.preparing",
    "bucket_copy_cpu": "benchmarks.cpu.bucket_copy",
    "loop_overhead_r50_cpu": "benchmarks.cpu.loop_overhead",
    "photographs_cpu": "benchmarks.learning.photographs",
    "photographs_amx": "benchmarks.learning.photographs",
    **{f"against_torch_{name}_cpu": "benchmarks.cpu.against_torch" for name in AMX_OR_NEWEST},
    "retrieval_against_torch_bfloat16_cpu": "benchmarks.cpu.retrieval_against_torch",
    "retrieval_against_torch_newest_jax_cpu": "benchmarks.cpu.retrieval_against_torch",
}
STAND_IN = """
import json, os, sys, time
what, output = sys.argv[1], sys.argv[-1].removeprefix("--output=")
if what == "fails":
    sys.exit("the disk is broken")
if what == "sleeps":
    time.sleep(3600)
if what == "is_silent":
    json.dump({"ratio": {"median": 1}}, open(output, "w"))
    sys.exit()
tunables = os.environ["GLIBC_TUNABLES"]
json.dump({
    "host": "its own", "cores": 7, "jax": "1", "glibc_tunables": tunables, "ratio": {"median": float(what)},
    "given": sys.argv[2:-1],
}, open(output, "w"))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Makes benchmarks of a small program that is found as a module."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name, what, goal=0.9, *, path="ratio.median", **fields):
        return Benchmark(name, ("stand_in", what), (Metric(f"{name}'s ratio", path, goal),), **fields)

    return make


def test_results_and_table(stand_in, tmp_path):
    made = [stand_in("good", "0.95"), stand_in("slow", "0.85")]
    table, well = run_all(made, tmp_path, str(tmp_path), "", 3600)
    assert well and [line.split() for line in table] == [
        ["good's", "ratio", "0.95", ">=", "0.9", "met"],
        ["slow's", "ratio", "0.85", ">=", "0.9", "not", "met"],
    ]
    found = json.loads((tmp_path / "good.json").read_text())
    assert found["ratio"] == {"median": 0.95} and found["benchmark_seconds"] > 0
    assert found["command"] == "python -m stand_in 0.95"


def test_the_environment_is_that_of_the_measured_process(stand_in, tmp_path):
    """Not of this one; a program that does not state its own has failed."""
    table, well = run_all([stand_in("it", "1"), stand_in("silent", "is_silent")], tmp_path, str(tmp_path), "", 3600)
    found = json.loads((tmp_path / "it.json").read_text())
    assert (found["host"], found["cores"], found["glibc_tunables"]) == ("its own", 7, ENVIRONMENT["GLIBC_TUNABLES"])
    assert not well and "its result does not say its host, cores, jax, glibc_tunables" in table[1]
    assert not (tmp_path / "silent.json").exists()


def test_paths_are_given_and_not_recorded(stand_in, tmp_path):
    made = stand_in("it", "1")
    made = dataclasses.replace(made, command=(*made.command, "--a.data_dir=DATA_DIR", "--words=VOCABULARY", "--b=c=d"))
    run_all([made], tmp_path, "/the/data", "/the/vocab.txt", 3600)
    found = json.loads((tmp_path / "it.json").read_text())
    assert found.pop("given") == ["--a.data_dir=/the/data", "--words=/the/vocab.txt", "--b=c=d"]
    assert found["command"] == "python -m stand_in 1 --a.data_dir=DATA_DIR --words=VOCABULARY --b=c=d"
    assert "/the/" not in json.dumps(found) and str(tmp_path) not in json.dumps(found)


def test_it_goes_on_after_a_failure(stand_in, tmp_path):
    (tmp_path / "broken.json").write_text("before")
    made = [stand_in("broken", "fails"), stand_in("other", "1", path="no.such"), stand_in("good", "1")]
    table, well = run_all(made, tmp_path, str(tmp_path), "", 3600)
    assert not well and len(table) == 3
    assert "broken" in table[0] and "failed: exit code 1: the disk is broken" in table[0]
    assert "failed: its result has no 'no'" in table[1] and table[2].endswith("met")
    assert (tmp_path / "broken.json").read_text() == "before" and not (tmp_path / "other.json").exists()


def test_what_lacks_its_data_is_skipped(stand_in, tmp_path):
    made = [stand_in("photographs", "1", needs="coco_captions"), stand_in("words", "1", needs_vocabulary=True)]
    table, well = run_all(made, tmp_path, str(tmp_path), "no/vocab.txt", 3600)
    assert well and not (tmp_path / "photographs.json").exists()
    assert "skipped: No prepared data set 'coco_captions'" in table[0] and "prepare coco_captions" in table[0]
    assert "skipped: --vocabulary=no/vocab.txt is no file" in table[1]


def test_data_that_is_there_is_used(stand_in, tmp_path, data_dir):
    table, well = run_all([stand_in("shapes", "1", needs="shapes")], tmp_path, str(data_dir), "", 3600)
    assert well and table[0].endswith("met")


def test_the_limit_of_time_is_kept(stand_in, tmp_path):
    table, well = run_all([stand_in("long", "sleeps"), stand_in("late", "1")], tmp_path, str(tmp_path), "", 0.5)
    assert not well and "failed: its 0 seconds were over" in table[0] and "failed: its 0 seconds were over" in table[1]


def test_upper_bounds():
    figure = Metric("seconds", "a.b", 12.0, at_most=True)
    assert lines([figure], {"a": {"b": 11.96}})[0].split() == ["seconds", "11.96", "<=", "12.0", "met"]
    assert lines([figure], {"a": {"b": 12.01}})[0].endswith("not met")
    assert lines([Metric("seconds", "a", None)], {"a": 3})[0].split() == ["seconds", "3.0"]


@pytest.mark.parametrize(("what", "code"), [("1", None), ("fails", 1)])
def test_exit_code(stand_in, what, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(all_benchmarks, "cpu_set", lambda: [stand_in("it", what)])
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
    made = cpu_set()
    assert len({benchmark.name for benchmark in made}) == len(made) == 12
    for program in {*(benchmark.command[0] for benchmark in made), *BESIDES.values()}:
        assert importlib.util.find_spec(program), program


@pytest.mark.parametrize("benchmark", cpu_set(), ids=lambda benchmark: benchmark.name)
def test_committed_results_have_the_figures_of_their_benchmark(benchmark):
    found = json.loads((RESULTS / f"{benchmark.name}.json").read_text())
    assert len(lines(benchmark.metrics, found)) == len(benchmark.metrics)
    assert all(name in found for name in (*ALWAYS, "benchmark_seconds"))
    assert found["command"] == " ".join(["python", "-m", *benchmark.command])


def test_committed_results_have_a_benchmark_and_name_no_place():
    files = list(RESULTS.iterdir())
    assert {file.stem for file in files} <= {benchmark.name for benchmark in cpu_set()} | set(BESIDES)
    for file in files:
        assert not re.search(r"(?<![\w.)\]])[~/][\w.-]*/", file.read_text()), file.name


def test_make_bench():
    said = subprocess.run(
        ["make", "-n", "bench", "DATA_DIR=there", "VOCABULARY=words"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert "-m benchmarks.all --data_dir=there --vocabulary=words" in said


def gone(process):
    """Whether a process has ended; it may still be known to one that has not asked for it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def is_gone_soon(process):
    """The same, with patience for the kernel; what is left is ended."""
    for _ in range(1000):
        if gone(process):
            return True
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    return False


class Until:
    """A clock that stands until a file is written, when all time is over."""

    def __init__(self, file):
        self.file = file

    def __call__(self):
        return math.inf if self.file.exists() else 0.0


SLEEPER = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1] + ".part").write_text(str(os.getpid()))
os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(100)
"""
STARTER = """
import subprocess, sys
subprocess.Popen([sys.executable, *sys.argv[1:]]).wait()
"""
NESTED = """
import sys
from benchmarks.harness import processes
code, _ = processes.run([sys.executable, *sys.argv[1:]], 3600)
"""


@pytest.fixture
def patient(monkeypatch):
    """Programs have a minute to end, far more than they need."""
    monkeypatch.setenv(processes.LEAVING, "60")


@pytest.mark.parametrize("between", [STARTER, NESTED], ids=["started", "run"])
def test_a_program_that_is_ended_leaves_nothing(between, patient, tmp_path):
    """Nor does what it started, or ran in a session of its own."""
    file = tmp_path / "process"
    command = [sys.executable, "-c", between, "-c", SLEEPER, str(file)]
    code, _ = processes.run(command, 1.0, {"PYTHONPATH": str(ROOT)}, clock=Until(file))
    assert code is None and is_gone_soon(int(file.read_text()))


def test_who_is_asked_to_end_ends_what_it_runs_first(patient, tmp_path):
    file = tmp_path / "process"

    sent = []

    def clock():
        """Stands until the program runs; then this process is asked to end, once."""
        if file.exists() and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
            return 0.0
        return math.inf if sent else 0.0

    ours = lambda number, frame: None  # noqa: E731
    before = signal.signal(signal.SIGTERM, ours)
    try:
        with pytest.raises(SystemExit) as ended:
            processes.run([sys.executable, "-c", SLEEPER, str(file)], 1.0, clock=clock)
        assert ended.value.code == 128 + signal.SIGTERM and is_gone_soon(int(file.read_text()))
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


def test_programs_run_in_other_threads_too(tmp_path):
    """Where no signal can be handled."""
    found = []
    command = [sys.executable, "-c", "import os; print(os.environ['BENCHMARKS_SECONDS_TO_LEAVE'])"]
    thread = threading.Thread(target=lambda: found.append(processes.run(command, 3600)))
    thread.start()
    thread.join()
    assert found == [(0, f"{processes.TO_LEAVE / 2}\n")]


def test_a_program_without_time_is_not_started():
    """One that is not there would be an error."""
    assert processes.run(["no/such/program"], 0.0) == (None, "")
