"""Our pre-training step on one card against PyTorch's, at the paper's size: speed, share of the card, memory.

    python -m benchmarks.gpu --output=gpu.json
    python -m benchmarks.gpu --output=gpu_memory.json --parts=r50_ours_none,r50_torch,r50_ours_dots,r50_ours_full

One call ends within --time_limit seconds (500), needs no network, and goes on after a part that failed, with exit code
1 in the end; without PyTorch ours is measured alone. Without a card nothing is begun, unless --tiny tries the program.
Each part is a process of its own, so that it has the memory of the card (of which it may take --memory_gib) to itself;
the results are written to --output after each.

    rates             rate of a large bfloat16 product and of a copy
    MODEL_turns_TEXTS ours and the peer at the same time in the memory, of which each has half, with --turn_images; they
                      take steps in turn, so that what else the machine does meets both alike; compiling apart
    attention         our attention, XLA's and cuDNN's
    MODEL_ours_REMAT  trials of our step with more and more images until memory is full; nothing of the backbone is
                      frozen; recomputed in the backward pass: none (nothing), dots (the configs' own: blocks of the
                      backbone, all but products of the encoder), full (blocks and layers)
    MODEL_torch       the same of the peer: torch.compile, channels-last, bfloat16 autocast, PyTorch's own attention
    MODEL_torch_eager the same without torch.compile; it follows where that fails
    MODEL_turns_TEXTS_eager  likewise
    lowerings         ways to lower grouped and 1x1 convolutions

By default: the first three; trials and lowerings are for calls of their own. MODEL is r50 (800 x at most 1333) or x152
(600 x at most 1000), in trials with 4 texts an image. Compiled programs are kept
where JAX_COMPILATION_CACHE_DIR says, so that a second call on the same machine has more time to measure.

Worth trying for ours, and off by default: --xla_flags='--xla_gpu_enable_latency_hiding_scheduler=true' (with one card
it has little to hide), --xla_flags='--xla_gpu_enable_command_buffer=' (no CUDA graphs), and JAX_OPTIMIZATION_LEVEL=O1
in the environment.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.gpu.models import CONFIGS
from benchmarks.gpu.parts import FIRST_IMAGES, FULL_AT, MEMORY_GIB, MOST_IMAGES, STEPS, TURN_IMAGES, is_part
from benchmarks.gpu.trials import MEMORY_IS_FULL
from benchmarks.harness.measuring import rounded
from benchmarks.harness.processes import TIME_LIMIT, TO_LEAVE, run
from benchmarks.harness.shared_flags import TINY
from data_pipelines.storage.atomic_files import write_atomically
from experiments.run.common_flags import OUTPUT, new_file
from experiments.run.config_flags import run_main
from pixelbert_jax.errors import ConfigError

SECONDS = {  # of each part, in their order
    "rates": 30,
    "r50_turns_4": 110,
    "x152_turns_4": 140,
    "r50_turns_1": 80,
    "x152_turns_1": 110,
    "attention": 30,
}
TRIAL_SECONDS = {  # of those that are run only if --parts names them
    "r50_ours_none": 110,
    "r50_torch": 120,
    "r50_ours_dots": 90,
    "lowerings": 60,
    "x152_ours_none": 150,
    "x152_torch": 150,
    "x152_ours_dots": 150,
    "r50_ours_full": 90,
}
_PARTS = flags.DEFINE_list("parts", list(SECONDS), "What is measured, in this order.")
_XLA_FLAGS = flags.DEFINE_string("xla_flags", "", "Added to XLA_FLAGS where our step is measured.")

SPEED_GOAL, SHARE_GOAL, MEMORY_GOAL = 1.3, 0.45, 1.5
FIGURES = frozenset(
    {"pairs_per_second", "turns_pairs_per_second", "matrix_rate_tflops", "milliseconds"}
)  # a part without any measured nothing
DEVICES = Path("/dev")  # where a card is seen even without nvidia-smi
_ALL_SECONDS = 500  # unless --time_limit says something else
_LEAST_SECONDS = 20  # with less, nothing is begun
_SLACK = 25  # seconds between the last moment at which a part begins something and the one at which it is ended


def card() -> dict[str, Any]:
    """Name, driver and, where it is known, memory of the first card, as the driver states them; empty without one."""
    query = ["nvidia-smi", "-i", "0", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
        name, mebibytes, driver = found.split(", ")
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    memory = {"card_gib": rounded(float(mebibytes) / 1024)} if mebibytes.isdigit() else {}  # that of a slice is unknown
    return {"card": name, **memory, "driver": driver}


def environment(part: str, card_gib: float | None, cache: str) -> dict[str, str]:
    """What a part finds in its environment, so that both sides have the same memory and neither disturbs the other."""
    found = {"JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", cache)}
    if "_torch" in part:
        return found | {"JAX_PLATFORMS": "cpu"}  # the card is the peer's
    if "_ours_" not in part and "_turns_" not in part:
        return found | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if _XLA_FLAGS.value:
        found["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_XLA_FLAGS.value}".strip()
    if card_gib:
        share = MEMORY_GIB.value / card_gib / (2 if "_turns_" in part else 1)
        found["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{min(0.97, share):.4f}"
    return found


def measure_part(part: str, seconds: float, of_environment: Mapping[str, str], *, count: bool) -> dict[str, Any]:
    """Run one part in a process; what it found until it ended or was ended.

    Args:
      part: its name.
      seconds: that it may take.
      of_environment: of the process.
      count: have the operations of our step counted.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "lines.jsonl"
        lines.touch()
        given = (FIRST_IMAGES, MOST_IMAGES, FULL_AT, MEMORY_GIB, STEPS, TURN_IMAGES, TINY)
        command = [sys.executable, "-m", "benchmarks.gpu.parts", f"--part={part}", f"--lines={lines}"]
        command += [f"--seconds={max(1, seconds - _SLACK)}", f"--count_operations={str(count).lower()}"]
        command += [f"--{flag.name}={str(flag.value).lower()}" for flag in given]
        code, printed = run(command, seconds, of_environment)
        text = lines.read_text()
    found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    result = {"seconds": round(time.monotonic() - begun, 1), "findings": found}
    if code is None:
        result["cut"] = f"its {seconds:.0f} seconds were over"
    elif code:
        for place in (sys.prefix, sys.base_prefix, Path.cwd()):  # a result names no folder of its machine
            printed = printed.replace(f"{place}/", "")
        result |= {"exit_code": code, "printed": printed.splitlines()[-15:]}
    return result


