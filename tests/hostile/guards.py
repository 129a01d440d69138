"""Checks for readers of untrusted files: forbidden side effects, and the form of error messages.

Python calls an audit hook for every opened file, every started process and every class in a pickle. The hook stays
installed as long as the process runs, and is active only within `guarded`.
"""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

PROCESSOR_SECONDS = 20  # CPU time for a small file
SECONDS = 300  # elapsed time, even on a busy machine; only a reader that waits forever takes so long
MEMORY = 3 << 30  # bytes; much more than a reader needs, because threads reserve address space
MAX_CHARACTERS = 1500  # of an error message

_CHANGES = frozenset(
    f"os.{name}" for name in ("mkdir", "rename", "remove", "rmdir", "symlink", "link", "truncate", "chmod", "chown")
)
_RELATIVE = frozenset(("os.mkdir", "os.remove", "os.rmdir"))
_STARTS = ("system", "exec", "spawn", "posix_spawn", "fork", "forkpty")
_NEVER = frozenset(("pickle.find_class", "subprocess.Popen", "socket.connect", "socket.getaddrinfo"))
_NEVER |= {f"os.{name}" for name in _STARTS}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_HARMLESS = ("/dev/", "/proc/")

_found: list[str] | None = None  # None: not active


class HangError(BaseException):
    """A reader takes too long; `except Exception` does not catch this."""


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _found is None:
        return
    if event == "open":
        path, _, flags = arguments
        if not isinstance(path, int) and isinstance(flags, int) and flags & _WRITING:
            _note_write(os.fsdecode(path))
    elif event in _CHANGES:
        path = os.fsdecode(arguments[0]) if not isinstance(arguments[0], int) else ""
        # A path relative to an open folder; the check was at the opening of the folder.
        if path.startswith(os.sep) or arguments[-1] in (-1, None) or event not in _RELATIVE:
            _note_write(path)
    elif event in _NEVER:
        _found.append(f"{event} {arguments!r:.200}")


def _note_write(path: str) -> None:
    # The first import of a module writes its compiled form.
    if "__pycache__" not in path and not path.startswith(_HARMLESS):
        _found.append(f"write {os.path.realpath(path)}")


sys.addaudithook(_listen)


@contextlib.contextmanager
def guarded(allowed: Path | None = None, memory: int = MEMORY) -> Iterator[None]:
    """Check the side effects of the block.

    Args:
      allowed: folder in which files may be written; None: none.
      memory: bytes of additional address space that the block may request.

    Raises:
      AssertionError: the block wrote a file elsewhere, started a process, resolved a pickle or contacted a host.
      HangError: the block takes too long.
      MemoryError: the block requests too much memory.
    """
    global _found
    inside = f"write {os.path.realpath(allowed)}{os.sep}" if allowed is not None else None
    before = _found
    _found = []
    try:
        with _within_time(), _within_memory(memory):
            yield
    finally:
        found, _found = _found, before
    bad = [what for what in found if inside is None or not what.startswith(inside)]
    assert not bad, f"a reader did what it must not: {bad[:5]}"


@contextlib.contextmanager
def _within_time() -> Iterator[None]:
    limits = {
        signal.SIGPROF: (signal.ITIMER_PROF, PROCESSOR_SECONDS, "of computing"),
        signal.SIGALRM: (signal.ITIMER_REAL, SECONDS, "in all"),
    }

    def stop(number: int, frame: FrameType | None) -> None:
        _, seconds, kind = limits[signal.Signals(number)]
        raise HangError(f"more than {seconds} s {kind}, in {frame}")

    old = {number: signal.signal(number, stop) for number in limits}
    try:
        for timer, seconds, _ in limits.values():
            signal.setitimer(timer, seconds, 1)  # repeatedly, because a callback may suppress the exception
        yield
    finally:
        for timer, *_ in limits.values():
            signal.setitimer(timer, 0)
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _within_memory(limit: int) -> Iterator[None]:
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def check_message(error: BaseException, paths: tuple[str, ...]) -> None:
    """Assert that an error is one sentence that names one of `paths` (files and folders; empty: no check)."""
    text = str(error)
    assert text.endswith((".", "?")), f"no sentence: {text!r}"
    assert len(text.splitlines()) == 1, f"several lines: {text!r}"
    assert not any(ord(character) < 32 for character in text), f"control characters: {text!r}"
    assert len(text) <= MAX_CHARACTERS, f"{len(text)} characters: {text[:300]!r}"
    assert not paths or any(path in text for path in paths), f"names no file: {text!r}"
