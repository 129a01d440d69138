"""Files of a Hugging Face repository; a hub that cannot be reached is reported within seconds.

`data_pipelines` and `pixelbert_jax` do not import each other: both have this file, word for word.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PATIENCE = 4.0  # seconds for the hub's first answer; the library alone tries for most of a minute


def snapshot(name: str, patterns: Sequence[str], **which: Any) -> Path:
    """A local folder with those files of a repository, downloaded once; without the hub, those of an earlier download.

    Args:
      name: name of the repository.
      patterns: patterns of the files.
      which: `repo_type` and `revision`, as in the library; a model and its newest revision if missing.

    Raises:
      Exception: of several libraries, by the hub's version and what failed.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi()  # imports most of the library, which may take seconds
    failures: list[Exception] = []

    def ask() -> None:
        try:
            api.repo_info(name, timeout=PATIENCE, **which)
        except Exception as error:  # of several libraries
            failures.append(error)

    # A thread: looking up the hub's address takes as long as the system likes.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    if asking.is_alive():
        failures.append(TimeoutError(f"the hub does not answer within {PATIENCE:g} s"))
    if not failures:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(patterns), **which))
    try:
        local = huggingface_hub.snapshot_download(name, allow_patterns=list(patterns), local_files_only=True, **which)
        return Path(local)
    except Exception:
        raise failures[0] from None
