"""Parquet files of a data set on the Hugging Face hub, downloaded into the hub's own cache."""

import re
from pathlib import Path

from data_pipelines.errors import DataError, in_short
from data_pipelines.hub import snapshot

_PREFIX = "hf://"
_ADDRESS = re.compile(
    r"hf://datasets/(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/convert/\w+|refs/pr/\d+|[\w.-]+))?(?P<path>(?:/[^/]+)*)/?"
)


def is_on_hub(source_dir: object) -> bool:
    """Whether a source folder is an address of the hub."""
    return isinstance(source_dir, str) and source_dir.startswith(_PREFIX)


def download(address: str) -> tuple[Path, dict[str, str]]:
    """Download the Parquet files of a data set, or take them from the cache; an interrupted download continues.

    Args:
      address: hf://datasets/OWNER/NAME, and possibly @REVISION and /FOLDER.

    Returns:
      Their folder; and the address, with the revision that was found.

    Raises:
      DataError: the address has another form, or the hub has no such data set or no Parquet files in it.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or ".." in found["path"].split("/"):
        raise DataError(
            f"--source_dir={address} is not hf://datasets/OWNER/NAME, with @REVISION or /FOLDER after it if wanted; "
            "correct it."
        )
    which = {"repo_type": "dataset"} | ({"revision": found["revision"]} if found["revision"] else {})
    below = found["path"].strip("/")
    try:
        folder = snapshot(found["name"], [f"{below}/*.parquet" if below else "*.parquet"], **which)
    except Exception as error:  # of several libraries
        raise DataError(
            f"--source_dir={address} cannot be downloaded ({in_short(error)}); run the same command again, which "
            "continues, or check the name and your access."
        ) from error
    source = folder / below
    if next(source.rglob("*.parquet"), None) is None:
        raise DataError(
            f"--source_dir={address} has no Parquet files; for those that the hub made itself, give "
            f"--source_dir={_PREFIX}datasets/{found['name']}@refs/convert/parquet."
        )
    return source, {"source": address, "revision": folder.name}