def is_peer_broken(part: str, found: Mapping[str, Any]) -> bool:
    """Whether the compiled peer failed in this part, so that it is measured uncompiled."""
    if part.endswith("_torch"):
        return any("error" in finding for finding in found.get("findings", ()))
    return "_turns_" in part and not part.endswith("_eager") and "side torch" in str(found.get("findings"))


def only(parts: Mapping[str, Any], beginning: str, field: str) -> list[dict[str, Any]]:
    """The findings with a field, of all parts whose name begins so; each names its part."""
    return [
        found | {"part": name}
        for name, part in parts.items()
        if name.startswith(beginning)
        for found in part.get("findings", ())
        if field in found
    ]


def failed(parts: Mapping[str, Any]) -> list[str]:
    """Names of the parts that did not end well or found no figure.

    Not those for which no time was left, a peer without PyTorch, or one that could not be compiled and was measured
    uncompiled; but if nothing at all was measured, all of them.
    """
    names, measured = [], False
    for name, part in parts.items():
        fields = {field for found in part.get("findings", ()) for field in found}
        measured |= bool(fields & FIGURES)
        well = "exit_code" not in part and not fields & {"error", "missing"} and fields & FIGURES
        excused = "left_out" in part or ("_torch" in name and "missing" in fields) or f"{name}_eager" in parts
        if not well and not excused:
            names.append(name)
    return names if measured else list(parts)


