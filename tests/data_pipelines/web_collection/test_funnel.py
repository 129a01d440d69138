"""Counts of the stages."""

import itertools
import json

import pytest

from data_pipelines.web_collection.funnel import EXAMPLES, FOUND, KEPT, STAGES, Drop, Tally, as_json, funnel, table
from tests.data_pipelines.web_collection.crawl import tallies

DROPS = [
    *[Drop(FOUND, images=1, texts=3)] * 10,
    *[Drop("size", f"0.tar:{i}", images=1, texts=3, detail="1x1") for i in range(4)],
    *[Drop("length", f"0.tar:{i}", f"text {i}", "short" if i else "long", texts=1) for i in range(7)],
    Drop("some text", "0.tar:9", images=1),
    Drop("best text", texts=6),
    *[Drop(KEPT, images=1, texts=1)] * 5,
]


def test_rows() -> None:
    rows = {row.stage: row for row in funnel(tallies(DROPS))}
    assert list(rows) == list(STAGES)
    size, length = rows["size"], rows["length"]
    assert (size.images, size.dropped_images, size.images_left, size.texts, size.texts_left) == (10, 4, 6, 30, 18)
    assert (length.images, length.images_left, length.texts, length.dropped_texts) == (6, 6, 18, 7)
    assert (rows["near duplicate"].images_left, rows["near duplicate"].texts_left) == (5, 5)


@pytest.mark.parametrize(
    "wrong", [DROPS[1:], DROPS[:-1], [*DROPS, Drop("size", texts=1)], [*DROPS, Drop("no such stage")]]
)
def test_counts_that_do_not_add_up(wrong: list[Drop]) -> None:
    with pytest.raises(ValueError, match="should be left"):
        funnel(tallies(wrong))


def test_adding_up_does_not_depend_on_order_or_grouping() -> None:
    drops = [Drop("length", f"0.tar:{i:02d}", f"{i}", f"reason {i % 3}", texts=1) for i in range(30)]
    whole = Tally.total(map(Tally.of, drops))
    for size, order in itertools.product((1, 4, 7), (drops, drops[::-1])):
        parts = [Tally.total(map(Tally.of, order[i : i + size])) for i in range(0, 30, size)]
        assert Tally.total([Tally(), *parts]) == whole
    assert whole.texts == 30 and whole.reasons == {"reason 0": 10, "reason 1": 10, "reason 2": 10}
    assert [len(examples) for examples in whole.examples.values()] == [EXAMPLES] * 3


def test_examples_are_few_short_and_of_all_reasons() -> None:
    drops = [Drop("length", f"0.tar:{i}", "x" * 5000, "common", texts=1) for i in range(9)]
    drops.append(Drop("length", "0.tar:5", "y", "rare", texts=1))
    chosen = tallies(drops)["length"].chosen_examples()
    assert [(location, reason) for location, _, reason, _ in chosen] == [
        ("0.tar:0", "common"),
        ("0.tar:5", "rare"),
        ("0.tar:1", "common"),
        ("0.tar:2", "common"),
        ("0.tar:3", "common"),
    ]
    assert max(map(len, itertools.chain(*chosen))) == 200


def test_table() -> None:
    lines = table(funnel(tallies(DROPS))).splitlines()
    assert lines[0].split() == [
        "stage",
        *["images", "dropped", "left", "share"],
        *["texts", "dropped", "left", "share"],
    ]
    assert lines[2].split() == ["size", "10", "4", "6", "60.0%", "30", "12", "18", "60.0%"]
    assert len({len(line) for line in lines}) == 1
    empty = table(funnel({})).splitlines()
    assert empty[1].split() == ["image", "file", "0", "0", "0", "-", "0", "0", "0", "-"]


def test_json() -> None:
    stages = json.loads(json.dumps(as_json(funnel(tallies(DROPS)))))
    assert stages[1] == {
        "stage": "size",
        "drops": "images with a side that is too small",
        "images": {"in": 10, "dropped": 4, "out": 6, "share": 0.6},
        "texts": {"in": 30, "dropped": 12, "out": 18, "share": 0.6},
        "reasons": {},
        "examples": [{"image": f"0.tar:{i}", "detail": "1x1"} for i in range(4)],
    }
    assert stages[3]["reasons"] == {"short": 6, "long": 1}


def test_image() -> None:
    import cv2
    import numpy as np

    from data_pipelines.web_collection.drawing import draw

    png = draw(funnel(tallies(DROPS)), "title")
    assert draw(funnel(tallies(DROPS)), "title") == png
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert pixels.shape[0] > 500 and pixels.shape[1] > 1000
    orange = (np.abs(pixels.astype(int) - (0xE2, 0xA7, 0x6F)).max(-1) < 8).sum()
    assert orange > 1000
