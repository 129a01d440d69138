"""How a process finds the others: by flags, by the cluster, or not at all."""

import pytest
from absl.testing import flagsaver

from experiments.resilience import distributed
from pixelbert_jax.errors import ConfigError

CLUSTERS = ("KUBERNETES_", "JOB_COMPLETION_INDEX", "OMPI_", "SLURM_", "TPU_", "JAX_COORDINATOR")


@pytest.fixture
def initialized(monkeypatch):
    """What jax.distributed.initialize is called with; outside of any cluster."""
    import os

    for name in list(os.environ):
        if name.startswith(CLUSTERS):
            monkeypatch.delenv(name)
    calls = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **arguments: calls.append(arguments))
    return calls


def start(**values):
    named = {"coordinator_address": None, "num_processes": None, "process_id": None} | values
    with flagsaver.flagsaver(**named):
        distributed.start()


def test_flags_are_enough(initialized):
    start(coordinator_address="host:1234", num_processes=4, process_id=3, heartbeat_timeout=20, connect_timeout=7)
    assert initialized == [
        {
            "coordinator_address": "host:1234",
            "num_processes": 4,
            "process_id": 3,
            "cluster_detection_method": "deactivate",
            "heartbeat_timeout_seconds": 20,
            "initialization_timeout": 67,
        }
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"coordinator_address": "host:1", "process_id": 0}, "--num_processes missing"),
        ({"num_processes": 2, "process_id": 0}, "--coordinator_address missing"),
        ({"coordinator_address": "host", "num_processes": 2, "process_id": 0}, "must be HOST:PORT"),
        ({"coordinator_address": "host:1", "num_processes": 2, "process_id": 2}, "one of 0 to num_processes - 1"),
    ],
)
def test_flags_that_are_not_enough(initialized, flags, message):
    with pytest.raises(ConfigError, match=message):
        start(**flags)
    assert not initialized


def test_one_process_joins_no_other(initialized, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    start(num_processes=1)
    assert not initialized


def test_the_cluster_is_queried_and_may_know_nothing(initialized, monkeypatch):
    start()
    assert initialized == [{"heartbeat_timeout_seconds": 100, "initialization_timeout": 360}]

    def nothing(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", nothing)
    start()
    with pytest.raises(ConfigError, match=r"cannot be joined \(coordinator_address"):
        start(coordinator_address="host:1", num_processes=2, process_id=1)

    def refuse(**_):
        raise RuntimeError("pods need a\nheadless service")

    monkeypatch.setattr("jax.distributed.initialize", refuse)
    with pytest.raises(ConfigError, match=r"cannot be joined \(pods need a headless service\); give --coordinator"):
        start()


def test_slurm_needs_no_flags(monkeypatch):
    """JAX's own reading of Slurm's variables, as `srun` sets them."""
    from jax._src.clusters import ClusterEnv

    for name, value in {
        "SLURM_JOB_ID": "4097",
        "SLURM_STEP_NODELIST": "node[001-004]",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 1)
    assert found == ("node001:61441", 4, 2, [0])


def test_open_mpi_5_gives_all_but_the_address(initialized, monkeypatch):
    for name, value in zip(distributed._OPEN_MPI, ("8", "5", "1"), strict=True):
        monkeypatch.setenv(name, value)
    start(coordinator_address="host:1234")
    (call,) = initialized
    assert (call["num_processes"], call["process_id"], call["local_device_ids"]) == (8, 5, [1])
    with pytest.raises(ConfigError, match="--coordinator_address missing"):
        start()
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    start()  # mpirun -np 1
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1:34911")  # Open MPI 4: JAX knows it
    start()
    assert [set(call) for call in initialized[1:]] == [{"heartbeat_timeout_seconds", "initialization_timeout"}] * 2


def test_a_pod_is_alone_unless_it_belongs_to_an_indexed_job(initialized, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    start()
    assert not initialized
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'jax\[k8s\]'"):
        start()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    start()
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    start()
    assert len(initialized) == 2


def test_programs_of_one_process_refuse_the_flags():
    with flagsaver.flagsaver(process_id=1), pytest.raises(ConfigError, match="export works in one process"):
        distributed.refuse_many("export")
    with flagsaver.flagsaver(num_processes=1):
        distributed.refuse_many("export")
