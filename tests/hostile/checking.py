"""The tested property: damaged files are read, or refused with one clear sentence, without side effects."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.hostile.damage import damaged_bytes
from tests.hostile.guards import check_message, guarded
from tests.hostile.readers import Reader

QUICK = settings(
    derandomize=True,
    database=None,
    deadline=None,  # `guarded` detects a reader that hangs by its CPU time
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    phases=[Phase.generate],  # a failure prints its choices; shrinking may take minutes
)


@dataclasses.dataclass
class Case:
    """The valid input of a reader in a separate folder, which tests damage repeatedly."""

    reader: Reader
    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.reader.write(self.folder)
        self.files = {
            path: (path.read_bytes(), form)
            for pattern, form in self.reader.damaged.items()
            for path in sorted(self.folder.glob(pattern))
            if path.is_file()
        }
        assert self.files, "no file to damage"

    def outcome(self, contents: dict[Path, bytes]) -> str:
        """Read files with other contents: "" for success, otherwise the error message.

        Raises:
          AssertionError, or any exception that the reader must not raise.
        """
        before = set(self.folder.rglob("*"))
        old = {path: path.read_bytes() if path.exists() else None for path in contents}
        try:
            for path, content in contents.items():
                path.write_bytes(content)
            with guarded(self.folder):
                try:
                    self.reader.read(self.folder)
                    return ""
                except self.reader.errors as error:
                    raised = error
        finally:
            for path, content in old.items():
                path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
            for path in set(self.folder.rglob("*")) - before:
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        check_message(raised, (str(self.folder),) if self.reader.names_file else ())
        return str(raised)

    def property(self, structural: bool, **options: Any) -> Callable[[], None]:
        """A hypothesis test of this input, damaged in its structure or in its bytes."""

        @settings(QUICK, **options)
        @given(st.data())
        def holds(data: Any) -> None:
            paths = list(self.files)
            path = paths[data.draw(st.integers(0, len(paths) - 1), "file")]
            content, form = self.files[path]
            damaged = form(content, data.draw) if structural else damaged_bytes(content, data.draw)
            self.outcome({path: damaged})

        return holds