def summary(parts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of what was found, goal, and whether it was met, of those figures whose parts have results."""
    rows: list[dict[str, Any]] = []

    def row(what: str, found: float, goal: float | None = None, **besides: Any) -> None:
        met = {} if goal is None else {"goal": goal, "met": found >= goal}
        rows.append({"what": what, "found": rounded(found), **met, **besides})

    rate = next((found["matrix_rate_tflops"] for found in only(parts, "rates", "matrix_rate_tflops")), None)
    for model in CONFIGS:
        ours, peer = only(parts, f"{model}_ours", "pairs_per_second"), only(parts, f"{model}_torch", "pairs_per_second")
        best = {side: max(t, key=lambda x: x["pairs_per_second"]) for side, t in (("ours", ours), ("torch", peer)) if t}
        for side, trial in best.items():
            row(
                f"{model}: {side}, pairs per second",
                trial["pairs_per_second"],
                pairs=trial["pairs"],
                part=trial["part"],
            )
        if len(best) == 2:
            ratio = best["ours"]["pairs_per_second"] / best["torch"]["pairs_per_second"]
            row(f"{model}: pairs per second, ours over PyTorch's", ratio, SPEED_GOAL)
            largest = max(peer, key=lambda x: x["pairs"])
        if len(best) == 2 and any(end["ended"] == MEMORY_IS_FULL for end in only(parts, f"{model}_torch", "ended")):
            as_fast = [t for t in ours if t["pairs_per_second"] >= largest["pairs_per_second"]]
            most = max((t["pairs"] for t in as_fast), default=0)
            row(
                f"{model}: pairs that fit, ours (no slower) over PyTorch's",
                most / largest["pairs"],
                MEMORY_GOAL,
                ours=most,
                torch=largest["pairs"],
            )
        counted = only(parts, f"{model}_ours", "gigaflop_a_pair")
        if counted and rate:
            for side, trial in best.items():
                share = trial["pairs_per_second"] * counted[0]["gigaflop_a_pair"] / 1e3 / rate
                goal = SHARE_GOAL if (model, side) == ("r50", "ours") else None
                row(f"{model}: {side}, share of the card's matrix rate", share, goal)
    for turns in (found for model in CONFIGS for found in only(parts, f"{model}_turns", "turns_pairs_per_second")):
        name = turns["part"].replace("_turns_", ", texts per image ")
        for side, rate_of_side in turns["turns_pairs_per_second"].items():
            compiling = turns["first_call_seconds"][side]
            row(f"{name}: {side}, pairs per second", rate_of_side, pairs=turns["pairs"], first_call_seconds=compiling)
        row(f"{name}: pairs per second, ours over PyTorch's, in turns", 1 / turns["ratio"]["median"], SPEED_GOAL)
    for case in only(parts, "attention", "milliseconds"):
        times = case["milliseconds"]
        for way in times.keys() - {"ours"}:
            row(f"attention {case['attention']}: ours over {way}, time", times["ours"] / times[way])
    for case in only(parts, "lowerings", "milliseconds"):
        times = case["milliseconds"]
        best_way, plain = min(times, key=times.get), next(iter(times))
        row(f"{case['convolution']}, {case['channels']}: {best_way} over {plain}", times[plain] / times[best_way])
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows for people."""
    lines = []
    for row in rows:
        goal = f"goal {row['goal']:<5} {'met' if row['met'] else 'not met'}" if "goal" in row else ""
        lines.append(f"{row['what']:<60} {row['found']:>9}  {goal}".rstrip())
    return "\n".join(lines)


def main() -> None:
    """Entry point behind the flags."""
    if OUTPUT.value:
        new_file(OUTPUT.value, ".json")
    unknown = [part for part in _PARTS.value if not is_part(part)]
    if unknown:
        raise ConfigError(f"--parts: {unknown} is none; choose from {', '.join(SECONDS | TRIAL_SECONDS)}.")
    limit = TIME_LIMIT.value or _ALL_SECONDS
    end, found_card = time.monotonic() + limit, card()
    if not (TINY.value or found_card or any(DEVICES.glob("nvidia[0-9]*"))):
        raise ConfigError("There is no GPU here; run it on a machine with one, or give --tiny to try the program.")
    result: dict[str, Any] = {**found_card, "memory_gib": MEMORY_GIB.value, "xla_flags": _XLA_FLAGS.value, "parts": {}}
    if OUTPUT.value is None:
        print("no --output: results are only printed", file=sys.stderr)
    with tempfile.TemporaryDirectory() as cache:
        queue = list(_PARTS.value)
        while queue:
            part = queue.pop(0)
            left = end - time.monotonic()
            if left < _LEAST_SECONDS:
                result["parts"][part] = {"left_out": f"{max(left, 0):.0f} of {limit:.0f} seconds were left"}
            else:
                count = not only(result["parts"], f"{part.partition('_')[0]}_ours", "gigaflop_a_pair")
                found = measure_part(
                    part,
                    min((SECONDS | TRIAL_SECONDS).get(part, 100) + _SLACK, left - TO_LEAVE),
                    environment(part, result.get("card_gib"), cache),
                    count=count,
                )
                result["parts"][part] = found
                if is_peer_broken(part, found):
                    queue.insert(0, f"{part}_eager")
            print(f"{part}: {json.dumps(result['parts'][part])}", flush=True)
            result["summary"] = summary(result["parts"])
            if OUTPUT.value:
                write_atomically(Path(OUTPUT.value), json.dumps(result, indent=1) + "\n")
    print(table(result["summary"]))
    if names := failed(result["parts"]):
        print(f"failed or not measured: {', '.join(names)}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main, takes_config=False)
