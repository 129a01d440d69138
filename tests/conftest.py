"""What every test runs with: eight CPU devices, strict broadcasting, parsed absl flags.

JAX and gcsfs read the environment when they are imported, so this comes first.
"""

import os

from tests.fast_compiles import FLAGS

_XLA_FLAGS = {"--xla_force_host_platform_device_count": 8, **FLAGS}
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # it would ask Google for credentials at each request
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        *(f"{k}={v}" for k, v in _XLA_FLAGS.items() if k not in os.environ.get("XLA_FLAGS", "")),
    ]
).strip()

from pathlib import Path  # noqa: E402

import hypothesis  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

flags.FLAGS.mark_as_parsed()
hypothesis.settings.register_profile("any machine", deadline=None)  # else an example may take 0.2 s, busy or not
hypothesis.settings.load_profile("any machine")
pytest_plugins = ["tests.multi_process.fixtures"]  # what tests/multi_process and tests/faults share


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small prepared data set, drawn scenes: 48 to train on, 13 held out."""
    from data_pipelines.preparation.run import prepare

    folder = tmp_path_factory.mktemp("prepared")
    prepare(
        "shapes",
        folder,
        options={"num_train": 48, "num_validation": 13, "num_test": 0},
        num_threads=2,
    )
    return folder


@pytest.fixture(scope="session")
def saved_run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A run's folder with a checkpoint of a small, untrained model; not to be changed."""
    from tests.saved_run import save_run

    return save_run(tmp_path_factory.mktemp("runs") / "tiny", data_dir)
