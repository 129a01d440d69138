"""Does `data_pipelines.collect` drop what it should, and keep the true text of an image?

    python -m benchmarks.learning.collect_quality --data_dir=data --records=flickr8k/train --min_side=100
    python -m benchmarks.learning.collect_quality --data_dir=data --records=shapes/test --min_side=32 \\
        --max_distance=-1 --matching_model=runs/quickstart

Makes a crawl from a prepared data set: each image with its true text, true texts of other images, and spam; and images
that are small, damaged, copied, on pages in other languages, or without a text of their own. What each stage must drop
is known by construction and compared with the funnel. With a model the same images are collected again: how often is
the true text the chosen one, and how many images that have none are kept? Also asks how many near duplicates, made in
several ways, are found. Prints one JSON object and writes it to --output=FILE.
"""

import collections
import dataclasses
import hashlib
import io
import itertools
import json
import re
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import flags

from benchmarks.harness.measuring import report, rounded
from data_pipelines.errors import DataError
from data_pipelines.images.resize import decode
from data_pipelines.storage.records import Record, open_records
from data_pipelines.web_collection.near_duplicates import perceptual_hash
from data_pipelines.web_collection.run import collect
from data_pipelines.web_collection.settings import Settings
from experiments.run.common_flags import DATA_DIR, OUTPUT, required
from experiments.run.config_flags import run_main

_RECORDS = flags.DEFINE_string("records", "", "DATASET/SPLIT of --data_dir that the crawl is made from.")
_BASE = flags.DEFINE_integer("base", 500, "Images with a true text, at most.", lower_bound=4)
_WRONG = flags.DEFINE_integer("wrong", 4, "True texts of other images that each image has.", lower_bound=1)
_MIN_SIDE = flags.DEFINE_integer("min_side", 300, "As of data_pipelines.collect.")
_MAX_DISTANCE = flags.DEFINE_integer("max_distance", 4, "As of data_pipelines.collect.")
_MATCHING_MODEL = flags.DEFINE_string("matching_model", "", "Trained model that scores the texts.")

