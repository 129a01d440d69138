"""Damaged regions: each fault is found and reported with its location, and only its image is skipped."""

import base64
import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.images.resize import ResizeRule
from data_pipelines.preparation.run import prepare
from data_pipelines.preparation.summary import describe
from data_pipelines.regions import rows, tsv, tsv_cells
from data_pipelines.storage.records import Record, open_records, read_summary
from tests.data_pipelines.publishers import coco, detections, lxmert_row, region_hdf5, region_npz, region_tsv

FOUND = detections(("1", "2", "3", "4", "5"), boxes=3)


def prepared(tmp_path: Path, regions: Path, **more: Any) -> tuple[list[Record], dict[str, Any]]:
    """The split train of `coco` with images 1 to 3, and the summary."""
    source = coco(tmp_path / "coco")
    options = {"regions": str(regions), **more}
    folder = prepare("coco_captions", tmp_path / "data", source, options=options, max_bad_share=0.5, num_threads=2)
    summary = read_summary(folder)
    assert summary["skipped"]["validation"]["bad"] == 0
    return list(open_records(tmp_path / "data", "coco_captions", "train")), summary


def assert_costs_image_2(tmp_path: Path, regions: Path, reason: str, location: str) -> None:
    records, summary = prepared(tmp_path, regions)
    assert [record.image_id for record in records] == ["coco/1", "coco/3"]
    assert all(len(record.regions) == 3 for record in records)
    skipped = summary["skipped"]["train"]
    assert skipped["images"] == {f"damaged regions ({reason})": 1}
    assert skipped["bad"] == 1
    assert skipped["listed"] == [f"{location}: damaged regions ({reason})"]


def nan_in(name: str, value: float = math.nan) -> dict[str, np.ndarray]:
    array = FOUND["2"][name].copy()
    array.flat[-1] = value
    return {name: array}


def text(array: np.ndarray) -> bytes:
    return base64.b64encode(array.tobytes())


FEATURES = FOUND["2"]["features"]
VALUES = [
    ({"num_boxes": 0}, "no boxes"),
    ({"num_boxes": -1}, "no boxes"),
    ({"num_boxes": 10_001}, "over 10,000 boxes"),
    ({"num_boxes": 10**30}, "over 10,000 boxes"),
    ({"num_boxes": b"three"}, "num_boxes is not a number"),
    ({"num_boxes": 2}, "base64 of a wrong length"),
    ({"num_boxes": 4}, "base64 of a wrong length"),
    ({"img_h": 0}, "height is not positive"),
    ({"img_w": b"wide"}, "width is not a number"),
    ({"img_w": b"nan"}, "width is not positive"),
    ({"img_h": 18, "img_w": 12}, "regions of an image of another shape"),
    ({"img_w": 24}, "regions of an image of another shape"),
    ({"features": text(FEATURES)[:-4]}, "base64 of a wrong length"),
    ({"features": text(FEATURES[:, :2])}, "features of another length, or other arrays, than other rows have"),
    ({"features": b""}, "base64 of a wrong length"),
    ({"features": text(FEATURES)[:-1]}, "base64 that does not decode"),
    ({"features": b"*" + text(FEATURES)[1:]}, "base64 that does not decode"),
    ({"features": text(FEATURES) + b"*"}, "base64 that does not decode"),
    ({"features": b"\xff" + text(FEATURES)[1:]}, "base64 that does not decode"),
    ({"boxes": text(FOUND["2"]["boxes"])[:-8]}, "base64 of a wrong length"),
    ({"boxes": text(FOUND["2"]["boxes"][:2])}, "base64 of a wrong length"),
    ({"objects_id": text(FOUND["2"]["objects_id"].astype(np.int32))}, "base64 of a wrong length"),
    ({"objects_id": text(np.arange(4))}, "base64 of a wrong length"),
    ({"objects_conf": b"%" + text(FOUND["2"]["objects_conf"])[1:]}, "base64 that does not decode"),
    (nan_in("features"), "NaN or infinity in features"),
    (nan_in("features", -math.inf), "NaN or infinity in features"),
    (nan_in("features", 65520), "numbers in features that float16 cannot hold"),
    (nan_in("features", -1e30), "numbers in features that float16 cannot hold"),
    (nan_in("boxes"), "NaN or infinity in boxes"),
    (nan_in("boxes", math.inf), "NaN or infinity in boxes"),
    (nan_in("objects_conf"), "NaN or infinity in confidences"),
    (nan_in("objects_id", -1), "a class that is negative or too large"),
    (nan_in("objects_id", 2**40), "a class that is negative or too large"),
    ({"boxes": FOUND["2"]["boxes"] + np.float32(100)}, "no box that lies in the image and has an area"),
    ({"boxes": FOUND["2"]["boxes"] * np.float32([1, 0, 1, 0])}, "no box that lies in the image and has an area"),
]


