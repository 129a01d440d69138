"""WebDataset tar files, as img2dataset writes them, read sequentially without unpacking.

The members of a sample are consecutive and have the same key, which is the name up to its first full stop (after the
last slash): `000012.jpg`, `000012.txt`, `000012.json`. `divide` describes the rule for names with more full stops.
"""

import collections
import dataclasses
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from data_pipelines.datasets.candidates import NOT_A_NUMBER, Candidate, NoText, clean_text, decode_text, fault_of
from data_pipelines.datasets.formats.tar_images import TarMember, open_tar, plain_members
from data_pipelines.datasets.layout import IMAGE_SUFFIXES
from data_pipelines.images.files import MAX_BYTES

_MAX_TEXT_BYTES = 1 << 20
_HASHES = ("sha256", "sha512", "md5")
_USED = IMAGE_SUFFIXES | {".txt", ".json"}
_TEXT_FIELDS = ("texts", "captions", "caption")
_DAMAGED: Mapping[str, Any] = {}
_MAX_KINDS = 50
_WITHOUT_IMAGE = "samples without an image"
_WITHOUT_KEY = "members whose names start with a full stop or have none"


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image with its texts and its other data.

    Attributes:
      path: path of the tar file.
      key: common part of the names of its members.
      location: path and name of the image, for messages.
      image: reads the image; None if there is none.
      about: content of its .json; empty if the .json is missing or damaged, because it is not essential.
      texts: published texts.
    """

    path: Path
    key: str
    location: str
    image: TarMember | None
    about: Mapping[str, Any]
    texts: Sequence[object]


def read_shards(
    split: str, paths: Sequence[Path], unused: collections.Counter[str] | None = None
) -> Iterator[Candidate]:
    """Candidates from the tar files of a split, in order.

    Samples without an image are no candidates. The image id is the hash in the .json of the sample, or otherwise the
    split, the shard and the key.

    Args:
      split: name of the split.
      paths: paths of the tar files.
      unused: as in `read_samples`; samples without an image count too.

    Raises:
      DataError: a file is not a tar file, or is truncated.
    """
    unused = collections.Counter() if unused is None else unused
    for sample in read_samples(paths, unused):
        if sample.image is None:
            unused[_WITHOUT_IMAGE] += 1
        else:
            digests = (clean_text(sample.about.get(name)) for name in _HASHES)
            digest = next((digest for digest in digests if digest), None)
            image_id = f"image_text/{digest or f'{split}/{sample.path.stem}/{sample.key}'}"
            yield Candidate(image_id, sample.texts, sample.image, sample.location, turn=True)


def read_samples(paths: Sequence[Path], unused: collections.Counter[str] | None = None) -> Iterator[Sample]:
    """Samples from tar files, in order; their images are not read.

    Members that are not regular files, or have unsafe names (absolute, or with ..), are skipped.

    Args:
      paths: paths of the tar files.
      unused: becomes the kind of members that are not part of a sample -> their number; complete at the end.

    Raises:
      DataError: a file is not a tar file, or is truncated.
    """
    unused = collections.Counter() if unused is None else unused
    unused.clear()
    for path in paths:
        with open_tar(path) as tar:
            for key, members in runs(tar, unused):
                for sample_key, its_members in divide(key, members, unused).items():
                    yield _sample(tar, path, sample_key, its_members)


def runs(tar: tarfile.TarFile, unused: collections.Counter[str]) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Key and members (rest of the name, with its full stop -> member) of each run of members with the same key."""
    current, members = "", {}
    for name, member in plain_members(tar, unused):
        stem, dot, rest = name.name.partition(".")
        if not stem or not dot:
            unused[_WITHOUT_KEY] += 1
            continue
        key = str(name.parent / stem)
        if key != current:
            if members:
                yield current, members
            current, members = key, {}
        inner, dot, suffix = f".{rest}".rpartition(".")
        rest = f"{inner}{dot}{suffix.lower()}"
        if rest in members:
            _count(unused, f"repeated {_last(rest)}")
        members[rest] = member
    if members:
        yield current, members


