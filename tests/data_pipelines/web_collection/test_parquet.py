"""Parquet files of crawls."""

import sys
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.errors import DataError
from data_pipelines.images.files import BadImageError
from data_pipelines.web_collection.image_reader import ImageReader
from data_pipelines.web_collection.sources import find_parts, read_part
from tests.data_pipelines.web_collection.crawl import image_bytes


def write(path: Path, rows: list[dict[str, Any]], row_group_size: int = 100) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra `beam`")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return path


@pytest.mark.parametrize("wrapped", [False, True])
def test_bytes_in_row_groups(tmp_path: Path, wrapped: bool) -> None:
    images = [image_bytes(i) for i in range(5)]
    write(
        tmp_path / "0.parquet",
        [
            {"image": {"bytes": b, "path": "x"} if wrapped else b, "alt": f"alt {i}", "title": None, "language": "en"}
            for i, b in enumerate(images)
        ],
        row_group_size=2,
    )
    folder, parts = find_parts(tmp_path)
    assert [(part.row_group, part.first) for part in parts] == [(0, 0), (1, 2), (2, 4)]
    found = [f for part in parts for f in read_part(folder, part)]
    assert [(f.location.number, list(f.texts), f.language) for f in found] == [
        (i, [f"alt {i}"], "en") for i in range(5)
    ]
    reader = ImageReader(folder, folder)
    for i in (4, 0, 3, 2, 1):
        assert reader.read(found[i].location) == images[i]


def test_columns_of_img2dataset(tmp_path: Path) -> None:
    """Rows with a failed download have no image, and are reported as such."""
    rows = [
        {
            "url": "http://p",
            "key": "000",
            "status": "success",
            "error_message": None,
            "caption": "a",
            "jpg": image_bytes(1),
        },
        {"url": "http://q", "key": "001", "status": "failed_to_download", "caption": "b", "jpg": None},
    ]
    write(tmp_path / "00000.parquet", rows)
    folder, (part,) = find_parts(tmp_path)
    first, second = read_part(folder, part)
    assert (list(first.texts), first.page) == (["a"], "http://p")
    reader = ImageReader(folder, folder)
    assert reader.read(first.location) == image_bytes(1)
    with pytest.raises(BadImageError, match="no image"):
        reader.read(second.location)


def test_paths(tmp_path: Path) -> None:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(image_bytes(1))
    (tmp_path / "images" / "sub" / "a.png").write_bytes(image_bytes(2))
    paths = ["sub/a.png", "sub/../sub/a.png", "../outside.png", str(tmp_path / "outside.png"), "none.png", "", "a\0b"]
    write(
        tmp_path / "0.parquet",
        [{"image_path": path, "texts": ["a", "b"], "page": "http://p"} for path in [*paths, None]],
    )
    folder, (part,) = find_parts(tmp_path / "0.parquet")
    found = list(read_part(folder, part))
    assert [f.location.number for f in found] == list(range(8))
    assert found[0].texts == ["a", "b"] and found[0].page == "http://p" and found[0].language is None
    reader = ImageReader(folder, tmp_path / "images")
    assert reader.read(found[0].location) == reader.read(found[1].location) == image_bytes(2)
    for bad in found[2:]:
        with pytest.raises(BadImageError, match="missing file"):
            reader.read(bad.location)


def test_rows_without_an_image(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", [{"image": None, "alt": "x"}, {"image": b"", "alt": "x"}])
    folder, (part,) = find_parts(tmp_path)
    missing, empty = read_part(folder, part)
    reader = ImageReader(folder, folder)
    with pytest.raises(BadImageError, match="no image"):
        reader.read(missing.location)
    assert reader.read(empty.location) == b""


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"alt": "x"}],
            r"has no column of images among alt; name it image \(encoded bytes; or jpg, jpeg, png, webp\) or ",
        ),
        ([{"image": "path.jpg", "alt": "x"}], "has no column of images among image, alt"),
        ([{"image_path": b"a", "alt": "x"}], "has no column of images"),
        ([{"image": b"a", "words": "x"}], "has no column of texts among image, words; name it alt or title or"),
    ],
)
def test_columns(tmp_path: Path, rows: list, message: str) -> None:
    write(tmp_path / "0.parquet", rows)
    with pytest.raises(DataError, match=f"0.parquet {message}"):
        find_parts(tmp_path)


def test_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "0.parquet", [{"image": image_bytes(i), "alt": f"x {i}"} for i in range(40)])
    folder, (part,) = find_parts(tmp_path)
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"0.parquet is not a whole Parquet file .*; download it again or remove it"):
        ImageReader(folder, folder).read(next(iter(read_part(folder, part))).location)
    path.write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"0.parquet is not a whole Parquet file"):
        find_parts(tmp_path)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        DataError, match=r"0.parquet: Parquet files need pyarrow; run `pip install .pixelbert_jax.parquet"
    ):
        find_parts(tmp_path)


def test_an_error_that_quotes_a_damaged_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, of the extra `beam`")

    def damaged(path: Path, **_: Any) -> None:
        raise OSError("don't know what type: \x0f")

    monkeypatch.setattr(parquet, "ParquetFile", damaged)
    (tmp_path / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"\(don't know what type:\); download it again") as error:
        find_parts(tmp_path)
    assert str(error.value).isprintable()
