"""The whole pipeline on Apache Beam, with a crawl that is small enough to know every count."""

import itertools
import json
from pathlib import Path

import pytest

pytest.importorskip("apache_beam", reason="needs Apache Beam, the extra `beam`")

from data_pipelines.errors import DataError
from data_pipelines.preparation.run import prepare
from data_pipelines.storage.records import open_records
from data_pipelines.web_collection import pipeline, run
from data_pipelines.web_collection.near_duplicates import ImageHash
from data_pipelines.web_collection.run import collect
from data_pipelines.web_collection.scoring import Scorer
from data_pipelines.web_collection.settings import Settings
from data_pipelines.web_collection.sources import find_parts, read_part
from data_pipelines.web_collection.tar_files import read_tar
from tests.data_pipelines.web_collection.crawl import bomb, image, image_bytes, shard

SETTINGS = Settings(min_side=40, images_per_shard=3, max_images_per_text=3)
SPAM = "Click here for more"


def crawl(folder: Path) -> Path:
    """Three tar files: eight good images, and one or two for each stage that drops something."""
    en = {"language": "en"}
    good = [(image_bytes(i), {**en, "alt": f"short text {i}", "title": f"a much longer text {i}"}) for i in range(8)]
    shard(folder / "0.tar", *good[:4], (b"no image", {**en, "alt": "one two three"}), (image_bytes(20, 39, 90), en))
    shard(
        folder / "1.tar",
        *good[4:],
        (bomb(), {**en, "alt": "one two three", "title": "one two four"}),
        (image_bytes(21), {"language": "fr", "alt": "un deux trois"}),
        (image_bytes(22), {"alt": "one two three"}),
        (
            image_bytes(23),
            {**en, "alt": "see IMG_1234.jpg here", "title": "mail x@y.com to me", "caption": "at www.y.com today"},
        ),
        (image_bytes(24)[:70], {**en, "alt": "one two three"}),
    )
    shard(
        folder / "2.tar",
        (image_bytes(0), {**en, "alt": "Short text 0!", "title": "the longest of all its texts"}),
        *[(image_bytes(30 + i), {**en, "alt": SPAM.upper() if i else SPAM, "title": f"{SPAM}!"}) for i in range(2)],
        *[(image_bytes(40 + i), {**en, "alt": f"{SPAM}.", "caption": f"own text of {i}"}) for i in range(2)],
        (image_bytes(5, 80, 96, "JPEG"), {**en, "alt": "the same image again"}),
    )
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crawl(tmp_path_factory.mktemp("crawl") / "source")


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """An output folder beside the files of a killed run."""
    folder = tmp_path_factory.mktemp("collected") / "out"
    leftover = folder.with_name(".out.unfinished") / "train"
    leftover.mkdir(parents=True)
    (leftover / "train-00099-of-00100.tar").touch()
    collect(source, folder, SETTINGS)
    return folder


def test_every_count_of_the_funnel(collected: Path) -> None:
    funnel = json.loads((collected / "funnel.json").read_text())
    dropped = {s["stage"]: (s["images"]["dropped"], s["texts"]["dropped"]) for s in funnel["stages"]}
    assert {stage: counts for stage, counts in dropped.items() if any(counts)} == {
        "image file": (2, 3),
        "size": (1, 0),
        "language": (2, 2),
        "e-mail": (0, 1),
        "address": (0, 1),
        "file name": (0, 1),
        "capitals": (0, 1),
        "some text": (1, 0),
        "whole file": (1, 1),
        "same file": (1, 0),
        "same text": (0, 2),
        "repeated": (0, 4),
        "own text": (2, 0),
        "best text": (0, 9),
        "near duplicate": (1, 1),
    }
    assert (funnel["stages"][0]["images"]["in"], funnel["stages"][0]["texts"]["in"]) == (21, 36)
    assert funnel["stages"][-1]["images"]["out"] == funnel["images"] == 10
    assert funnel["text"] == "the longest of each image; no model looked at the images"
    examples = {s["stage"]: s["examples"] for s in funnel["stages"]}
    assert examples["file name"] == [{"image": "1.tar:7", "text": "see IMG_1234.jpg here", "reason": "file name"}]
    assert examples["same file"] == [{"image": "2.tar:0", "detail": "as 0.tar:0"}]
    assert examples["near duplicate"][0]["image"] in ("1.tar:1", "2.tar:5")


def test_what_is_written(collected: Path, tmp_path: Path) -> None:
    assert [path.name for path in collected.parent.iterdir()] == ["out"]
    assert sorted(files(collected)) == [
        "funnel.json",
        "funnel.png",
        *(f"train/train-0000{i}-of-00004.tar" for i in range(4)),
    ]
    found = [list(read_tar(path, path.name)) for path in sorted((collected / "train").iterdir())]
    assert [len(shard) for shard in found] == [3, 3, 3, 1]
    texts = [text for shard in found for sample in shard for text in sample.texts]
    assert texts[:5] == ["the longest of all its texts", *(f"a much longer text {i}" for i in range(1, 5))]
    assert texts[-2:] == ["own text of 0", "own text of 1"]
    assert ("a much longer text 5" in texts) != ("the same image again" in texts)
    prepare("image_text", tmp_path / "data", collected, num_threads=1)
    assert [record.texts[0] for record in open_records(tmp_path / "data", "image_text", "train")] == texts


