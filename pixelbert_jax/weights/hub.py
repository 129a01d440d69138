"""Files of a Hugging Face repository; a hub that cannot be reached is reported within seconds.

`data_pipelines` and `pixelbert_jax` do not import each other: both have this file, word for word.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

PATIENCE = 4.0  # seconds for the hub's first answer; the library alone tries for most of a minute


def snapshot(name: str, patterns: Sequence[str]) -> Path:
    """A local folder with those files of a repository, downloaded once; without the hub, those of an earlier download.

    Raises:
      Exception: of several libraries, by the hub's version and what failed.
    """
    import huggingface_hub

    failures: list[Exception] = []

    def ask() -> None:
        try:
            huggingface_hub.HfApi().model_info(name, timeout=PATIENCE)
        except Exception as error:  # of several libraries
            failures.append(error)

    # A thread: looking up the hub's address takes as long as the system likes.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    if asking.is_alive():
        failures.append(TimeoutError(f"the hub does not answer within {PATIENCE:g} s"))
    if not failures:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(patterns)))
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(patterns), local_files_only=True))
    except Exception:
        raise failures[0] from None
