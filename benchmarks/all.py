"""All benchmarks of the CPU set, one after the other: `make bench`.

    python -m data_pipelines.prepare shapes --data_dir=data
    python -m benchmarks.all --data_dir=data [--vocabulary=VOCAB.txt] [--only=NAME,...] [--output_dir=FOLDER]

Each is a process of its own, whose result goes to --output_dir as NAME.json with its hardware, versions and environment
and the command, in which DATA_DIR and VOCABULARY stand for the two paths. Ends with one line a figure: what, ratio,
goal, met or not. What needs data that is not there is skipped; after a failure the others go on, and the exit code is
1. All end within --time_limit seconds (1800). The photographs of COCO are looked for in --data_dir too, where
`python -m data_pipelines.prepare coco_captions` puts them; --vocabulary is BERT's.
"""

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.harness.measuring import rounded
from benchmarks.harness.processes import TIME_LIMIT, run
from benchmarks.harness.shared_flags import ONLY
from data_pipelines.errors import DataError
from data_pipelines.storage.atomic_files import write_atomically
from data_pipelines.storage.records import open_records
from experiments.run import common_flags
from experiments.run.config_flags import run_main
from pixelbert_jax.errors import ConfigError

_OUTPUT_DIR = flags.DEFINE_string("output_dir", "benchmarks/results", "Folder of the results.")
_VOCABULARY = flags.DEFINE_string("vocabulary", "", "BERT's vocab.txt, for the input pipeline.")

CONFIGS = "experiments/configs"
# Memory stays with the process, in huge pages: page faults otherwise cost our step up to its own time again.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0"
    ":glibc.malloc.trim_threshold=1000000000000",
}
# They stand in commands for paths, which a result does not name.
DATA_DIR, VOCABULARY = "DATA_DIR", "VOCABULARY"
ALWAYS = ("host", "cores", "jax", "glibc_tunables")  # what each result says of its own process
_ALL_SECONDS = 1800  # unless --time_limit says something else


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number of a result, and what it should be."""

    what: str
    path: str  # names in the result, with dots between
    goal: float | None = None
    at_most: bool = False  # the goal is an upper bound


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A program that writes a JSON object to --output."""

    name: str  # of the result's file
    command: tuple[str, ...]  # a value that is DATA_DIR or VOCABULARY stands for the path
    metrics: tuple[Metric, ...] = ()
    needs: str = ""  # a data set in --data_dir
    needs_vocabulary: bool = False


def _against_torch(backbone: str, what: str, turns: int, goal: float) -> Benchmark:
    line = Metric(f"{backbone} {what}, time over PyTorch's", "ratio.median", goal, at_most=True)
    command = ("benchmarks.cpu.against_torch", f"--backbone={backbone}", f"--what={what}", f"--turns={turns}")
    return Benchmark(f"against_torch_{backbone}_{what}_cpu", command, (line,))


def _loop(data: str) -> tuple[Metric, ...]:
    return (
        Metric(f"train loop over bare step, {data}, configured checkpoints", "at_the_configs_interval.median", 0.97),
        Metric("the same, a checkpoint a turn", "loop_over_bare_rate.median"),
    )


def cpu_set() -> list[Benchmark]:
    """What `make bench` runs."""
    data = f"--config.data.data_dir={DATA_DIR}"
    return [
        _against_torch("r50", "inference", 9, 1.1),
        _against_torch("r50", "step", 5, 1.1),
        _against_torch("x152", "inference", 5, 1.25),
        _against_torch("x152", "step", 3, 1.25),
        Benchmark(
            "input_pipeline_coco_cpu",
            (
                "benchmarks.cpu.input_pipeline",
                f"--config={CONFIGS}/pretrain_r50.py",
                data,
                f"--config.data.vocabulary={VOCABULARY}",
                "--images_per_turn=64",
                "--turns=5",
            ),
            (
                Metric("input pipeline, rate over decoding and resizing alone", "ours_over_alone.median", 0.9),
                Metric("input pipeline, rate over PyTorch's loader", "ours_over_torch.median", 1.5),
            ),
            needs="coco_captions",
            needs_vocabulary=True,
        ),
        Benchmark(
            "loop_overhead_quickstart_cpu",
            ("benchmarks.cpu.loop_overhead", f"--config={CONFIGS}/pretrain_quickstart.py", data, "--loop_steps=60"),
            _loop("quickstart"),
            needs="shapes",
        ),
        Benchmark(
            "loop_overhead_coco_tiny_cpu",
            (
                "benchmarks.cpu.loop_overhead",
                f"--config={CONFIGS}/pretrain_coco_tiny.py",
                data,
                f"--config.data.vocabulary={VOCABULARY}",
                "--loop_steps=12",
                "--turns=3",
            ),
            _loop("photographs"),
            needs="coco_captions",
            needs_vocabulary=True,
        ),
        Benchmark(
            "retrieval_r50_cpu",
            (
                "benchmarks.cpu.retrieval",
                "--config.model.dtype=float32",
                *("--images=1", "--texts=24", "--block_images=1", "--block_texts=8", "--plain_pairs=2", "--turns=3"),
            ),
            (Metric("retrieval, pairs a second over the plain way", "ratio_of_cls_only_to_plain.median", 10),),
        ),
        Benchmark(
            "retrieval_against_torch_cpu",
            ("benchmarks.cpu.retrieval_against_torch", "--config.model.dtype=float32", "--turns=3"),
            (
                Metric(
                    "retrieval, pairs a second over PyTorch's with kept pixels", "pairs_per_second_ratio.median", 1.0
                ),
            ),
        ),
        Benchmark(
            "texts_an_image_r50_cpu",
            ("benchmarks.cpu.texts_an_image", "--turns=3"),
            (Metric("step with 4 texts an image, pairs a second over 1 text", "pairs_per_second_ratio.median", 2.5),),
        ),
        Benchmark(
            "start_up_quickstart_cpu",
            ("benchmarks.cpu.start_up", f"--data_dir={DATA_DIR}"),
            (Metric("start to first step, seconds, compiled programs cached", "seconds.median", 12.0, at_most=True),),
            needs="shapes",
        ),
        Benchmark("parts_r50_cpu", ("benchmarks.cpu.parts", "--backbone=r50", "--turns=5")),
    ]


