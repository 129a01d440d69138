"""What is said where a run cannot write."""

import contextlib
from collections.abc import Iterator

from etils import epath

from pixelbert_jax.errors import ConfigError


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[None]:
    """A block that writes a file or in a folder.

    Raises:
      ConfigError: in place of any OSError of the block, so that a full disk is one sentence.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror or error}); make room or make it writable, then give the same "
            "command again: it goes on from the last checkpoint."
        ) from error
