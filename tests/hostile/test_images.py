"""Images with huge sizes in their headers are refused before decoding, in files and in archives."""

import io
import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ImageFile

from data_pipelines.images import resize
from data_pipelines.images.files import BadImageError, open_image, read_header, verify
from data_pipelines.storage.records import open_records
from tests.data_pipelines import publishers
from tests.data_pipelines.publishers import encode
from tests.hostile.checking import Case
from tests.hostile.guards import guarded
from tests.hostile.readers import READERS

LITTLE = 128 << 20
SIZES = [(60_000, 60_000), (60_000, 1), (1, 60_000)]


def png(height: int, width: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(bytes(1 << 16))) + chunk(b"IEND", b"")


def jpeg(height: int, width: int) -> bytes:
    content = bytearray(encode(8, 8, "JPEG"))
    start = content.index(b"\xff\xc0")
    content[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def gif(height: int, width: int) -> bytes:
    content = bytearray(encode(8, 8, "GIF"))
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def bmp(height: int, width: int) -> bytes:
    content = bytearray(encode(8, 8, "BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def webp(height: int, width: int) -> bytes:
    """The extended format, with sizes of 24 bits."""
    frame = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + bytes(5)
    animation = bytes(16) + frame
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    parts = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sizes + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    parts += b"ANMF" + struct.pack("<I", len(animation)) + animation
    return b"RIFF" + struct.pack("<I", len(parts)) + parts


FORMATS = {"png": png, "jpeg": jpeg, "gif": gif, "bmp": bmp, "webp": webp}


@pytest.fixture
def no_decoder(monkeypatch):
    """Fail if an image is decoded."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV was called"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("Pillow was called"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FORMATS)
def test_huge_images_are_refused_by_their_header(name: str, size: tuple[int, int], no_decoder) -> None:
    encoded = FORMATS[name](*size)
    assert len(encoded) < 10_000
    for read in (read_header, verify):
        with guarded(memory=LITTLE), pytest.raises(BadImageError, match=r"a side over 30,000 pixels"):
            read(encoded)
    with guarded(memory=LITTLE), pytest.raises(resize.DataError, match=r"^a\.jpg: a side over 30,000 pixels; .*\.$"):
        resize.decode(encoded, "a.jpg")


def test_small_ones_made_in_the_same_way_pass() -> None:
    """Otherwise the test above proves nothing."""
    for make in (jpeg, gif, bmp):
        assert verify(make(8, 8)).width == 8
    for make in (png, webp):
        assert read_header(make(8, 9)).width == 9


def test_the_predictor_refuses_them_too(no_decoder, tmp_path: Path) -> None:
    from pixelbert_jax.predictor_inputs import pixels_of

    (tmp_path / "a.png").write_bytes(png(60_000, 1))
    with guarded(memory=LITTLE), pytest.raises(resize.DataError, match=r"a\.png: a side over 30,000 pixels"):
        pixels_of(tmp_path / "a.png")


def test_in_a_tar_and_in_a_folder_they_cost_themselves_only(tmp_path: Path) -> None:
    bad = {f"{name}{i}": make(*size) for name, make in FORMATS.items() for i, size in enumerate(SIZES)}
    members = {f"{name}.{name.rstrip('012')}": content for name, content in bad.items()}
    texts = {f"{name}.txt": "red" for name in bad}
    publishers.tar(
        tmp_path / "tar" / "0.tar", dict(sorted((members | texts).items())) | {"z.jpg": encode(), "z.txt": "red"}
    )
    for name, content in members.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    publishers.write_image(tmp_path / "folder" / "z.jpg")
    lines = [{"image": name, "texts": ["red"]} for name in (*members, "z.jpg")]
    publishers.lines(tmp_path / "folder" / "train.jsonl", *lines)
    from data_pipelines.preparation.run import prepare

    for kind in ("tar", "folder"):
        prepare("image_text", tmp_path / f"of {kind}", tmp_path / kind, max_bad_share=1, num_threads=1)
        records = open_records(tmp_path / f"of {kind}", "image_text", "train")
        assert [record.width for record in records] == [16]


def test_in_a_crawl_and_in_a_parquet_file(tmp_path: Path, no_decoder) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    (tmp_path / "crawl").mkdir()
    columns = {"image": [png(60_000, 60_000)], "alt": ["a"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "crawl" / "0.parquet")
    publishers.tar(tmp_path / "crawl" / "1.tar", {"a.jpg": jpeg(60_000, 60_000), "a.txt": "a"})
    with guarded(memory=LITTLE + (1 << 30)):
        found = READERS["crawl_tar"].read(tmp_path)
    assert [size for *_, size in found] == ["a side over 30,000 pixels"] * 2


def test_a_jpeg_of_many_scans_is_refused(no_decoder) -> None:
    """Each scan takes the time of the whole image, but only a few bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    index = content.rindex(b"\xff\xda")
    last = content[index:-2]
    read_header(content[:-2] + last * 20 + content[-2:])
    with pytest.raises(BadImageError, match="over 100 scans"):
        read_header(content[:-2] + last * 200 + content[-2:])


def test_scan_markers_after_the_only_scan_cost_nothing(no_decoder) -> None:
    """A decoder stops after the only scan of a sequential JPEG; if the first scan has one component, others follow."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(buffer, "JPEG")
    content = buffer.getvalue() + b"\xff\xda" * 200
    assert read_header(content).width == 64
    index = content.index(b"\xff\xda")
    one_component = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    pretence = b"\xff\xfe\x00\x06\xff\xda\x00\x0c"  # a comment exactly where a longer header would start
    for before in (b"", pretence):
        with pytest.raises(BadImageError, match="over 100 scans"):
            read_header(content[:index] + before + one_component + content[index + 14 :])


def test_records_of_a_prepared_folder_are_checked_too(tmp_path: Path, monkeypatch) -> None:
    """The images were checked by `prepare`, but the folder may come from another source."""
    case = Case(READERS["prepared"], tmp_path)
    calls = []
    monkeypatch.setattr(resize, "open_image", lambda encoded: calls.append(len(encoded)) or open_image(encoded))
    assert case.outcome({}) == "" and calls
    assert json.loads(next(tmp_path.rglob("index.json")).read_text())["splits"]
