"""Drawn scenes: a pure function, disjoint splits, and true captions whose words do not predict each other."""

import collections
import itertools

import numpy as np
import pytest

from data_pipelines.datasets import shapes_scene
from data_pipelines.datasets.shapes_scene import (
    COLOURS,
    SHAPES,
    SIZES,
    Object,
    Scene,
    captions,
    render,
    scene,
    scene_from_image_id,
)
from data_pipelines.errors import DataError


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene(0, "train", i) for i in range(4000)]


def content(a_scene: Scene) -> frozenset:
    """Objects and their positions on a grid of 48 pixels."""
    counts = collections.Counter((o.description, int(o.centre[0] * 48), int(o.centre[1] * 48)) for o in a_scene.objects)
    return frozenset(counts.items())


def test_pure_function_of_the_key() -> None:
    assert scene(3, "test", 17) == scene(3, "test", 17)
    assert scene(3, "test", 17) != scene(3, "test", 18)
    assert scene(3, "test", 17) != scene(4, "test", 17)
    assert scene_from_image_id("shapes/3/test/17") == scene(3, "test", 17)
    assert scene(3, "test", 17).image_id == "shapes/3/test/17"
    assert captions(scene(3, "test", 17)) == captions(scene(3, "test", 17))


@pytest.mark.parametrize("image_id", ["coco/1", "shapes/0/dev/1", "shapes/0/train/-1", "shapes/0"])
def test_other_ids_are_refused(image_id: str) -> None:
    with pytest.raises(DataError, match="is not the id of a drawn scene; give shapes/"):
        scene_from_image_id(image_id)


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="splits are train, validation, test"):
        scene(0, "val", 0)


