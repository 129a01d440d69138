"""Files with the regions of a detector, in the published formats; see docs/data.md."""

from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.regions.rows import RegionSource
from data_pipelines.storage.bucket_copy import local_copy
from data_pipelines.storage.paths import AnyPath, files_below, is_local

_FORMS = (
    "a .tsv file of bottom-up-attention, LXMERT or VinVL, a folder of them, a folder with an .npz file for each image, "
    "or an HDF5 file"
)
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def open_source(path: AnyPath) -> RegionSource:
    """Open a file or a folder of regions; its rows are not read yet.

    Raises:
      DataError: the path does not exist, or has none of the formats.
    """
    # Readers are imported here, so that each format needs only its own libraries.
    if path.is_dir():
        tables = sorted(file for pattern in ("*.tsv", "*.tsv.*") for file in path.glob(pattern) if file.is_file())
        has_archives = _has(path, ".npz")
        if tables and has_archives:
            raise DataError(f"--regions={path} has both .tsv and .npz files; move one of the kinds elsewhere.")
        if tables:
            return _tsv(path, tables)
        if has_archives:
            from data_pipelines.regions.npz_folder import NpzFolder

            return NpzFolder(path)
        lone = " .npy files hold no boxes; save each image's arrays as one .npz file." if _has(path, ".npy") else ""
        raise DataError(f"--regions={path} has no file of regions; give {_FORMS}.{lone}")
    if not path.is_file():
        raise DataError(f"--regions={path} is not there; give {_FORMS}.")
    with path.open("rb") as file:
        magic = file.read(len(_HDF5_MAGIC))
    if magic == _HDF5_MAGIC:
        from data_pipelines.regions.hdf5 import open_hdf5

        return open_hdf5(Path(local_copy(path)))
    if ".tsv" in path.suffixes:
        return _tsv(path, [path])
    raise DataError(f"--regions={path} is in no known form, or damaged; give {_FORMS}.")


def _tsv(path: AnyPath, files: list[AnyPath]) -> RegionSource:
    from data_pipelines.regions.tsv import TsvFiles

    return TsvFiles(path, [Path(local_copy(file)) for file in files])


def _has(path: AnyPath, suffix: str) -> bool:
    """Whether there are such files in a folder or below it."""
    return bool(files_below(path, suffix) if not is_local(path) else next(path.rglob(f"*{suffix}"), None))