_BOILERPLATE = "click the image for more of this"
_SHARDS = 3
_MIN_SCORES = (0.5, 0.9)
# Texts that one stage must drop, made from a true one.
_SPAM: dict[str, Callable[[str], str]] = {
    "length": lambda text: text.split()[0],
    "e-mail": lambda text: f"{text} by jane.doe@example.org",
    "address": lambda text: f"{text} at https://shop.example/buy",
    "file name": lambda text: f"{text} IMG_0815.jpg",
    "characters": lambda text: f"{text.split()[0]} 12 99 / 1099 $$$",
    "capitals": lambda text: text.upper(),
    "vocabulary": lambda text: " ".join(f"{word}qx" for word in text.split()),
}
_VARIANTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "JPEG, quality 30": lambda pixels: decode(
        cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 30])[1].tobytes()
    ),
    "half the size": lambda pixels: cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "a tenth brighter": lambda pixels: np.clip(pixels * 1.1, 0, 255).astype(np.uint8),
    "2% cut off all around": lambda pixels: pixels[
        len(pixels) // 50 : -(len(pixels) // 50) or None, pixels.shape[1] // 50 : -(pixels.shape[1] // 50) or None
    ],
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One image on one page, and what the stages must drop of it: (stage, images, texts)."""

    encoded: bytes
    about: dict[str, Any]
    drops: tuple[tuple[str, int, int], ...] = ()


def plain(text: str) -> str:
    """Words of small letters and commas alone: no heuristic has anything against them."""
    return " ".join(re.findall(r"[a-z]+|,", text.lower()))


def usable(records: Sequence[Record], min_side: int) -> list[tuple[Record, str, str]]:
    """Records that are large enough, with two plain texts of 4 to 40 words that no other has."""
    found, seen = [], set()
    for record in records:
        texts = [plain(text) for text in record.texts[:2]]
        keys = {text.replace(" ,", "") for text in texts}
        lengths = [len(key.split()) for key in keys]
        fits = min(record.height, record.width) >= min_side and min(lengths) >= 4 and max(lengths) <= 40
        if fits and len(keys) == 2 and not keys & seen:
            seen |= keys
            found.append((record, *texts))
    return found


def make_cases(
    found: Sequence[tuple[Record, str, str]], wrong: int, settings: Settings, rng: np.random.Generator
) -> list[Case]:
    """The crawl: base images, and a tenth as many of each other kind."""
    number = len(found) * 10 // 11  # the others have boilerplate alone
    if number < wrong + 2:
        raise DataError(f"Only {len(found)} usable images for {wrong} wrong texts each; give more records.")
    shifts = 1 + rng.permutation(number - 1)[:wrong]
    cases = []
    for i, (record, text, _) in enumerate(found[:number]):
        kinds = rng.choice(list(_SPAM), 2, replace=False).tolist()
        texts = [text, *(found[(i + int(s)) % number][1] for s in shifts), *(_SPAM[kind](text) for kind in kinds)]
        texts += [f"{text.capitalize()} !", _BOILERPLATE]
        # What says the same comes after what it repeats.
        order = [*rng.permutation(len(texts) - 2).tolist(), len(texts) - 2, len(texts) - 1]
        drops = [*((kind, 0, 1) for kind in kinds), ("same text", 0, 1), ("repeated", 0, 1), ("best text", 0, wrong)]
        cases.append(Case(record.image, {"texts": [texts[k] for k in order], "language": "en-GB"}, tuple(drops)))
    for record, _, _ in found[number:]:
        about = {"alt": _BOILERPLATE, "language": "en"}
        cases.append(Case(record.image, about, (("repeated", 0, 1), ("own text", 1, 0))))
    for i in rng.permutation(number)[: max(1, number // 10)].tolist():
        cases += _others(*found[i], settings)
    return cases


def without_true_text(found: Sequence[tuple[Record, str, str]], wrong: int) -> list[Case]:
    """Each image with nothing but true texts of other images."""
    texts = [text for _, text, _ in found]
    return [
        Case(record.image, {"texts": [texts[(i + k) % len(found)] for k in range(1, wrong + 1)], "language": "en"})
        for i, (record, _, _) in enumerate(found)
    ]


def _others(record: Record, text: str, other: str, settings: Settings) -> list[Case]:
    """One case of each other kind, made from an image with two texts."""
    two = {"alt": text, "title": other, "language": "en"}
    spam = {"alt": f"{text} www.x.com", "title": "", "language": "en"}
    small = cv2.imencode(".png", np.zeros((settings.min_side - 1, 2 * settings.min_side, 3), np.uint8))[1].tobytes()
    pixels = cv2.cvtColor(decode(record.image), cv2.COLOR_RGB2BGR)
    again = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()
    cases = [
        Case(b"<html>404</html>", two, (("image file", 1, 2),)),
        Case(small, two, (("size", 1, 2),)),
        Case(record.image, {**two, "language": "de"}, (("language", 1, 2),)),
        Case(record.image, {**two, "language": ""}, (("language", 1, 2),)),
        Case(record.image, spam, (("length", 0, 1), ("address", 0, 1), ("some text", 1, 0))),
        Case(record.image[: len(record.image) // 2], two, (("whole file", 1, 2),)),
        Case(record.image, {"alt": f"{text} .", "language": "en"}, (("same file", 1, 0), ("same text", 0, 1))),
    ]
    if settings.max_distance >= 0:
        cases.append(Case(again, {"alt": other, "language": "en"}, (("near duplicate", 1, 1),)))
    return cases


def write_crawl(folder: Path, cases: Sequence[Case], rng: np.random.Generator) -> None:
    """Tar files of all cases in an order by chance."""
    order = rng.permutation(len(cases)).tolist()
    for shard in range(_SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number, i in enumerate(order[shard::_SHARDS]):
                about = json.dumps(cases[i].about).encode()
                for suffix, content in ((".jpg", cases[i].encoded), (".json", about)):
                    member = tarfile.TarInfo(f"{number:06d}{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def compare(cases: Sequence[Case], output: Path) -> dict[str, Any]:
    """What each stage dropped of what it should, and whether that is so everywhere."""
    expected: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for stage, images, texts in itertools.chain.from_iterable(case.drops for case in cases):
        expected[stage] = [expected[stage][0] + images, expected[stage][1] + texts]
    stages = json.loads((output / "funnel.json").read_text())["stages"]
    dropped = {row["stage"]: [row["images"]["dropped"], row["texts"]["dropped"]] for row in stages}
    rows = {
        stage: f"{images} of {expected[stage][0]} images, {texts} of {expected[stage][1]} texts"
        for stage, (images, texts) in dropped.items()
    }
    right = dict(expected) == dropped
    images = [stages[0]["images"]["in"], stages[-1]["images"]["out"]]
    return {"right": right, "images_in_and_out": images, "stages": rows}


def chosen(output: Path) -> dict[str, tuple[str, float | None]]:
    """Hash of the image -> chosen text and its score."""
    found = {}
    for path in sorted(output.glob("*/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    about = json.load(tar.extractfile(member))
                    found[about["sha256"]] = about["texts"][0], about["score"]
    return found


def true_share(
    found: Sequence[tuple[Record, str, str]], output: Path, wrong: int, min_scores: Sequence[float]
) -> dict[str, Any]:
    """How often the chosen text is the true one, of all base images and of those that reach a score."""
    number = len(found) * 10 // 11
    texts = chosen(output)
    rows = []
    for record, text, _ in found[:number]:
        kept = texts.get(hashlib.sha256(record.image).hexdigest())
        if kept is not None:
            rows.append((plain(kept[0]) == text, kept[1]))
    result = {"images": len(rows), "chance": rounded(1 / (1 + wrong)), "true": rounded(np.mean([r for r, _ in rows]))}
    for least in min_scores:
        left = [right for right, score in rows if score >= least]
        result[f"score {least:g}"] = {
            "images_kept": rounded(len(left) / len(rows)),
            "true": rounded(float(np.mean(left))) if left else None,
        }
    return result


def near_duplicates(records: Sequence[Record], distance: int) -> dict[str, Any]:
    """Share of changed copies within `distance` bits of their originals, and pairs of different images that are."""
    pixels = [decode(record.image) for record in records]
    own = [perceptual_hash(image) for image in pixels]
    found = {}
    for name, change in _VARIANTS.items():
        bits = [(perceptual_hash(change(image)) ^ mine).bit_count() for image, mine in zip(pixels, own, strict=True)]
        found[name] = rounded(float(np.mean(np.array(bits) <= distance)))
    values = np.array(own, np.uint64)
    bits_NxN = np.bitwise_count(values[:, None] ^ values[None])[np.triu_indices(len(own), 1)]
    return {
        "found": found,
        "pairs_of_different_images": len(bits_NxN),
        "pairs_taken_for_duplicates": int((bits_NxN <= distance).sum()),
        "nearest_bits": int(bits_NxN.min()),
    }


def measure(records: Sequence[Record], settings: Settings, base: int, wrong: int, folder: Path) -> dict[str, Any]:
    """All figures; `settings.model` may be empty. Crawl and output lie in `folder`."""
    rng = np.random.default_rng(0)
    model, settings = settings.model, dataclasses.replace(settings, model="", max_images_per_text=wrong + 1)
    found = usable(records, settings.min_side)[: base * 11 // 10]
    words = " ".join([_BOILERPLATE, *(text for _, *texts in found for text in texts)]).split()
    settings = dataclasses.replace(settings, words=frozenset(words))
    cases = make_cases(found, wrong, settings, rng)
    (folder / "crawl").mkdir()
    write_crawl(folder / "crawl", cases, rng)
    collect(folder / "crawl", folder / "longest", settings)
    result = {
        "funnel": compare(cases, folder / "longest"),
        "longest_text": true_share(found, folder / "longest", wrong, ()),
    }
    if settings.max_distance >= 0:
        result["near_duplicates"] = near_duplicates([record for record, _, _ in found], settings.max_distance)
    if model:
        scored = dataclasses.replace(settings, model=model, min_score=0.0, max_distance=-1)
        collect(folder / "crawl", folder / "scored", scored)
        result["scored_text"] = true_share(found, folder / "scored", wrong, _MIN_SCORES)
        (folder / "lies").mkdir()
        write_crawl(folder / "lies", without_true_text(found, wrong), rng)
        collect(folder / "lies", folder / "scored_lies", scored)
        scores = np.array([score for _, score in chosen(folder / "scored_lies").values()])
        result["images_kept_without_a_true_text"] = {
            f"score {least:g}": rounded(float(np.mean(scores >= least))) for least in _MIN_SCORES
        }
    return result


def main() -> None:
    """Measure and report."""
    required(DATA_DIR, _RECORDS)
    dataset, _, split = _RECORDS.value.partition("/")
    settings = Settings(min_side=_MIN_SIDE.value, max_distance=_MAX_DISTANCE.value, model=_MATCHING_MODEL.value)
    with tempfile.TemporaryDirectory() as folder:
        records = open_records(DATA_DIR.value, dataset, split)
        result = measure(records, settings, _BASE.value, _WRONG.value, Path(folder))
    head = {"records": _RECORDS.value, "wrong_texts": _WRONG.value, "model": _MATCHING_MODEL.value}
    report(head | result, OUTPUT.value)


if __name__ == "__main__":
    run_main(main, takes_config=False)
