"""A folder of images becomes a folder of regions that `prepare` reads, whatever happens on the way."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.images.resize import decode
from data_pipelines.preparation.run import prepare
from data_pipelines.regions.detecting import DetectionReport, detect_folder, find_images
from data_pipelines.regions.detector import Detector
from data_pipelines.storage.detectors import read_detector
from data_pipelines.storage.records import open_records
from tests.data_pipelines.publishers import encode, lines, write_image
from tests.data_pipelines.regions.tiny_detectors import save

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Two detectors, a and b."""
    folder = tmp_path_factory.mktemp("detectors")
    save(folder / "a", seed=0)
    save(folder / "b", seed=1)
    return folder


@pytest.fixture(scope="module")
def detector(models) -> Detector:
    return Detector.load(str(models / "a"), top=5, batch_size=2)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Twenty images of three sizes in two folders; the window of a batch size of 2 is 16 images."""
    for number in range(20):
        folder = tmp_path / "images" / ("even" if number % 2 == 0 else "odd")
        write_image(folder / f"{number:02}.jpg", height=40 + 8 * (number % 3), width=64, seed=number)
    return tmp_path / "images"


def detect(images: Path, output: Path, detector: Detector, **options) -> DetectionReport:
    return detect_folder(images, find_images(images), output, detector, num_threads=2, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.npz")}


def test_records_have_the_regions_that_the_detector_returns(photographs: Path, detector: Detector, tmp_path: Path):
    report = detect(photographs, tmp_path / "regions", detector)
    assert (report.written, report.found, report.skipped) == (20, 0, [])
    rows = [{"image": str(path), "texts": ["a text"]} for path in find_images(photographs)]
    lines(photographs / "train.jsonl", *rows)
    folder = prepare("image_text", tmp_path / "data", photographs, options={"regions": str(tmp_path / "regions")})
    records = open_records(tmp_path / "data", "image_text", "train")
    assert len(records) == 20
    for record in records:
        (expected,) = detector([decode(record.image)])
        assert len(record.regions) == len(expected) <= 5
        for name, array in vars(expected).items():  # alone and in a batch, numbers differ by rounding
            np.testing.assert_allclose(getattr(record.regions, name), array, atol=2e-3, err_msg=name)
    assert records.index.detector == detector.description | {"upright": True}
    assert records.index.detector == read_detector(tmp_path / "regions")
    assert json.loads((folder / "index.json").read_text())["regions"]["detector"]["name"] == "a"


def test_a_run_that_was_killed_goes_on(photographs: Path, detector: Detector, tmp_path: Path, monkeypatch):
    """The killed run leaves a file that is cut short and a temporary one."""
    detect(photographs, tmp_path / "whole", detector)
    calls = []

    def counted(self, pixels, original=Detector.detect):
        calls.append(len(pixels))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(Detector, "detect", counted)
        with pytest.raises(KeyboardInterrupt):
            detect(photographs, tmp_path / "killed", detector)
    before = contents(tmp_path / "killed")
    assert len(before) == 6 < 20
    cut, untouched = (tmp_path / "killed" / name for name in sorted(before)[:2])
    cut.write_bytes(cut.read_bytes()[:-100])
    (cut.parent / f".{cut.name}.leftover").write_bytes(b"half")
    written_at = untouched.stat().st_mtime_ns
    monkeypatch.setattr(Detector, "detect", counted)
    report = detect(photographs, tmp_path / "killed", detector)
    assert (report.found, report.written) == (5, 15)
    assert untouched.stat().st_mtime_ns == written_at
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob("*.leftover"))
    calls.clear()
    report = detect(photographs, tmp_path / "killed", detector)
    assert (report.found, report.written, calls) == (20, 0, [])


def test_damaged_images_are_skipped_and_listed(photographs: Path, detector: Detector, tmp_path: Path):
    whole = (photographs / "even/00.jpg").read_bytes()
    (photographs / "even/00.jpg").write_bytes(whole[:-100])
    (photographs / "odd/01.jpg").write_bytes(b"no image")
    (photographs / "odd/03.jpg").write_bytes(encode(height=2, width=9000))  # the detector's processor fails
    huge = bytearray(encode(format="BMP"))
    huge[18:26] = (20_000).to_bytes(4, "little") * 2
    (photographs / "odd/huge.bmp").write_bytes(huge)
    report = detect(photographs, tmp_path / "regions", detector)
    assert report.written == 17 and len(report.skipped) == 4
    text = "\n".join(report.lines())
    assert "even/00.jpg: truncated or damaged file" in text and "1 not a JPEG, PNG, WebP, BMP or GIF" in text
    assert "odd/huge.bmp: over 64 megapixels" in text
    assert "odd/03.jpg: a size that the detector's image processor refuses" in text
    (photographs / "even/00.jpg").write_bytes(whole)  # repaired
    report = detect(photographs, tmp_path / "regions", detector)
    assert (report.found, report.written, len(report.skipped)) == (17, 1, 3)


def test_no_image_with_regions(photographs: Path, models: Path, tmp_path: Path):
    strict = Detector.load(str(models / "a"), min_confidence=0.999)
    with pytest.raises(DataError, match=r"No image of .* has regions: skipped: 20 no region with an area and with"):
        detect(photographs, tmp_path / "regions", strict)


@pytest.mark.parametrize("orientation", [3, 6])
def test_boxes_fit_the_pixels_that_training_reads(orientation: int, detector: Detector, tmp_path: Path):
    """Images are turned as in a user's own data set; in published ones they are read as stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    Image.open(io.BytesIO(encode(height=40, width=64))).save(content, "PNG", exif=exif)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(content.getvalue())
    reports = [
        detect(tmp_path / "images", tmp_path / f"upright {upright}", detector, upright=upright)
        for upright in (True, False)
    ]
    assert [report.turned for report in reports] == [1, 0] and "turned upright" in reports[0].lines()[1]
    turned, stored = (detector([decode(content.getvalue(), orientation=o)])[0] for o in (orientation, 1))
    assert not np.allclose(turned.boxes, stored.boxes, atol=1e-2)
    lines(tmp_path / "images" / "train.jsonl", {"image": "1.png", "texts": ["a text"]})
    options = {"regions": str(tmp_path / "upright True")}
    prepare("image_text", tmp_path / "data", tmp_path / "images", options=options)
    record = open_records(tmp_path / "data", "image_text", "train")[0]
    np.testing.assert_allclose(record.regions.boxes, turned.boxes, atol=1e-4)
    with np.load(tmp_path / "upright False" / "1.png.npz", allow_pickle=False) as arrays:
        np.testing.assert_allclose(arrays["boxes"] / [64, 40, 64, 40], stored.boxes, atol=1e-4)


