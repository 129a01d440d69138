"""What every test runs with: eight CPU devices, strict broadcasting, parsed absl flags.

JAX reads the environment when it is imported, so this comes first.
"""

import os

_XLA_FLAGS = {
    "--xla_force_host_platform_device_count": 8,
    "--xla_backend_optimization_level": 0,  # compiling is most of the time of the tests: these
    "--xla_cpu_use_fusion_emitters": "false",  # two make it seven times faster
}
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        *(f"{k}={v}" for k, v in _XLA_FLAGS.items() if k not in os.environ.get("XLA_FLAGS", "")),
    ]
).strip()

from absl import flags  # noqa: E402

flags.FLAGS.mark_as_parsed()
