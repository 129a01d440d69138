"""The error message of a run that cannot write."""

import contextlib
from collections.abc import Iterator

from etils import epath

from data_pipelines.storage.bucket_errors import as_os_errors, reason
from pixelbert_jax.errors import ConfigError


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[None]:
    """A block that writes a file, or files in a folder.

    Raises:
      ConfigError: instead of any OSError or error of a bucket, so that a full disk is reported in one sentence.
    """
    try:
        with as_os_errors():
            yield
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({reason(error)}); make room or make it writable, then give the same command "
            "again: it goes on from the last checkpoint."
        ) from error