@pytest.mark.parametrize(("values", "reason"), VALUES)
def test_values_of_a_tsv(tmp_path: Path, values: dict, reason: str) -> None:
    path = region_tsv(tmp_path / "x.tsv", {**FOUND, "2": {**FOUND["2"], **values}})
    assert_costs_image_2(tmp_path, path, reason, f"{path}, row 2")


def test_the_largest_numbers_of_float16_are_kept(tmp_path: Path) -> None:
    path = region_tsv(tmp_path / "x.tsv", {**FOUND, "2": {**FOUND["2"], **nan_in("features", 65504)}})
    records, _ = prepared(tmp_path, path)
    assert records[1].regions.features.max() == 65504


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda row: row.replace(b"\t", b"\t\t", 5), "wrong number of columns"),
        (lambda row: row[: len(row) // 2] + b"\n", "wrong number of columns"),
        (lambda row: b"2\n", None),
        (lambda row: b"2\t\n", "wrong number of columns"),
    ],
)
def test_rows_of_a_tsv(tmp_path: Path, damage: Callable[[bytes], bytes], reason: str | None) -> None:
    path = tmp_path / "x.tsv"
    path.write_bytes(b"".join((damage if i == "2" else bytes)(lxmert_row(i, **FOUND[i])) for i in FOUND))
    if reason is not None:
        assert_costs_image_2(tmp_path, path, reason, f"{path}, row 2")
        return
    records, summary = prepared(tmp_path, path)
    assert len(records) == 2
    assert summary["skipped"]["train"]["images"] == {"no regions": 1}
    assert summary["skipped"]["train"]["bad"] == 0
    assert summary["regions"]["without_id"] == 1
    assert summary["regions"]["listed"] == [f"{path}, row 2: no id"]


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.999])
def test_last_row_cut_short(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "x.tsv"
    last = lxmert_row("2", **FOUND["2"])
    whole = b"".join(lxmert_row(i, **FOUND[i]) for i in FOUND if i != "2")
    path.write_bytes(whole + last[: min(int(len(last) * keep), len(last) - 2)])
    assert_costs_image_2(tmp_path, path, "row cut short", f"{path}, row 5")


def test_last_row_cut_short_in_its_id(tmp_path: Path) -> None:
    path = region_tsv(tmp_path / "x.tsv", FOUND)
    path.write_bytes(path.read_bytes() + b"COCO_val2014_0000")
    records, summary = prepared(tmp_path, path)
    assert len(records) == 3
    assert (summary["regions"]["rows"], summary["regions"]["without_id"]) == (6, 1)
    assert summary["regions"]["listed"] == [f"{path}, row 6: no id"]


@pytest.mark.parametrize("cell", [b"", b"  ", b"\xff\xfe", b"7" * 2000])
def test_rows_with_an_unreadable_id(tmp_path: Path, cell: bytes) -> None:
    path = region_tsv(tmp_path / "x.tsv", FOUND)
    path.write_bytes(path.read_bytes() + cell + lxmert_row("", **FOUND["2"]))
    records, summary = prepared(tmp_path, path)
    assert len(records) == 3
    assert summary["regions"]["without_id"] == 1


def test_a_huge_row_is_not_read(tmp_path: Path, monkeypatch) -> None:
    """It is not read in the first pass, nor when it is needed; the rows after it are read."""
    monkeypatch.setattr(tsv, "MAX_ROW_BYTES", 1000)
    rows_of_all = [lxmert_row(i, **FOUND[i]) for i in FOUND]
    assert max(map(len, rows_of_all)) < 1000
    path = tmp_path / "x.tsv"
    path.write_bytes(rows_of_all[0] + b"2\t" + b"A" * 5_000_000 + b"\n" + b"".join(rows_of_all[2:]))
    longest = []
    pread = tsv.os.pread
    monkeypatch.setattr(tsv.os, "pread", lambda fd, n, at: longest.append(n) or pread(fd, n, at))
    assert_costs_image_2(tmp_path, path, "row over 0 MiB", f"{path}, row 2")
    assert max(longest) <= 1000


def test_limits() -> None:
    assert (rows.MAX_BOXES, rows.MAX_ROW_BYTES) == (10_000, 64 << 20)


def test_an_absurd_number_of_boxes_is_refused_before_anything_is_decoded(monkeypatch) -> None:
    def decode(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(tsv_cells.binascii, "a2b_base64", decode)
    cells = lxmert_row("1", **{**FOUND["1"], "num_boxes": 10_001}).rstrip().split(b"\t")
    with pytest.raises(rows.BadRowError, match="over 10,000 boxes"):
        tsv._parse(cells, tsv.LXMERT)


def test_repeated_ids(tmp_path: Path) -> None:
    """The first row is used."""
    other = FOUND["1"] | {"objects_id": np.array([7, 8, 9])}
    path = region_tsv(tmp_path / "x.tsv", FOUND)
    path.write_bytes(path.read_bytes() + lxmert_row("1.jpg", **other) * 2)
    records, summary = prepared(tmp_path, path)
    assert records[0].regions.classes.tolist() == FOUND["1"]["objects_id"].tolist()
    about = summary["regions"]
    assert (about["rows"], about["repeated"], about["unjoined"]) == (7, 2, 0)
    assert about["listed"] == [f"{path}, row {i}: id repeated" for i in (6, 7)]


def test_a_whole_id_has_priority_over_a_bare_number(tmp_path: Path) -> None:
    other = FOUND["1"] | {"objects_id": np.array([7, 8, 9])}
    path = region_tsv(tmp_path / "x.tsv", {**FOUND, "COCO_train2014_000000000001.jpg": other})
    records, summary = prepared(tmp_path, path)
    assert records[0].regions.classes.tolist() == [7, 8, 9]
    assert (summary["regions"]["repeated"], summary["regions"]["unjoined"]) == (0, 1)


def test_boxes_at_the_edges(tmp_path: Path) -> None:
    """Up to one pixel outside: clipped. Further outside, or without area: skipped and counted."""
    width, height = FOUND["2"]["img_w"], FOUND["2"]["img_h"]
    boxes = [
        (-1, -0.5, width + 1, height + 1),
        (-1.01, 0, 5, 5),
        (0, -1.01, 5, 5),
        (0, 0, width + 1.01, 5),
        (0, 0, 5, height + 1.01),
        (5, 5, 5, 9),
        (5, 5, 9, 5),
        (9, 5, 5, 9),
        (width, 2, width + 0.5, 3),
        (1, 2, 3, 4),
    ]
    values = detections(("2",), boxes=10)["2"] | {"boxes": np.float32(boxes)}
    path = region_tsv(tmp_path / "x.tsv", {**FOUND, "2": values})
    records, summary = prepared(tmp_path, path, max_regions=5)
    kept = records[1].regions
    np.testing.assert_array_equal(
        kept.boxes, np.array([[0, 0, 1, 1], np.array(boxes[-1]) / [width, height, width, height]], np.float32)
    )
    np.testing.assert_array_equal(kept.classes, values["objects_id"][[0, 9]])
    np.testing.assert_array_equal(kept.features, values["features"][[0, 9]].astype(np.float16))
    assert summary["skipped"]["train"]["boxes"] == {"outside of the image": 4, "without area": 4}
    assert summary["skipped"]["train"]["bad"] == 0


def test_too_many_damaged_rows(tmp_path: Path) -> None:
    path = region_tsv(tmp_path / "x.tsv", {**FOUND, "2": {**FOUND["2"], "num_boxes": 0}})
    with pytest.raises(DataError) as error:
        prepare("coco_captions", tmp_path / "data", coco(tmp_path / "coco"), options={"regions": str(path)})
    assert str(error.value) == (
        "At least 1 of 3 images (33.3%) cannot be used, more than --max_bad_share=0.01: 1 damaged regions (no boxes) "
        f"(first: {path}, row 2: damaged regions (no boxes)); repair the source files or raise --max_bad_share."
    )


def test_nothing_but_damaged_rows(tmp_path: Path) -> None:
    path = region_npz(tmp_path / "npz", {i: {"features": np.array([{}, {}])} for i in FOUND})
    with pytest.raises(DataError) as error:
        prepare("coco_captions", tmp_path / "data", coco(tmp_path / "coco"), options={"regions": str(path)})
    assert str(error.value) == (
        f"None of the first 100 rows of --regions={path} can be used ({path}/1.npz: no array called boxes or bbox or "
        "image_bb or norm_bb or spatial_features); repair or replace the file."
    )


class Loud:
    """Prints when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("unpickled",))


def objects(shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(shape, object)
    array.fill(Loud())
    return array


PIXEL = np.tile(np.float32([0, 0, 1, 1]), (3, 1))
ARRAYS = [
    ({"features": objects((3, 3))}, "features that are Python objects, which are never unpickled"),
    ({"objects_id": objects((3,))}, "classes that are Python objects, which are never unpickled"),
    ({"img_h": objects(())}, "image_h that are Python objects, which are never unpickled"),
    ({"features": None}, "no array called features or x or feat or image_features"),
    ({"features": np.zeros((3, 3), "U4")}, "features that are not numbers"),
    ({"features": np.zeros(9)}, "features that are not a matrix"),
    ({"features": np.zeros((3, 0))}, "features that are not a matrix"),
    ({"features": np.zeros((0, 3))}, "boxes and features that do not fit each other"),
    ({"features": np.zeros((0, 3)), "num_boxes": None}, "no boxes"),
    ({"features": np.zeros((10_001, 3))}, "over 10,000 boxes"),
    ({"num_boxes": 0}, "no boxes"),
    ({"num_boxes": 4}, "boxes and features that do not fit each other"),
    ({"num_boxes": 10_001}, "over 10,000 boxes"),
    ({"num_boxes": np.array([1, 2])}, "num_boxes is not a number"),
    ({"boxes": np.zeros((3, 5))}, "boxes and features that do not fit each other"),
    ({"boxes": np.zeros((2, 4))}, "boxes and features that do not fit each other"),
    ({"objects_id": np.zeros(2)}, "classes and features that do not fit each other"),
    ({"objects_id": np.zeros((3, 1600))}, "classes and features that do not fit each other"),
    ({"objects_id": np.array([0, 1, 1.5])}, "classes that are not whole numbers"),
    ({"objects_id": np.array([0, 1, np.nan])}, "classes that are not whole numbers"),
    ({"objects_id": None}, "features of another length, or other arrays, than other rows have"),
    ({"objects_conf": np.array([0.5, 0.4])}, "confidences and features that do not fit each other"),
    ({"global_feature": np.zeros(4)}, "features of another length, or other arrays, than other rows have"),
    ({"img_w": 24}, "regions of an image of another shape"),
    (nan_in("boxes"), "NaN or infinity in boxes"),
    ({"boxes": PIXEL, "img_h": None, "img_w": None}, "boxes of a pixel: fractions must be called norm_bb"),
]


def changed(values: dict) -> dict[str, dict]:
    """FOUND with other arrays for image 2; arrays that are None are removed."""
    second = {name: value for name, value in {**FOUND["2"], **values}.items() if value is not None}
    return {**FOUND, "2": second}


@pytest.mark.parametrize(("values", "reason"), ARRAYS)
def test_arrays_of_an_npz(tmp_path: Path, values: dict, reason: str) -> None:
    folder = region_npz(tmp_path / "npz", changed(values))
    assert_costs_image_2(tmp_path, folder, reason, f"{folder}/2.npz")


# HDF5 cannot store Python objects and NumPy strings.
@pytest.mark.parametrize(("values", "reason"), [case for case in ARRAYS if "Python" not in case[1]][2:])
def test_arrays_of_an_hdf5_group(tmp_path: Path, values: dict, reason: str) -> None:
    path = region_hdf5(tmp_path / "x.h5", changed(values))
    assert_costs_image_2(tmp_path, path, reason, f"{path}, group 2")


def test_texts_in_hdf5(tmp_path: Path) -> None:
    import h5py

    path = region_hdf5(tmp_path / "x.h5", FOUND)
    with h5py.File(path, "a") as file:
        del file["2/features"]
        file["2/features"] = [["a", "b"]] * 3
    assert_costs_image_2(
        tmp_path, path, "features that are Python objects, which are never unpickled", f"{path}, group 2"
    )


def test_global_feature_that_is_not_finite(tmp_path: Path) -> None:
    found = {i: {**values, "global_feature": np.full(2, np.inf if i == "2" else 1.0)} for i, values in FOUND.items()}
    folder = region_npz(tmp_path / "npz", found)
    assert_costs_image_2(tmp_path, folder, "NaN or infinity in the global feature", f"{folder}/2.npz")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[: len(content) // 2], "not a whole .npz file"),
        (lambda content: b"", "not a whole .npz file"),
        (lambda content: content.replace(b"\x93NUMPY", b"\x94NUMPY"), "not a whole .npz file"),
        (lambda content: content.replace(b"(3, 3)", b"(3, -)"), "not a whole .npz file"),
    ],
)
def test_damaged_npz(tmp_path: Path, damage: Callable[[bytes], bytes], reason: str) -> None:
    folder = region_npz(tmp_path / "npz", FOUND)
    path = folder / "2.npz"
    path.write_bytes(damage(path.read_bytes()))
    assert_costs_image_2(tmp_path, folder, reason, str(path))


def test_an_npz_of_another_version(tmp_path: Path) -> None:
    folder = region_npz(tmp_path / "npz", FOUND)
    with zipfile.ZipFile(folder / "2.npz", "w") as archive:
        archive.writestr("features.npy", b"\x93NUMPY\x09\x00" + bytes(100))
    assert_costs_image_2(tmp_path, folder, "an array of an unknown version of .npy", f"{folder}/2.npz")


def test_an_npz_that_unpacks_to_gigabytes(tmp_path: Path, monkeypatch) -> None:
    """Its header is enough; the array itself is not read."""
    folder = region_npz(tmp_path / "npz", FOUND)
    np.savez_compressed(folder / "2.npz", **{**FOUND["2"], "features": np.zeros((3, 6_000_000), np.float32)})
    assert (folder / "2.npz").stat().st_size < 1e6
    assert_costs_image_2(tmp_path, folder, "features over 64 MiB", f"{folder}/2.npz")


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ((5, 3), "pos_boxes that are not in order"),
        ((-1, 3), "pos_boxes that are not in order"),
        ((3, 16), "pos_boxes beyond the end of features"),
        ((3, 3), "no boxes"),
    ],
)
def test_pos_boxes(tmp_path: Path, ends: tuple[int, int], reason: str) -> None:
    import h5py

    path = region_hdf5(tmp_path / "x.h5", FOUND, "pos_boxes")
    with h5py.File(path, "a") as file:
        file["pos_boxes"][1] = ends
    assert_costs_image_2(tmp_path, path, reason, f"{path}, row 1")


def test_a_part_of_an_hdf5_file_that_is_damaged(tmp_path: Path) -> None:
    import h5py

    path = region_hdf5(tmp_path / "x.h5", FOUND)
    with h5py.File(path, "a") as file:
        del file["2/features"]
        array = file.create_dataset("2/features", data=FEATURES, chunks=(3, 3), fletcher32=True)
        at = array.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert_costs_image_2(tmp_path, path, "a part of the HDF5 file that cannot be read", f"{path}, group 2")


def test_the_summary_reports_all_faults(tmp_path: Path) -> None:
    found = {i: values for i, values in FOUND.items() if i != "3"}
    found["2"] = {**FOUND["2"], "boxes": FOUND["2"]["boxes"] + np.float32([[100], [0], [0]])}
    path = region_tsv(tmp_path / "x.tsv", {**found, "77": FOUND["1"]})
    path.write_bytes(path.read_bytes() + lxmert_row("1", **FOUND["1"]) + b"no tab\n")
    prepared(tmp_path, path)
    folder = tmp_path / "data" / "coco_captions" / "1.0.0"
    text = describe(folder, json.loads((folder / "index.json").read_text()), ResizeRule(64, 128))
    highest = max(int(found[i]["objects_id"][k]) for i in ("1", "2") for k in range(3) if (i, k) != ("2", 0))
    assert (
        "regions from x.tsv: 7 rows, 1 of no image here, 1 with an id that an earlier row has, not used, 1 without an "
        "id\n"
        f"  {path}, row 7: no id\n"
        f"  {path}, row 6: id repeated\n"
        f"regions of train: 2.5 per image (2 to 3), features of 3 numbers, classes 0 to {highest:,}\n"
        "boxes skipped in train: 1 outside of the image\n"
        "regions of validation: 3.0 per image (3 to 3), features of 3 numbers, classes 0 to "
    ) in text
    assert "\nskipped in train: 1 no regions" in text
