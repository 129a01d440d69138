"""The benchmark of `collect`, at a tiny size."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("apache_beam", reason="needs Apache Beam, the extra `beam`")

from benchmarks.learning import collect_quality
from data_pipelines.storage.records import Record, open_records
from data_pipelines.web_collection import pipeline, run
from data_pipelines.web_collection.settings import Settings
from data_pipelines.web_collection.texts import HEURISTICS, judge
from tests.data_pipelines.web_collection.crawl import image_bytes

SETTINGS = Settings(min_side=32, max_distance=-1)


class Knows:
    """Gives the true text of an image 0.9, and any other 0.4."""

    def __init__(self, true: dict[str, str]) -> None:
        self._true = true

    def score(self, encoded: bytes, texts: list[str]) -> list[float]:
        true = self._true[hashlib.sha256(encoded).hexdigest()]
        return [0.9 if collect_quality.plain(text) == true else 0.4 for text in texts]


def test_figures(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = open_records(data_dir, "shapes", "train")
    found = collect_quality.usable(records, 32)
    knows = Knows({hashlib.sha256(record.image).hexdigest(): text for record, text, _ in found})
    monkeypatch.setattr(pipeline, "Scorer", lambda *_: knows)
    monkeypatch.setattr(run, "check_model", lambda *_: "a stand-in")
    settings = dataclasses.replace(SETTINGS, model="knows")
    result = collect_quality.measure(records, settings, base=20, wrong=2, folder=tmp_path)
    assert result["funnel"]["right"], result["funnel"]
    assert result["funnel"]["images_in_and_out"] == [36, 20]
    assert result["longest_text"]["images"] == 20 and result["longest_text"]["true"] < 0.9
    assert result["scored_text"] == {
        "images": 20,
        "chance": 0.3333,
        "true": 1.0,
        "score 0.5": {"images_kept": 1.0, "true": 1.0},
        "score 0.9": {"images_kept": 1.0, "true": 1.0},
    }
    assert result["images_kept_without_a_true_text"] == {"score 0.5": 0.0, "score 0.9": 0.0}
    assert json.loads(json.dumps(result)) == result


def test_a_wrong_count_is_noticed(data_dir: Path, tmp_path: Path) -> None:
    found = collect_quality.usable(open_records(data_dir, "shapes", "train"), 32)[:22]
    cases = collect_quality.make_cases(found, 2, SETTINGS, np.random.default_rng(0))
    stages: dict[str, list[int]] = {}
    for case in cases:
        for stage, images, texts in case.drops:
            counts = stages.setdefault(stage, [0, 0])
            counts[0], counts[1] = counts[0] + images, counts[1] + texts

    def right(changed: dict[str, list[int]]) -> bool:
        listed = [
            {"stage": stage, "images": {"in": 0, "out": 0, "dropped": i}, "texts": {"dropped": t}}
            for stage, (i, t) in changed.items()
        ]
        (tmp_path / "funnel.json").write_text(json.dumps({"stages": listed}))
        return collect_quality.compare(cases, tmp_path)["right"]

    assert right(stages) and right({**stages, "score": [0, 0]})
    assert not right({**stages, "score": [0, 1]})
    assert not right({**stages, "size": [stages["size"][0] - 1, stages["size"][1]]})
    assert not right({stage: counts for stage, counts in stages.items() if stage != "size"})


@pytest.mark.parametrize("kind", collect_quality._SPAM)
def test_spam_is_spam(kind: str) -> None:
    assert kind in HEURISTICS
    for text in ("a small red circle", "snowboarders , approximately nine"):
        settings = Settings(words=frozenset(text.split()))
        assert judge(text, settings)[1] == ""
        assert judge(collect_quality._SPAM[kind](text), settings)[1] == kind


def test_near_duplicates_are_counted() -> None:
    records = [Record(image_bytes(seed, 200, 240), 200, 240, str(seed), ("x",)) for seed in (1, 2, 3, 1)]
    result = collect_quality.near_duplicates(records, 4)
    assert (result["pairs_of_different_images"], result["pairs_taken_for_duplicates"]) == (6, 1)
    assert result["nearest_bits"] == 0
    assert result["found"]["half the size"] == 1.0 and set(result["found"]) == set(collect_quality._VARIANTS)
