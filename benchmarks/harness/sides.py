"""Sides of a comparison, each a process of its own (of any Python), that take turns.

The sides share neither threads nor memory, and each has the packages that suit it best.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from absl import flags

from benchmarks.harness.measuring import rounded
from pixelbert_jax.errors import ConfigError

PEER_PYTHON = flags.DEFINE_string("peer_python", sys.executable, "The Python of the peer's process.")
SIDE = flags.DEFINE_enum("side", None, ["ours", "torch"], "Be one side; the benchmark starts both in this way.")

_LINE = "side: "  # begins what a side says to the program that started it


def serve(step: Callable[[], Any], about: Mapping[str, Any], requests: IO[str] = sys.stdin) -> None:
    """Be a side: call `step` once for each line of `requests`, and print the seconds.

    Args:
      step: does what is timed and returns when it is done. Two calls before the first request do not count.
      about: what to say of this side.
      requests: ends when the comparison does.
    """
    first, _ = seconds_of(step), step()
    _say({**about, "first_call_seconds": rounded(first)})
    for _ in requests:
        _say({"seconds": seconds_of(step)})


def seconds_of(step: Callable[[], Any]) -> float:
    """Of one call."""
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def _say(message: Mapping[str, Any]) -> None:
    print(f"{_LINE}{json.dumps(message)}", flush=True)


def commands_of(module: str, options: Sequence[str]) -> dict[str, list[str]]:
    """The commands of both sides of a benchmark that has the flags above."""
    pythons = {"ours": sys.executable, "torch": PEER_PYTHON.value}
    return {side: [python, "-m", module, *options, f"--side={side}"] for side, python in pythons.items()}


def alternate(
    commands: Mapping[str, Sequence[str]],
    turns: int,
    environments: Mapping[str, Mapping[str, str]] | None = None,
    *,
    together: bool = False,
) -> tuple[dict[str, dict[str, Any]], dict[str, list[float]]]:
    """Start all sides, one after the other, then let them take turns.

    Args:
      commands: of each side, a program that calls `serve`.
      turns: of each side.
      environments: variables of a side besides this process's.
      together: start them at the same time, where there are cores for all that they compile.

    Returns:
      What each side says of itself, and its seconds in each turn.

    Raises:
      ConfigError: a side ended before its time; its own message is on standard error.
    """
    with contextlib.ExitStack() as stack:
        sides, about = {}, {}
        for name, command in commands.items():
            sides[name] = stack.enter_context(_started(command, (environments or {}).get(name, {})))
            if not together:
                about[name] = _heard(name, sides[name])
        for name in sides.keys() - about.keys():
            about[name] = _heard(name, sides[name])
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(turns):
            for name, side in sides.items():
                side.stdin.write("\n")
                side.stdin.flush()
                seconds[name].append(_heard(name, side)["seconds"])
        return about, seconds


@contextlib.contextmanager
def _started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        yield process
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _heard(name: str, side: subprocess.Popen) -> dict[str, Any]:
    for line in side.stdout:
        if line.startswith(_LINE):
            return json.loads(line.removeprefix(_LINE))
    raise ConfigError(f"The side {name} ended with exit code {side.wait()}; its message stands above.")