def test_another_detector_or_option_is_refused(photographs: Path, models: Path, detector: Detector, tmp_path: Path):
    detect(photographs, tmp_path / "regions", detector)
    before = contents(tmp_path / "regions")
    other = Detector.load(str(models / "b"), top=5, batch_size=2)
    cases = [
        (other, {}, r"--output=.* has regions of the detector a \(\w{12}\), and this call has those of b \(\w{12}\)"),
        (Detector.load(str(models / "a"), top=6), {}, r"has regions with top=5, and this call has 6"),
        (detector, {"upright": False}, r"has regions with upright=True, and this call has False"),
    ]
    for another, options, message in cases:
        with pytest.raises(DataError, match=message) as error:
            detect(photographs, tmp_path / "regions", another, **options)
        assert "\n" not in str(error.value)
    (tmp_path / "regions" / "detector.json").write_text("{}")
    with pytest.raises(DataError, match=r"detector\.json is damaged \(not a description of a detector\)"):
        detect(photographs, tmp_path / "regions", detector)
    (tmp_path / "regions" / "detector.json").unlink()
    with pytest.raises(DataError, match="has regions of an unknown detector"):
        detect(photographs, tmp_path / "regions", detector)
    assert contents(tmp_path / "regions") == before


def test_regions_of_another_detector_for_a_finished_data_set(photographs: Path, models: Path, detector, tmp_path: Path):
    detect(photographs, tmp_path / "a", detector)
    detect(photographs, tmp_path / "b", Detector.load(str(models / "b")))
    lines(photographs / "train.jsonl", {"image": "odd/01.jpg", "texts": ["a text"]})
    for name in ("a", "a", "missing"):
        prepare("image_text", tmp_path / "data", photographs, options={"regions": str(tmp_path / name)})
    with pytest.raises(DataError, match=r"has regions of the detector a .*regions=.*b has those of b"):
        prepare("image_text", tmp_path / "data", photographs, options={"regions": str(tmp_path / "b")})


def test_folders_that_cannot_be_used(detector: Detector, tmp_path: Path):
    with pytest.raises(DataError, match="is not a folder"):
        find_images(tmp_path / "missing")
    write_image(tmp_path / ".hidden" / "1.jpg")
    with pytest.raises(DataError, match=r"has no image files \(\.bmp, \.gif"):
        find_images(tmp_path)
    write_image(tmp_path / "1.jpg")
    write_image(tmp_path / "1.png", format="PNG")
    with pytest.raises(DataError, match=r"regions of 1\.jpg and 1\.png would have the same id"):
        find_images(tmp_path)


def test_the_program(photographs: Path, models: Path, tmp_path: Path):
    (photographs / "odd/01.jpg").write_bytes(b"no image")
    command = [sys.executable, "-m", "data_pipelines.detect_regions", f"--images={photographs}"]

    def run(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *more], capture_output=True, text=True, timeout=600)

    arguments = (f"--detector={models / 'a'}", f"--output={tmp_path / 'regions'}", "--top=5", "--device=cpu")
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path / 'regions'}: a (") and first.endswith("features of 32 numbers, 5 classes")
    assert rest[:2] == ["regions of 19 images", "skipped: 1 not a JPEG, PNG, WebP, BMP or GIF"]
    assert "regions: 20 of 20 images" in done.stderr and len(contents(tmp_path / "regions")) == 19
    for wrong, message in (((*arguments, "--top=6"), "top=5"), ((), "Give --detector;"), (("x",), "x is not a flag")):
        done = run(*wrong)
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