def missing(benchmark: Benchmark, data_dir: str, vocabulary: str) -> str:
    """Why a benchmark cannot run, in one sentence; empty if it can."""
    if benchmark.needs_vocabulary and not Path(vocabulary).is_file():
        return f"--vocabulary={vocabulary} is no file; give BERT's vocab.txt."
    try:
        if benchmark.needs:
            open_records(data_dir, benchmark.needs, "train")
    except DataError as error:
        return str(error)
    return ""


def with_paths(command: Sequence[str], data_dir: str, vocabulary: str) -> list[str]:
    """The command with the paths for which DATA_DIR and VOCABULARY stand."""
    paths = {DATA_DIR: data_dir, VOCABULARY: vocabulary}
    parts = [argument.rpartition("=") for argument in command]
    return [f"{name}{equals}{paths.get(value, value)}" for name, equals, value in parts]


def result_of(
    benchmark: Benchmark, data_dir: str, vocabulary: str, seconds: float
) -> tuple[dict[str, Any] | None, str]:
    """Run one.

    Args:
      benchmark: the program.
      data_dir: prepared data.
      vocabulary: BERT's.
      seconds: that it may take.

    Returns:
      Its result with the command, or None and why there is none.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        command = [sys.executable, "-m", *with_paths(benchmark.command, data_dir, vocabulary), f"--output={output}"]
        code, printed = run(command, seconds, ENVIRONMENT)
        if code is None:
            return None, f"its {max(seconds, 0):.0f} seconds were over"
        if code or not output.is_file():
            return None, f"exit code {code}: {' '.join(printed.split())[-400:]}"
        found = json.loads(output.read_text())
    if absent := [name for name in ALWAYS if name not in found]:
        return None, f"its result does not say its {', '.join(absent)}"
    recorded = " ".join(["python", "-m", *benchmark.command])
    return {**found, "command": recorded, "benchmark_seconds": rounded(time.monotonic() - begun)}, ""


def lines(metrics: Sequence[Metric], result: Mapping[str, Any]) -> list[str]:
    """One line of the table a figure: what, number, goal, met or not."""
    found = []
    for figure in metrics:
        number: Any = result
        for name in figure.path.split("."):
            number = number[name]
        line = f"{figure.what:<58} {rounded(number):>8}"
        if figure.goal is not None:
            met = number <= figure.goal if figure.at_most else number >= figure.goal
            line += f"  {'<=' if figure.at_most else '>='} {figure.goal:<5} {'met' if met else 'not met'}"
        found.append(line)
    return found


def run_all(
    benchmarks: Sequence[Benchmark], output_dir: Path, data_dir: str, vocabulary: str, limit: float
) -> tuple[list[str], bool]:
    """Run them in their order and write the results.

    Args:
      benchmarks: the programs.
      output_dir: a folder.
      data_dir: prepared data.
      vocabulary: BERT's.
      limit: seconds for all together.

    Returns:
      The table's lines, and whether none failed.
    """
    table, well, end = [], True, time.monotonic() + limit
    for benchmark in benchmarks:
        if why := missing(benchmark, data_dir, vocabulary):
            table.append(f"{benchmark.name:<58}  skipped: {why}")
        else:
            result, why = result_of(benchmark, data_dir, vocabulary, end - time.monotonic())
            if result is not None:
                try:
                    added = lines(benchmark.metrics, result) or [f"{benchmark.name:<58}  done"]
                    write_atomically(output_dir / f"{benchmark.name}.json", json.dumps(result, indent=1) + "\n")
                except (KeyError, TypeError) as error:
                    why = f"its result has no {error}"
            if why:
                well, added = False, [f"{benchmark.name:<58}  failed: {why}"]
            table += added
        print(table[-1], file=sys.stderr, flush=True)
    return table, well


def main() -> None:
    """Entry point behind the flags."""
    output_dir, data_dir = Path(_OUTPUT_DIR.value), common_flags.DATA_DIR.value or "data"
    if not output_dir.is_dir():
        raise ConfigError(f"--output_dir={output_dir}: no such folder; make it first.")
    chosen = cpu_set()
    unknown = set(ONLY.value) - {benchmark.name for benchmark in chosen}
    if unknown:
        names = ", ".join(benchmark.name for benchmark in chosen)
        raise ConfigError(f"--only: no benchmark is called {', '.join(sorted(unknown))}; there are {names}.")
    chosen = [benchmark for benchmark in chosen if not ONLY.value or benchmark.name in ONLY.value]
    table, well = run_all(chosen, output_dir, data_dir, _VOCABULARY.value, TIME_LIMIT.value or _ALL_SECONDS)
    print("\n".join(table))
    if not well:
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main, takes_config=False)
