"""Archives: unsafe members, wrong sizes, decompression bombs, and links to other files."""

import base64
import gzip
import io
import json
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.datasets.formats.tar_images import list_tar_images
from data_pipelines.datasets.formats.webdataset import read_samples
from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.regions import open_source
from data_pipelines.regions.rows import MAX_ROW_BYTES, BadRowError, RegionSource
from data_pipelines.storage.records import open_records
from data_pipelines.web_collection.image_reader import ImageReader
from data_pipelines.web_collection.tar_files import read_tar
from tests.data_pipelines.publishers import detections, encode, lxmert_row, region_hdf5, region_npz, tar
from tests.hostile.checking import Case
from tests.hostile.damage import set_tar_size
from tests.hostile.guards import check_message, guarded
from tests.hostile.readers import READERS

LITTLE = 160 << 20  # bytes that a reader of a bomb may request
BOMB = 256 << 20  # bytes after decompression
IMAGE = encode()


def names_in(path: Path) -> list[list[str]]:
    """Names of the images that each reader of tar files finds."""
    return [
        [sample.location.rpartition(":")[2] for sample in read_samples([path]) if sample.image is not None],
        [f"{found.location.number}" for found in read_tar(path, path.name)],
        list(list_tar_images(path)),
    ]


def hostile_tar(path: Path) -> Path:
    """Members with paths outside of the folder, links, devices, a sparse file, and one good image."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as file:
        for name in ("../evil.jpg", "/tmp/evil.jpg", "a/../../evil.jpg", "/evil.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(IMAGE)
            file.addfile(member, io.BytesIO(IMAGE))
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
        for number, kind in enumerate(kinds):
            member = tarfile.TarInfo(f"link{number}.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            file.addfile(member)
        sparse = tarfile.TarInfo("sparse.jpg")
        sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, len(IMAGE)
        file.addfile(sparse, io.BytesIO(IMAGE))
        good = tarfile.TarInfo("good.jpg")
        good.size = len(IMAGE)
        file.addfile(good, io.BytesIO(IMAGE))
        text = tarfile.TarInfo("good.txt")
        text.size = 3
        file.addfile(text, io.BytesIO(b"red"))
    return path


def test_only_plain_files_with_safe_names_are_seen(tmp_path: Path) -> None:
    path = hostile_tar(tmp_path / "0.tar")
    with guarded():
        assert names_in(path) == [["good.jpg"], ["0"], ["good.jpg"]]
        (found,) = read_tar(path, "0.tar")
        assert ImageReader(tmp_path, None).read(found.location) == IMAGE


def test_a_hostile_tar_is_prepared_inside_of_the_folder(tmp_path: Path, monkeypatch) -> None:
    for name in ("source", "data", "data/tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "data" / "tmp"))
    hostile_tar(tmp_path / "source" / "0.tar")
    with guarded(tmp_path / "data"):
        prepare("image_text", tmp_path / "data", tmp_path / "source", num_threads=1)
    (record,) = open_records(tmp_path / "data", "image_text", "train")
    assert (record.image, record.texts) == (IMAGE, ("red",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "source"]


def test_a_tar_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    members = {"a.jpg": IMAGE, "a.txt": "x", "b.jpg": IMAGE, "b.json": "{}", "c.jpg": IMAGE}
    whole = tar(tmp_path / "0.tar", members).read_bytes()
    with tarfile.open(tmp_path / "0.tar") as file:
        last = file.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    assert whole[end:].strip(b"\0") == b""
    cuts = [*range(0, end + 1, 512), end + 100, last.offset_data + 5, last.offset + 100, 700]
    for cut in cuts:
        (tmp_path / "0.tar").write_bytes(whole[:cut])
        for read in (lambda p: list(read_samples([p])), lambda p: list(read_tar(p, p.name)), list_tar_images):
            with guarded(), pytest.raises(DataError) as error:
                read(tmp_path / "0.tar")
            check_message(error.value, (str(tmp_path / "0.tar"),))
    (tmp_path / "0.tar").write_bytes(whole[: end + 512])  # half of the end marker is enough
    assert names_in(tmp_path / "0.tar")[2] == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\xff" * 10 + b"\xfc\x00", b"\x80" + b"\xff" * 11, b"77777777777\0"])
@pytest.mark.parametrize("member", [0, 1, 2])
def test_sizes_that_are_not_true(tmp_path: Path, size: bytes, member: int) -> None:
    """Negative sizes would make tarfile loop."""
    path = tar(tmp_path / "0.tar", {"a.jpg": IMAGE, "b.jpg": IMAGE, "c.jpg": IMAGE})
    with tarfile.open(path) as file:
        start = file.getmembers()[member].offset
    content = bytearray(path.read_bytes())
    set_tar_size(content, start, size)
    path.write_bytes(content)
    for read in (lambda p: list(read_samples([p])), lambda p: list(read_tar(p, p.name)), list_tar_images):
        with guarded(), pytest.raises(DataError) as error:
            read(path)
        check_message(error.value, (str(path),))


def test_a_long_header_is_not_parsed(tmp_path: Path) -> None:
    """In some releases of Python, the time is quadratic in its length."""
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as file:
        member = tarfile.TarInfo("a.jpg")
        member.size, member.pax_headers = len(IMAGE), {"comment": "9" * (2 << 20)}
        file.addfile(member, io.BytesIO(IMAGE))
    with guarded(), pytest.raises(DataError, match="a header over 1 MiB"):
        list_tar_images(tmp_path / "0.tar")


def zeros(archive: zipfile.ZipFile, name: str, start: bytes, size: int) -> None:
    """A member of zeros, which is compressed to a thousandth."""
    with archive.open(name, "w", force_zip64=True) as file:
        file.write(start)
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))


def header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


HEADER_BOMB = b"\x93NUMPY\x02\x00" + (BOMB - 100).to_bytes(4, "little")


@pytest.mark.parametrize("start", [header((BOMB // 4,)), header((1, BOMB // 4)), HEADER_BOMB], ids=["1", "2", "header"])
def test_npz_bombs(tmp_path: Path, start: bytes) -> None:
    folder = region_npz(tmp_path / "r", detections(("1",)))
    with zipfile.ZipFile(folder / "1.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        zeros(archive, "features.npy", start, BOMB)
        zeros(archive, "boxes.npy", header((1, 4)), 1 << 20)
    assert (folder / "1.npz").stat().st_size < 4 << 20
    source = open_source(folder)
    assert list(source.ids()) == ["1"]
    with guarded(memory=LITTLE), pytest.raises(BadRowError, match=r"over 64 MiB|not a whole|not a matrix"):
        source.read(0)


def test_bombs_in_a_prepared_folder(tmp_path: Path) -> None:
    case = Case(READERS["prepared"], tmp_path)
    texts = next(path for path in case.files if path.name == "texts-train.jsonl.gz")
    index = next(path for path in case.files if path.name == "index-train.npz")
    lines = gzip.compress(b"[" + b" " * (32 << 20), 1) + gzip.compress(bytes(64 << 20), 1) * (BOMB >> 26)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("heights", "widths", "num_texts"):
            zeros(archive, f"{name}.npy", header((BOMB // 4,)), BOMB >> 1)
    for path, content in ((texts, lines), (index, buffer.getvalue())):
        assert len(content) < 4 << 20
        old = path.read_bytes()
        path.write_bytes(content)
        with guarded(tmp_path, memory=LITTLE + (128 << 20)), pytest.raises(DataError) as error:
            case.reader.read(tmp_path)
        check_message(error.value, (str(path),))
        path.write_bytes(old)


@pytest.mark.parametrize("file", ["../../../other.array_record", "/etc/passwd", "..", "a/b", 3, None])
def test_a_prepared_index_names_files_of_its_folder_only(tmp_path: Path, file: object) -> None:
    case = Case(READERS["prepared"], tmp_path)
    index = next(path for path in case.files if path.name == "index.json")
    content = json.loads(index.read_bytes())
    content["splits"]["train"]["shards"][0][0] = file
    assert "index.json is damaged" in case.outcome({index: json.dumps(content).encode()})


# --- regions in tables and HDF5 ---------------------------------------------------------------------------------------


def first_row(source: RegionSource) -> object:
    assert list(source.ids())
    return source.read(0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_boxes": 10**9}, "over 10,000 boxes"),
        ({"num_boxes": "9" * 5000}, "num_boxes is not a number"),
        ({"num_boxes": -1}, "no boxes"),
        ({"features": base64.b64encode(bytes(MAX_ROW_BYTES))}, "row over 64 MiB"),
        ({"img_h": "1e999"}, "height is not positive"),
        ({"img_h": "nan"}, "height is not positive"),
    ],
)
def test_rows_of_a_table_that_promise_too_much(tmp_path: Path, values: dict, message: str) -> None:
    found = detections(("1", "2"))
    path = tmp_path / "r.tsv"
    path.write_bytes(lxmert_row("1", **(found["1"] | values)) + lxmert_row("2", **found["2"]))
    with guarded(memory=LITTLE), pytest.raises(BadRowError, match=message):
        first_row(open_source(path))


def hdf5(path: Path, change) -> Path:
    h5py = pytest.importorskip("h5py")
    region_hdf5(path, detections(("1",)), "groups")
    with h5py.File(path, "a") as file:
        change(file["1"], h5py)
    return path


def replace(group, name: str, **options) -> None:
    del group[name]
    group.create_dataset(name, **options)


@pytest.mark.parametrize("name", ["features", "boxes", "1"])
def test_hdf5_links_to_other_files_are_not_followed(tmp_path: Path, name: str) -> None:
    other = region_hdf5(tmp_path / "secret.h5", detections(("1",)), "groups")

    def change(group, h5py) -> None:
        target = group.file if name == "1" else group
        del target[name]
        target[name] = h5py.ExternalLink(str(other), "/1" if name == "1" else f"/1/{name}")

    path = hdf5(tmp_path / "r.h5", change)
    with guarded(), pytest.raises((BadRowError, DataError), match="a link to another file, which is never followed"):
        first_row(open_source(path))


def external(group, h5py) -> None:
    replace(group, "features", shape=(2, 3), dtype="f4", external=[("/etc/passwd", 0, 24)])


def virtual(group, h5py) -> None:
    layout = h5py.VirtualLayout(shape=(2, 3), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/hosts.h5", "x", shape=(2, 3))
    del group["features"]
    group.create_virtual_dataset("features", layout)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external, "an array that lies in other files, which are never opened"),
        (virtual, "an array that lies in other files, which are never opened"),
        (
            lambda group, _: replace(
                group, "features", shape=(2, 3), maxshape=(None, None), chunks=(1 << 14, 1 << 14), dtype="f4"
            ),
            "a piece over 256 MiB",
        ),
        (lambda group, _: replace(group, "features", shape=(2, 1 << 40), dtype="f4"), "features over 64 MiB"),
        (lambda group, _: replace(group, "boxes", shape=(1 << 40, 4), dtype="f4"), "do not fit each other|over 64 MiB"),
        (lambda group, h5py: replace(group, "features", data=h5py.Empty("f4")), "no array called features"),
        (lambda group, _: replace(group, "features", data=["a", "b"]), "not a matrix"),
        (lambda group, _: group.__setitem__("features2", group["features"]) or replace_by_dangling(group), "no array"),
    ],
)
def test_hdf5_arrays_that_are_not_what_they_seem(tmp_path: Path, change, message: str) -> None:
    path = hdf5(tmp_path / "r.h5", change)
    with guarded(memory=LITTLE), pytest.raises(BadRowError, match=message):
        first_row(open_source(path))


def replace_by_dangling(group) -> None:
    import h5py

    del group["features"]
    group["features"] = h5py.SoftLink("/nowhere")


def test_hdf5_ids_without_end(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = region_hdf5(tmp_path / "r.h5", detections(("1", "2")), "flat")
    with h5py.File(path, "a") as file:
        replace(file, "image_ids", shape=(1 << 40,), dtype="i8")
    with guarded(memory=LITTLE), pytest.raises(DataError, match="promises more than the file can hold") as error:
        open_source(path)
    check_message(error.value, (str(path),))


def test_parquet_rows_without_end(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    from data_pipelines.web_collection.sources import find_parts

    rows = 5_000_000
    columns = {"image": pyarrow.nulls(rows, pyarrow.binary()), "alt": pyarrow.nulls(rows, pyarrow.string())}
    parquet.write_table(pyarrow.table(columns), tmp_path / "0.parquet", row_group_size=rows)
    assert (tmp_path / "0.parquet").stat().st_size < 1 << 20
    with guarded(memory=LITTLE), pytest.raises(DataError, match="promises more rows") as error:
        find_parts(tmp_path)
    check_message(error.value, (str(tmp_path / "0.parquet"),))
