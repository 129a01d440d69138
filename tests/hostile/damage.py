"""Damage to valid files: to their structure, depending on the format, and to their bytes.

Every choice is drawn from hypothesis, so that a test, a long run and coverage-guided fuzzing use the same damage.
"""

import copy
import gzip
import io
import json
import re
import struct
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy], Any]
Form = Callable[[bytes, Draw], bytes]  # valid content and a source of choices -> content with a damaged structure

_RAW = {  # what json.dumps cannot write
    "@deep list@": "[" * 3000 + "]" * 3000,
    "@deeper list@": "[" * 100_000 + "]" * 100_000,
    "@deep object@": '{"a":' * 900 + "1" + "}" * 900,
    "@unclosed@": "[" * 100_000,
    "@digits@": "9" * 5000,
    "@exponent@": "1e999999999",
    "@bad escape@": '"\\x"',
    "@half surrogate@": '"\\ud800"',
}
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1 << 40, 1 << 63, -(1 << 70), 0.5, 1e308, float("nan"), float("inf")),
    *("", " ", "0", "\ud800", "a\0b", "../../x.jpg", "/etc/passwd", "line\nbreak\x1b[2J", "x" * 5000, "é" * 20, "."),
    *([], {}, [[]], [None], {"a": 1}, [1, "a", None], [{}]),
    *_RAW,
)
_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 65535, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def _below(draw: Draw, limit: int) -> int:
    return draw(st.integers(0, max(0, limit - 1)))


def _one_of(draw: Draw, choices: Any) -> Any:
    return choices[_below(draw, len(choices))]