def divide(
    key: str, members: Mapping[str, tarfile.TarInfo], unused: collections.Counter[str]
) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Divide a run into samples: key -> used members by suffix.

    Usually a run is one sample, because the key ends at the first full stop. But if a run has several images, and all
    of them have further full stops in their names, each image is a sample, and the full stops are part of its name. The
    key of a sample is the name of its image up to the last full stop. Likewise 22.00.txt is not the text of 22.01.png.

    Args:
      key: key of the run.
      members: members of the run, as from `runs`.
      unused: counts the members that no sample uses.
    """
    images = [rest for rest in members if _last(rest) in IMAGE_SUFFIXES]
    whole = len(images) < 2 or any(rest in IMAGE_SUFFIXES for rest in images)
    name = ""
    if whole and images:  # another run with this key and another image may follow
        first = min(images, key=lambda rest: rest.count("."))
        name = first.removesuffix(_last(first))
        key += name
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    # .txt goes before .outputs.txt, and the name of the image before other names.
    for rest in sorted(members, key=lambda rest: (rest.count(".") > 1, rest.removesuffix(_last(rest)) != name)):
        suffix = _last(rest)
        its_key = key if whole else key + rest.removesuffix(suffix)
        taken = samples.get(its_key, {})
        is_second = suffix in taken or (suffix in IMAGE_SUFFIXES and not IMAGE_SUFFIXES.isdisjoint(taken))
        of_another = whole and len({int(n) for n in (name[1:], rest.removesuffix(suffix)[1:]) if _is_number(n)}) > 1
        if suffix in _USED and not is_second and not of_another:
            samples.setdefault(its_key, {})[suffix] = members[rest]
        else:
            _count(unused, rest if whole and not any(map(str.isdigit, rest)) else suffix)
    return samples


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 20


def _last(rest: str) -> str:
    """The last suffix, with its full stop."""
    return f".{rest.rpartition('.')[2]}"


def _count(unused: collections.Counter[str], what: str) -> None:
    unused[what if what in unused or len(unused) < _MAX_KINDS else "others"] += 1


def _sample(tar: tarfile.TarFile, path: Path, key: str, members: Mapping[str, tarfile.TarInfo]) -> Sample:
    found = next((member for suffix, member in members.items() if suffix in IMAGE_SUFFIXES), None)
    image = None if found is None else TarMember(path, found.offset_data, found.size)
    text = _read(tar, members.get(".txt"), _MAX_TEXT_BYTES)
    about = parse_about(_read(tar, members.get(".json"), MAX_BYTES))
    location = key if found is None else PurePosixPath(found.name)
    return Sample(path, key, f"{path}:{location}", image, about, texts_of(text, about))


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo | None, max_bytes: int) -> bytes | None:
    """Read a member; None if it does not exist or is too large."""
    if member is None or member.size > max_bytes:
        return None
    with tar.extractfile(member) as file:  # reads to memory; nothing is written to disk
        content = file.read()
    if len(content) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def parse_about(content: bytes | None) -> Mapping[str, Any]:
    """Parse the .json of a sample; empty if it is missing, and `_DAMAGED`, which is also empty, if it is damaged."""
    try:
        about = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return _DAMAGED
    return about if isinstance(about, Mapping) else _DAMAGED


def texts_of(text: bytes | None, about: Mapping[str, Any]) -> Sequence[object]:
    """The texts of a sample from its .txt, or otherwise from "texts", "captions" or "caption" of its .json.

    An unreadable text becomes a `NoText`. A .txt with "nan" is not a text if the .json has NaN, because the program
    that wrote them converted NaN to a string.
    """
    values = [about[name] for name in _TEXT_FIELDS if name in about]
    faults = [value for value in values if fault_of(value) and not isinstance(value, list)]
    if text is not None:
        decoded = decode_text(text)
        is_nan = faults and isinstance(decoded, str) and decoded.strip().lower() == "nan"
        return [NOT_A_NUMBER if is_nan else decoded]
    for value in values:
        if isinstance(value, (str, list)):
            return value if isinstance(value, list) else [value]
    if about is _DAMAGED:
        return [NoText("damaged .json")]
    return faults[:1]
