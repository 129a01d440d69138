"""Runs of several real processes on this machine; all are gone when a test ends, whatever happens."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.fast_compiles import FLAGS

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("small_config.py")


@dataclasses.dataclass
class Run:
    """The processes of one run and their logs."""

    processes: list[subprocess.Popen]
    logs: list[Path]

    def wait(self, seconds: float = 240) -> list[int]:
        """Exit codes of all processes; an AssertionError with their logs if one does not end."""
        end = time.monotonic() + seconds
        try:
            return [process.wait(max(0.1, end - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired:
            for process in self.processes:
                process.send_signal(signal.SIGUSR1)
            time.sleep(1)
            raise AssertionError(f"still running after {seconds} s:\n{self.everything()}") from None

    def succeed(self, seconds: float = 240) -> None:
        """Wait for all; an AssertionError with the logs unless all exit with 0."""
        codes = self.wait(seconds)
        assert not any(codes), f"{codes}\n{self.everything()}"

    def text(self, process: int) -> str:
        """The output of a process so far."""
        return self.logs[process].read_text(errors="replace")

    def everything(self) -> str:
        """The logs of all."""
        return "\n".join(f"--- process {i}\n{self.text(i)}" for i in range(len(self.logs)))

    def until(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        """Wait until the condition is true, while all processes live."""
        end = time.monotonic() + seconds
        while not condition():
            dead = [i for i, process in enumerate(self.processes) if process.poll() is not None]
            assert not dead and time.monotonic() < end, f"ended: {dead}\n{self.everything()}"
            time.sleep(0.02)


def gate(workdir: Path) -> Path:
    """The file that a run makes when it comes to the step GATE_AT; it goes on when the file is removed."""
    return workdir.with_name(f"{workdir.name}.gate")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(devices: int, **more: str) -> dict[str, str]:
    """The environment of a process with that many CPU devices; programs are compiled without optimising."""
    flags = FLAGS | {"--xla_force_host_platform_device_count": devices}
    own = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(f"{name}={value}" for name, value in flags.items()),
        "PYTHONPATH": str(ROOT),
    }
    return {**os.environ, **own, **more}


def program(module: str, workdir: Path, data_dir: Path, *overrides: str, config: Path = CONFIG) -> list[str]:
    """A command line that trains in `workdir`."""
    start = [sys.executable, "-m", module, f"--config={config}", f"--workdir={workdir}"]
    return [*start, f"--config.data.data_dir={data_dir}", *overrides]


@contextlib.contextmanager
def launched(
    command: Sequence[str],
    logs: Path,
    *,
    processes: int = 1,
    devices: int = 1,
    heartbeat: int = 60,
    environments: Sequence[dict[str, str]] = ({},),
) -> Iterator[Run]:
    """Start a command as several processes; none is left after the block.

    Args:
      command: what to run.
      logs: folder for what they print.
      processes: how many; a single one gets none of our flags.
      devices: of each process.
      heartbeat: seconds after which a silent process counts as dead.
      environments: what each process's environment has besides; the last one is for all others too.
    """
    address = f"127.0.0.1:{free_port()}"
    logs.mkdir(parents=True, exist_ok=True)
    started: list[subprocess.Popen] = []
    files = [logs / f"{len(list(logs.iterdir()))}-{i}.log" for i in range(processes)]
    try:
        for number, file in enumerate(files):
            several = [
                f"--coordinator_address={address}",
                f"--num_processes={processes}",
                f"--process_id={number}",
                f"--heartbeat_timeout={heartbeat}",
            ]
            with file.open("w") as log:
                more = environments[min(number, len(environments) - 1)]
                started.append(
                    subprocess.Popen(
                        [*command, *(several if processes > 1 else [])],
                        env=environment(devices, **more),
                        cwd=ROOT,
                        stdout=log,
                        stderr=log,
                    )
                )
        yield Run(started, files)
    finally:
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
