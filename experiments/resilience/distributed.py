"""The processes of one run: on one machine, on a TPU slice, under Slurm, Open MPI or Kubernetes.

JAX finds the processes where it knows the cluster; elsewhere three flags name them. Nothing of JAX may be used before
`start`.
"""

import contextlib
import importlib.util
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from absl import flags

from data_pipelines.errors import DataError
from experiments.resilience.worker_signals import kill_workers
from pixelbert_jax.errors import ConfigError, in_short

_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "host:port of process 0 of a run of several; not needed where JAX knows the cluster."
)
_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes the run has; 1: this one alone, even on a cluster.", 1
)
_PROCESS = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", 0)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_timeout", 100, "Seconds without a sign of life after which a process counts as dead.", 5
)
_CONNECT = flags.DEFINE_integer("connect_timeout", 300, "Seconds to wait for all processes to start.", 1)

_OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
_OPEN_MPI_URI = "OMPI_MCA_orte_hnp_uri"  # what JAX looks for; Open MPI 5 no longer has it
# Orbax's other barriers are collectives of the devices, which must not meet those of a step in another order.
_ORBAX_BARRIER = "experimental_orbax_use_distributed_barrier"
GO_ON = "once all its processes have ended, the same command goes on from the last checkpoint"


def start() -> None:
    """Join the other processes of the run, if there are any. This process ends if the others do not start in time.

    Raises:
      ConfigError: a flag is missing, or the cluster does not give enough information.
    """
    if _PROCESSES.value == 1:
        return
    found = _arguments()
    if found is None:
        return
    patience = threading.Timer(_CONNECT.value, _give_up)
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            **found,
            heartbeat_timeout_seconds=_HEARTBEAT.value,
            initialization_timeout=_CONNECT.value + 60,  # JAX itself would end with a stack trace, not with a reason
        )
    except (ValueError, RuntimeError) as error:
        if found or "coordinator_address should be defined" not in str(error):
            raise ConfigError(
                f"The processes of the run cannot be joined ({in_short(error, 300)}); give --coordinator_address, "
                "--num_processes and --process_id, or --num_processes=1 to run this one alone."
            ) from error
        # No flag, and JAX knows of no cluster: one process.
    else:
        if _ORBAX_BARRIER in flags.FLAGS:
            flags.FLAGS[_ORBAX_BARRIER].value = True
    finally:
        patience.cancel()


def is_first() -> bool:
    """Whether this process writes what is written once: logs, metrics, files for people."""
    return index() == 0


def index() -> int:
    """Which process of the run this is."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def are_many() -> bool:
    """Whether the run has several processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def refuse_many(program: str) -> None:
    """Refuse the flags of this file in a program that works alone.

    Raises:
      ConfigError: one of them is given.
    """
    if _PROCESSES.value != 1 and any(flag.value is not None for flag in (_COORDINATOR, _PROCESSES, _PROCESS)):
        raise ConfigError(
            f"{program} works in one process; leave out --coordinator_address, --num_processes and --process_id."
        )


def fail(error: Exception) -> NoReturn:
    """End one process of several with a last line that says why."""
    if isinstance(error, ConfigError | DataError):
        last = f"error: {error}"
    else:
        traceback.print_exception(error)
        last = (
            f"error: process {jax.process_index()} of {jax.process_count()} failed ({in_short(error, 300)}), by itself "
            f"or because another one ended or froze; the logs of the others say which; {GO_ON}."
        )
    end(last)


@contextlib.contextmanager
def failing_at_once() -> Iterator[None]:
    """A block whose errors call `fail` at once if the process is one of several, because the usual clean-up waits."""
    try:
        yield
    except Exception as error:
        if are_many():
            fail(error)
        raise


def end(last: str) -> NoReturn:
    """Print a last line and end this process with exit code 1; the others notice it and stop too.

    The usual exit waits for processes that may have ended. Process 0 runs the service that all others need, so it ends
    last.
    """
    sys.stdout.flush()
    print(last, file=sys.stderr, flush=True)
    kill_workers()
    if is_first():
        time.sleep(3)
    os._exit(1)


def _give_up() -> None:
    print(
        f"error: the processes of the run did not meet within --connect_timeout={_CONNECT.value} s; start all of them "
        "with the same --coordinator_address, or this one alone with --num_processes=1.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _arguments() -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize`; empty: it queries the cluster; None: this process is alone.

    Raises:
      ConfigError: a flag is missing, or the cluster does not give enough information.
    """
    address, processes, process = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    given: dict[str, Any] = {}
    in_open_mpi = all(name in os.environ for name in _OPEN_MPI) and _OPEN_MPI_URI not in os.environ
    if in_open_mpi and processes is None and process is None:
        size, rank, local = (int(os.environ[name]) for name in _OPEN_MPI)
        if size > 1 or address is not None:
            processes, process = size, rank
            given["local_device_ids"] = [local]
    flags_given = {"coordinator_address": address, "num_processes": processes, "process_id": process}
    missing = [f"--{name}" for name, value in flags_given.items() if value is None]
    if len(missing) == len(flags_given):
        return _in_kubernetes()
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} missing: the cluster does not report it; give --coordinator_address=HOST:PORT of "
            "process 0, --num_processes and --process_id together."
        )
    if ":" not in address or process >= processes:
        raise ConfigError(
            f"--coordinator_address={address} --num_processes={processes} --process_id={process}: the address must be "
            "HOST:PORT and the process one of 0 to num_processes - 1."
        )
    return {**given, **flags_given, "cluster_detection_method": "deactivate"}


def _in_kubernetes() -> dict[str, Any] | None:
    """A pod that is not part of an indexed job is alone, whatever else runs in the cluster; JAX would fail there.

    Raises:
      ConfigError: it is part of one, and the package that finds the others is missing.
    """
    if "KUBERNETES_SERVICE_HOST" not in os.environ or any(name.startswith("TPU_") for name in os.environ):
        return {}
    if "JOB_COMPLETION_INDEX" not in os.environ:
        return None
    if importlib.util.find_spec("kubernetes") is None:
        raise ConfigError(
            "This pod is one of an indexed Job, but the package that finds the others is missing; pip install "
            "'jax[k8s]', or give --num_processes=1 to run alone."
        )
    return {}
