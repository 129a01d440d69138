"""Fuzz the files of one reader, guided by the coverage of the project's code.

    python -m tests.hostile.fuzz --reader=webdataset --seconds=60

needs atheris (`make fuzz` installs it). A failure is printed with the damage; add it to the tests as an example after
the fix. Without --reader, all readers are fuzzed in turn.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

_PACKAGES = ["data_pipelines", "pixelbert_jax", "experiments"]


def main() -> None:
    """Fuzz one reader, or start this program once for each."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--reader", default="", help="a name in tests/hostile/readers.py; none: all")
    arguments.add_argument("--seconds", type=int, default=60, help="for each reader")
    arguments.add_argument("--bytes", action="store_true", help="damage bytes, not what a format means")
    given = arguments.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit(
            "error: atheris is not installed; use `make fuzz`, or `pip install atheris` in an environment of its own."
        )
    if given.reader:
        _fuzz(atheris, given.reader, given.seconds, structural=not given.bytes)
        return
    from tests.hostile.readers import READERS

    failed = []
    for name in READERS:
        command = [sys.executable, "-m", "tests.hostile.fuzz", f"--reader={name}", f"--seconds={given.seconds}"]
        print(f"--- {name}", flush=True)
        failed += [name] if subprocess.run(command + ["--bytes"] * given.bytes).returncode else []
    sys.exit(f"error: failed: {', '.join(failed)}" if failed else 0)


def _fuzz(atheris, reader: str, seconds: int, *, structural: bool) -> None:
    with atheris.instrument_imports(include=_PACKAGES, enable_loader_override=False):
        import tests.conftest  # noqa: F401  sets up JAX, as for all tests
        from tests.hostile.checking import Case
        from tests.hostile.readers import READERS
    if reader not in READERS:
        sys.exit(f"error: --reader={reader} is none of {', '.join(READERS)}.")
    with tempfile.TemporaryDirectory() as folder:
        case = Case(READERS[reader], Path(folder))
        with atheris.instrument_imports(include=_PACKAGES, enable_loader_override=False):
            case.outcome({})  # imports the modules that the reader imports late
        fuzz_one_input = case.property(structural).hypothesis.fuzz_one_input

        def one_input(content: bytes) -> None:
            fuzz_one_input(content)

        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for seed in range(20):
            (corpus / str(seed)).write_bytes(random.Random(seed).randbytes(512))
        # libFuzzer ends the process itself.
        limits = [f"-max_total_time={seconds}", "-max_len=1024", "-len_control=0", "-timeout=60", "-rss_limit_mb=8000"]
        atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={tempfile.gettempdir()}/", str(corpus)], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