def test_objects_lie_inside_and_apart(scenes: list[Scene]) -> None:
    for a_scene in scenes:
        assert 1 <= len(a_scene.objects) <= 3
        for thing in a_scene.objects:
            assert min(thing.box) >= 0
            assert max(thing.box) <= 1
            assert 12 <= thing.side * 48 <= 21
        for a, b in itertools.combinations(a_scene.objects, 2):
            (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a.box, b.box
            assert ax1 < bx0 or bx1 < ax0 or ay1 < by0 or by1 < ay0


def test_no_scene_is_in_two_splits() -> None:
    seen = {split: {content(scene(0, split, i)) for i in range(300)} for split in shapes_scene.SPLITS}
    for a, b in itertools.combinations(seen.values(), 2):
        assert not a & b


def test_the_split_follows_from_the_content_alone() -> None:
    for split, i in itertools.product(shapes_scene.SPLITS, range(50)):
        objects = scene(0, split, i).objects
        for order in itertools.permutations(objects):
            assert shapes_scene._bucket(order) in shapes_scene._BUCKETS[split]


def test_captions_are_four_and_different_and_true(scenes: list[Scene]) -> None:
    for a_scene in scenes[:500]:
        texts = captions(a_scene)
        assert len(set(texts)) == 4
        described = collections.Counter(thing.description for thing in a_scene.objects)
        for text in texts[:2]:
            things = text.split(" : ")[-1].replace(" and ", " , ").split(" , ")
            assert collections.Counter(thing.removeprefix("a ") for thing in things) == described
        assert not set(texts[2].split()) & set(SIZES)
        words = {word for o in a_scene.objects for word in (o.colour, o.shape)}
        assert words == set(texts[2].split()) & {*COLOURS, *SHAPES}
        assert _relation_holds(texts[3], a_scene)


def _relation_holds(text: str, a_scene: Scene) -> bool:
    holds = {
        "left of": lambda a, b: a.centre[0] < b.centre[0],
        "right of": lambda a, b: a.centre[0] > b.centre[0],
        "above": lambda a, b: a.centre[1] < b.centre[1],
        "below": lambda a, b: a.centre[1] > b.centre[1],
    }
    for words, check in holds.items():
        if f" {words} a " in text:
            first, second = text.split(f" {words} ")
            return any(
                f"a {a.description}" == first and f"a {b.description}" == second and check(a, b)
                for a, b in itertools.permutations(a_scene.objects, 2)
            )
    (thing,) = a_scene.objects
    x, y = thing.centre
    return text == (f"a {thing.description} at the {'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}")


def test_words_do_not_predict_each_other(scenes: list[Scene]) -> None:
    """Chi-square is small for each pair of attributes, within one object and between two objects of a caption."""
    tables: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for a_scene in scenes:
        things = a_scene.objects
        number = len(things)
        for o in things:
            tables["colour shape"][COLOURS.index(o.colour), SHAPES.index(o.shape)] += 1
            tables["colour size"][COLOURS.index(o.colour), SIZES.index(o.size)] += 1
            tables["shape size"][SHAPES.index(o.shape), SIZES.index(o.size)] += 1
            tables["number size"][number - 1, SIZES.index(o.size)] += 1
            tables["number colour"][number - 1, COLOURS.index(o.colour)] += 1
        for a, b in itertools.pairwise(things):
            tables["colour colour"][COLOURS.index(a.colour), COLOURS.index(b.colour)] += 1
            tables["shape shape"][SHAPES.index(a.shape), SHAPES.index(b.shape)] += 1
            tables["size size"][SIZES.index(a.size), SIZES.index(b.size)] += 1
    for name, counts in tables.items():
        assert _chi_square_excess(counts) < 4, name


def test_the_statistic_notices_dependence(scenes: list[Scene]) -> None:
    """The control: if objects of a scene had to differ in colour, the test above would fail."""
    counts: collections.Counter = collections.Counter()
    for a_scene in scenes:
        for a, b in itertools.pairwise(a_scene.objects):
            if a.colour != b.colour:
                counts[COLOURS.index(a.colour), COLOURS.index(b.colour)] += 1
    assert _chi_square_excess(counts) > 20


def _chi_square_excess(counts: collections.Counter) -> float:
    """Chi-square, as standard deviations above the value for independence."""
    rows, columns = (max(key[axis] for key in counts) + 1 for axis in (0, 1))
    table = np.array([[counts[r, c] for c in range(columns)] for r in range(rows)], float)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    freedom = (rows - 1) * (columns - 1)
    return (((table - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


def test_masked_words_cannot_be_guessed_from_the_rest_of_a_caption(scenes: list[Scene]) -> None:
    """The best prediction of a word from the attributes before and after it, learnt on half of the texts."""
    for words, make_rng in ((COLOURS, 1 / 6), (SHAPES, 1 / 4)):
        examples = []
        for a_scene in scenes:
            for text in captions(a_scene):
                tokens = text.split()
                for i, token in enumerate(tokens):
                    if token in words:
                        before, after = tokens[max(0, i - 4) : i], tokens[i + 1 : i + 4]
                        near = [w for w in before + after if w in (*COLOURS, *SHAPES, *SIZES)]
                        examples.append((tuple(near[:2]), token))
        half = len(examples) // 2
        learnt: dict = collections.defaultdict(collections.Counter)
        for near, word in examples[:half]:
            learnt[near][word] += 1
        tried = examples[half:]
        right = sum(bool(learnt[near]) and learnt[near].most_common(1)[0][0] == word for near, word in tried)
        assert abs(right / len(tried) - make_rng) < 0.03


@pytest.mark.parametrize("image_size", [32, 48, 96])
def test_render_draws_colours_in_boxes_only(image_size: int) -> None:
    for i in range(30):
        a_scene = scene(0, "validation", i)
        image = render(a_scene, image_size)
        assert image.dtype == np.uint8
        assert image.shape == (image_size, image_size, 3)
        outside = np.ones(image.shape[:2], bool)
        for thing in a_scene.objects:
            x0, y0, x1, y1 = (value * image_size for value in thing.box)
            outside[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = False
            x, y = (int(value * image_size) for value in thing.centre)
            # The centre of every shape is inside, also that of a triangle.
            assert np.abs(image[y, x].astype(int) - shapes_scene._RGB[thing.colour]).max() <= 8
        assert (image[outside] == a_scene.background).all()


def test_small_shapes_can_be_distinguished() -> None:
    images = {}
    for shape in SHAPES:
        thing = Object("black", shape, "small", (0.5, 0.5), 0.2)
        images[shape] = render(Scene((thing,), (255, 255, 255), (0, "train", 0))).astype(float)
    for a, b in itertools.combinations(SHAPES, 2):
        different = (np.abs(images[a] - images[b]).max(-1) > 128).sum()
        assert different >= 12, (a, b)  # of about 92 pixels of the box


def test_colours_can_be_distinguished() -> None:
    for a, b in itertools.combinations(COLOURS, 2):
        assert np.abs(np.subtract(shapes_scene._RGB[a], shapes_scene._RGB[b])).max() >= 50, (a, b)