def test_bytes_do_not_depend_on_workers_or_order(
    collected: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "find_parts", lambda path: (path, find_parts(path)[1][::-1]))
    workers = ["--direct_num_workers=3", "--direct_running_mode=multi_threading"]
    collect(source, tmp_path / "out", SETTINGS, beam_options=workers)
    assert files(tmp_path / "out") == files(collected)


def test_parts_that_a_shuffle_brings_in_any_order() -> None:
    for lengths in itertools.permutations([("b", 2), ("a", 3), ("c", 1)]):
        assert pipeline._firsts(lengths) == {"a": 0, "b": 3, "c": 5, pipeline._TOTAL: 6}
    worse = image("text", sha256="c", image_hash=0b111)
    for better in itertools.permutations([ImageHash("a", 0b1), ImageHash("b", 0b11)]):
        (drop,) = pipeline._unless_near_duplicate(("c", ([worse], better)))
        assert (drop.stage, drop.images, drop.texts, drop.detail) == ("near duplicate", 1, 1, "2 bits from a")


def test_scores_choose_and_drop(source: Path, tmp_path: Path, saved_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chosen text of each image, and whether it is kept, agree with direct scores of the model."""
    scorer, loaded = Scorer(str(saved_run)), []
    monkeypatch.setattr(pipeline, "Scorer", lambda path, checkpoint: loaded.append((path, checkpoint)) or scorer)
    monkeypatch.setattr(pipeline, "_SCORED_TOGETHER", 1)
    folder, parts = find_parts(source / "0.tar")
    scores = {}
    for number, found in enumerate(read_part(folder, parts[0])):
        if number < 4:
            scores[number] = scorer.score(image_bytes(number), found.texts)
    best = {number: max(of_image) for number, of_image in scores.items()}
    min_score = sorted(best.values())[1]
    assert len(set(best.values())) == 4
    settings = Settings(
        min_side=40, model=str(saved_run), checkpoint="last", min_score=min_score, max_distance=-1, split="val"
    )
    workers = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    rows = {row.stage: row for row in collect(source / "0.tar", tmp_path / "out", settings, beam_options=workers)}
    assert loaded == [(str(saved_run), "last")]
    assert (rows["score"].images, rows["score"].dropped_images) == (4, 1)
    path = tmp_path / "out" / "val" / "val-00000-of-00001.tar"
    expected = [
        (("short text {}", "a much longer text {}")[scores[i].index(best[i])].format(i), best[i])
        for i in range(4)
        if best[i] >= min_score
    ]
    assert [sample.texts[0] for sample in read_tar(path, "")] == [text for text, _ in expected]
    written = path.read_bytes()
    assert all(f'"score": {score}'.encode() in written for _, score in expected)
    assert json.loads((tmp_path / "out" / "funnel.json").read_text())["text"].startswith(
        f"the best of each image by {saved_run}/checkpoints/0, step 0, at least "
    )


def test_nothing_is_left_behind(source: Path, tmp_path: Path) -> None:
    whole = (source / "0.tar").read_bytes()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "0.tar").write_bytes(whole[: len(whole) // 2 // 512 * 512 + 100])
    with pytest.raises(
        DataError, match=r"^/.*0.tar is not a whole tar file \([a-z -]*\); download it again or remove it.$"
    ):
        collect(tmp_path / "bad", tmp_path / "out", SETTINGS)
    with pytest.raises(DataError, match=r"^None of 6 images is left; the stage 'size' dropped 5 of them; loosen"):
        collect(source / "0.tar", tmp_path / "out", Settings(min_side=4000))
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


@pytest.mark.parametrize(
    ("output", "fields", "options", "message"),
    [
        (".", {}, {}, "exists; remove it or give another --output"),
        ("none/out", {}, {}, "does not exist; make it, or give another --output"),
        ("source/out", {}, {}, "is inside --source"),
        ("out", {"model": "no/model"}, {}, "--model: no/model"),
        ("out", {}, {"runner": "Nope"}, "--runner=Nope cannot be used"),
        ("out", {}, {"beam_options": ["--direct_num_worker=2"]}, "--direct_num_worker is no option of Beam"),
        ("out", {}, {"image_folder": Path("none")}, "--image_folder=.*none is not a folder"),
    ],
)
def test_errors_are_raised_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, fields: dict, options: dict, message: str
) -> None:
    (tmp_path / "source").mkdir()

    def no_work(*_: object) -> None:
        raise AssertionError("worked")

    monkeypatch.setattr(run, "find_parts", no_work)
    with pytest.raises(DataError, match=message):
        collect(tmp_path / "source", tmp_path / output, Settings(**fields), **options)
