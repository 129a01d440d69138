"""Tar files without unpacking: sequential access to the members, and random access to the images."""

import collections
import contextlib
import dataclasses
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_pipelines.datasets.layout import IMAGE_SUFFIXES
from data_pipelines.errors import DataError, in_short
from data_pipelines.images.files import MAX_BYTES, BadImageError
from data_pipelines.storage.paths import read_range

UNSAFE = "links or members with unsafe names"
_MAX_EXTENSION_BYTES = 1 << 20  # of an extension header for the next member, such as a long name
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, *tarfile.GNU_TYPES[:2])
# Exceptions of tarfile for damaged files.
_DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError, IndexError, RecursionError)


class _CheckedInfo(tarfile.TarInfo):
    """Rejects headers with which tarfile would loop forever or read a huge extension header."""

    def _proc_member(self, file: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0:
            raise tarfile.ReadError("a member of negative size")
        if self.type in _EXTENSIONS and self.size > _MAX_EXTENSION_BYTES:
            raise tarfile.ReadError("a header over 1 MiB")
        return super()._proc_member(file)


@contextlib.contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open an uncompressed tar file for reading.

    Raises:
      DataError: the file is not a tar file, is damaged, or cannot be read; also for such errors in the block.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:", tarinfo=_CheckedInfo) as tar:
            yield tar
    except _DAMAGE as error:
        reason = in_short(error)
        raise DataError(f"{path} is not a whole tar file ({reason}); download it again or remove it.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the file.") from error


def plain_members(
    tar: tarfile.TarFile, unused: collections.Counter[str] | None = None
) -> Iterator[tuple[PurePosixPath, tarfile.TarInfo]]:
    """Name and member of each regular, contiguous file with a safe name; other members are skipped.

    Args:
      tar: the tar file.
      unused: counts the skipped members, except folders.

    Raises:
      tarfile.ReadError: the file is damaged, or truncated between two members.
    """
    end = 0
    for member in tar:
        tar.members = []  # tarfile would keep all members in memory
        if tar.offset <= end:
            raise tarfile.ReadError("members that do not follow each other")
        end = tar.offset
        name = PurePosixPath(member.name)
        if member.isreg() and not member.issparse() and not name.is_absolute() and ".." not in name.parts:
            yield name, member
        elif unused is not None and not member.isdir():
            unused[UNSAFE] += 1
    # For tarfile, a damaged header and a truncation between two members look like the end.
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end-of-archive block")


@dataclasses.dataclass(frozen=True)
class TarMember:
    """`Candidate.read` for a member of an uncompressed tar file."""

    path: Path
    offset: int
    size: int

    def __call__(self) -> bytes:
        if self.size > MAX_BYTES:
            raise BadImageError(f"file over {MAX_BYTES >> 20} MiB")
        return read_range(self.path, self.offset, self.size)


def list_tar_images(path: Path) -> dict[str, TarMember]:
    """File name without folders -> image, for all images of a tar file; the first image with a name has priority.

    Raises:
      DataError: the file is not an uncompressed tar file, or is truncated.
    """
    found: dict[str, TarMember] = {}
    with open_tar(path) as tar:
        for name, member in plain_members(tar):
            if name.suffix.lower() in IMAGE_SUFFIXES:
                found.setdefault(name.name, TarMember(path, member.offset_data, member.size))
    return found