def _nodes(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every node below a JSON value."""
    found, waiting = [], [value]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        found += [(node, key) for key in keys]
        waiting += [node[key] for key in keys]
    return found


def damaged_value(value: Any, draw: Draw) -> Any:
    """A JSON value with one to three nodes, at any depth, dropped, renamed, repeated, swapped or replaced."""
    holder = {"": copy.deepcopy(value)}
    for _ in range(1 + _below(draw, 3)):
        nodes = _nodes(holder)
        container, key = _one_of(draw, nodes)
        what = _below(draw, 8)
        if what == 0 and container is not holder:
            del container[key]
        elif what == 1 and isinstance(container, dict) and container is not holder:
            container[_one_of(draw, ("", "id", "../x", "a\0b", key.upper(), "\ud800"))] = container.pop(key)
        elif what == 2 and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif what == 3:
            other, index = _one_of(draw, nodes)
            container[key] = copy.deepcopy(other[index])
        elif what == 4:
            container[key] = [container[key]]
        else:
            container[key] = copy.deepcopy(_one_of(draw, VALUES))
        if not holder:
            break
    return holder.get("")


def _dumps(value: Any) -> bytes:
    text = json.dumps(value)
    for name, raw in _RAW.items():
        text = text.replace(json.dumps(name), raw)
    return text.encode()


def json_file(content: bytes, draw: Draw) -> bytes:
    """Damage to a JSON file."""
    return _dumps(damaged_value(json.loads(content), draw))


def json_lines(content: bytes, draw: Draw) -> bytes:
    """Damage to one of the JSON values, one per line, or to the lines."""
    lines = content.splitlines()
    index = _below(draw, len(lines))
    if _below(draw, 5) == 0:
        lines.insert(index, _one_of(draw, (lines[-1], b"", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"a": 1} x')))
    elif _below(draw, 10) == 0:
        del lines[index]
    else:
        lines[index] = _dumps(damaged_value(json.loads(lines[index]), draw))
    return b"\n".join(lines) + b"\n"


def zipped_json_lines(content: bytes, draw: Draw) -> bytes:
    """The same for a file compressed by gzip."""
    return gzip.compress(json_lines(gzip.decompress(content), draw), 1)


_CELLS = (
    *(b"", b" ", b"0", b"-1", b"1e999", b"nan", b"9" * 30, b"9" * 5000, b"\xff\xfe", b"\0", b"x" * 3000, b"AAAA"),
    *(b"=", b"../../x", b"/etc/passwd", "\ud800".encode("utf-8", "surrogatepass"), "٣".encode(), b"\x0b"),
)


def cells_of(separators: bytes) -> Form:
    """Damage to lines of cells that are divided by any of `separators`."""

    def form(content: bytes, draw: Draw) -> bytes:
        for _ in range(1 + _below(draw, 3)):
            lines = content.split(b"\n")
            index, what = _below(draw, len(lines)), _below(draw, 7)
            if what == 0:
                del lines[index]
            elif what == 1:
                lines.insert(index, _one_of(draw, (*lines, *_CELLS)))
            else:
                cells = re.split(b"([" + re.escape(separators) + b"])", lines[index])
                cell = _below(draw, len(cells))
                if what == 2:
                    del cells[cell]
                elif what == 3:
                    cells[cell] = _one_of(draw, cells)
                else:
                    cells[cell] = _one_of(draw, _CELLS)
                lines[index] = b"".join(cells)
            content = b"\n".join(lines)
        return content

    return form


def no_structure(content: bytes, draw: Draw) -> bytes:
    """For formats that are only damaged byte by byte."""
    return damaged_bytes(content, draw)


# --- arrays by name ---------------------------------------------------------------------------------------------------


def damaged_array(array: np.ndarray, draw: Draw) -> np.ndarray:
    """Another shape, another type, other values."""
    array = np.array(array)
    what = _below(draw, 8)
    if what == 0:
        return array.reshape(-1)
    if what == 1:
        return array[..., None]
    if what == 2:
        return array[:0] if array.ndim else np.zeros((0,))
    if what == 3:
        return np.concatenate([array, array]) if array.ndim else np.array([array, array])
    if what == 4:
        kind = _one_of(draw, ("S5", "U3", "c8", "M8[s]", "b1", "f8", "i8", "u1", "f2"))
        try:
            return array.astype(kind)
        except (TypeError, ValueError):
            return np.zeros(array.shape, kind)
    if array.size and array.dtype.kind in "iuf":
        array = array.astype(np.float64) if array.dtype.kind == "f" else array.astype(np.int64)
        values = (
            (-1, 0, 1 << 40, np.iinfo(np.int64).max) if array.dtype.kind == "i" else (np.nan, np.inf, -1e300, 1e-320)
        )
        array.flat[_below(draw, array.size)] = _one_of(draw, values)
    return array


def damaged_arrays(arrays: dict[str, np.ndarray], draw: Draw) -> dict[str, np.ndarray]:
    """One or two arrays dropped, renamed or damaged."""
    arrays = dict(arrays)
    for _ in range(1 + _below(draw, 2)):
        if arrays:
            name = _one_of(draw, sorted(arrays))
            array, what = arrays.pop(name), _below(draw, 5)
            if what == 1:
                arrays[_one_of(draw, ("x", "../x", "image_id", "num_boxes"))] = array
            elif what:
                arrays[name] = damaged_array(array, draw)
    return arrays


def npz(content: bytes, draw: Draw) -> bytes:
    """Damage to the arrays of an .npz file, or to the header of one of them."""
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = damaged_arrays(dict(stored), draw)
    buffer = io.BytesIO()
    _one_of(draw, (np.savez, np.savez_compressed))(buffer, **arrays)
    content = buffer.getvalue()
    if _below(draw, 4) == 0:  # the checksum of the member is wrong, which is detected only at its end
        shape = _one_of(draw, (b"(9999999999999,)", b"(-1,)", b"(1e9,)", b"((((", b"(2,3,4,5,6,)", b"None"))
        content = re.sub(rb"\([\d, ]*\)", lambda found: shape.ljust(len(found[0]))[: len(found[0])], content, count=1)
    return content


def npy(content: bytes, draw: Draw) -> bytes:
    """Damage to a lone array."""
    buffer = io.BytesIO()
    np.save(buffer, damaged_array(np.load(io.BytesIO(content), allow_pickle=False), draw))
    return buffer.getvalue()


def hdf5(content: bytes, draw: Draw) -> bytes:
    """Damage to the arrays of an HDF5 file."""
    import h5py

    arrays = {}
    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(lambda name, item: arrays.__setitem__(name, item[()]) if hasattr(item, "shape") else None)
    buffer = io.BytesIO()
    damaged = damaged_arrays({name.replace("/", "|"): array for name, array in arrays.items()}, draw)
    with h5py.File(buffer, "w") as file:
        for name, array in damaged.items():
            if array.dtype.kind in "MU":
                array = array.astype("S")
            file[name.replace("|", "/") if name != "../x" else "y"] = array
    return buffer.getvalue()


def safetensors(content: bytes, draw: Draw) -> bytes:
    """Damage to the header of a safetensors file: offsets, shapes, types, its length."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = _dumps(damaged_value(json.loads(content[8 : 8 + length]), draw)), content[8 + length :]
    lengths = (len(header), len(header), len(header), 1 << 63, (1 << 64) - 1, len(header) + 1, len(header) - 1, 0)
    return struct.pack("<Q", _one_of(draw, lengths)) + header + data


_COLUMN_VALUES = (0, -1.5, "a\0b", "../../x.jpg", "/etc/passwd", b"\xff", [["x"]], {"bytes": b"x"}, True)


def parquet(content: bytes, draw: Draw) -> bytes:
    """Damage to the columns of a Parquet file: their names, types and values."""
    import pyarrow
    import pyarrow.parquet

    columns = pyarrow.parquet.read_table(io.BytesIO(content)).to_pydict()
    for _ in range(1 + _below(draw, 2)):
        name = _one_of(draw, sorted(columns))
        values, what = columns[name], _below(draw, 6)
        if what == 0:
            del columns[name]
        elif what == 1:
            columns[_one_of(draw, ("image", "image_path", "texts", "url", "question", ""))] = columns.pop(name)
        elif what == 2:
            columns[name] = [None] * len(values)
        else:
            value = _one_of(
                draw, (0, -1.5, "a\0b", "../../x.jpg", "/etc/passwd", b"\xff", [["x"]], {"bytes": b"x"}, True)
            )
            columns[name] = [value] * len(values)
        if not columns:
            break
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


# --- tar files --------------------------------------------------------------------------------------------------------

_NAMES = (
    "../x.jpg",
    "/abs.jpg",
    "a/../../x.jpg",
    "",
    ".",
    "..",
    "x",
    ".jpg",
    "a\nb.jpg",
    "\udcff.jpg",
    "x" * 300 + ".jpg",
)
_SIZES = (b"77777777777\0", b"00000000000\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"\xff" * 10 + b"\xfc\x00", b"-1 ")
_TYPES = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
_TYPES += (tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, b"Z", b"x", b"L")


def tar(content: bytes, draw: Draw) -> bytes:
    """Damage to the members of a tar file: names, types, links, sizes, the JSON in them, the end."""
    with tarfile.open(fileobj=io.BytesIO(content)) as whole:
        members = [(member, whole.extractfile(member).read()) for member in whole]
    buffer = io.BytesIO()
    chosen, what = _below(draw, len(members)), _below(draw, 8)
    with tarfile.open(fileobj=buffer, mode="w", format=_one_of(draw, (0, 1, 2))) as file:
        for number, (member, data) in enumerate(members):
            if number == chosen:
                if what == 0:
                    continue
                if what == 1:
                    member.name = _one_of(draw, _NAMES)
                elif what == 2:
                    member.type, member.linkname = _one_of(draw, _TYPES), "/etc/passwd"
                elif what == 3 and member.name.endswith(".json"):
                    data = json_file(data, draw)
                    member.size = len(data)
                elif what == 4:
                    data = damaged_bytes(data, draw)
                    member.size = len(data)
                elif what == 5:
                    member.pax_headers = {_one_of(draw, ("size", "path", "GNU.sparse.size", "mtime")): "-1"}
            try:
                file.addfile(member, io.BytesIO(data) if member.isreg() else None)
            except (ValueError, UnicodeError):
                continue
    content = bytearray(buffer.getvalue())
    if what == 6:  # a wrong size with a correct checksum
        start = _one_of(draw, [m.start() - 257 for m in re.finditer(b"ustar", bytes(content))])
        sizes = (
            b"77777777777\0",
            b"00000000000\0",
            b"\x80" + b"\xff" * 11,
            b"\xff" * 12,
            b"\xff" * 10 + b"\xfc\x00",
            b"-1 ",
        )
        set_tar_size(content, start, _one_of(draw, sizes))
    if what == 7:
        del content[_below(draw, len(content) // 512) * 512 :]
    return bytes(content)


def set_tar_size(content: bytearray, start: int, size: bytes) -> None:
    """Write another encoded size to the header at `start`, with a correct checksum."""
    content[start + 124 : start + 136] = size.ljust(12, b"\0")
    content[start + 148 : start + 156] = b" " * 8
    checksum = sum(content[start : start + 512])
    content[start + 148 : start + 156] = f"{checksum:06o}\0 ".encode()


# --- bytes ------------------------------------------------------------------------------------------------------------


def damaged_bytes(content: bytes, draw: Draw) -> bytes:
    """Flip, cut off, insert, remove, repeat or move bytes at one to four positions."""
    damaged = bytearray(content)
    for _ in range(1 + _below(draw, 4)):
        size, what = len(damaged), _below(draw, 9)
        index = _below(draw, size)
        span = 1 + _below(draw, min(64, max(1, size - index)))
        if what == 0 and size:
            damaged[index] ^= 1 << _below(draw, 8)
        elif what == 1 and size:
            damaged[index] = _below(draw, 256)
        elif what == 2:
            del damaged[index:]
        elif what == 3:
            damaged[index:index] = draw(st.binary(max_size=32))
        elif what == 4:
            del damaged[index : index + span]
        elif what == 5:
            damaged[index:index] = damaged[index : index + span] * (1 + _below(draw, 3))
        elif what == 6:
            other = _below(draw, size)
            damaged[index : index + span], damaged[other : other + span] = (
                damaged[other : other + span],
                damaged[index : index + span],
            )
        elif what == 7:
            width = _one_of(draw, (1, 2, 4, 8))
            number = _one_of(draw, _NUMBERS) % (1 << (8 * width))
            damaged[index : index + width] = number.to_bytes(width, _one_of(draw, ("little", "big")))
        else:
            found = list(re.finditer(rb"\d+", bytes(damaged)))
            if found:
                number = _one_of(draw, found)
                damaged[number.start() : number.end()] = _one_of(
                    draw, (b"-1", b"0", b"99999999999999999999", b"1e9", b"\xb2")
                )
    return bytes(damaged)
