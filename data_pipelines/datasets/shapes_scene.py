"""Drawn scenes of one to three coloured shapes: their objects, images and captions.

Everything is a pure function of (seed, split, index), so boxes and classes can be computed again from an image id.
Colours, shapes and sizes are drawn uniformly, and independently of each other and of the positions. So a word of a
caption cannot be predicted from the other words, but only from the image. The split of a scene follows from its
content, so no scene is in two splits.
"""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Callable

import numpy as np

from data_pipelines.errors import DataError

COLOURS = ("red", "green", "blue", "yellow", "purple", "black")
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")
SPLITS = ("train", "validation", "test")
MAX_OBJECTS = 3

_RGB = {
    "red": (214, 32, 36),
    "green": (24, 138, 58),
    "blue": (28, 76, 214),
    "yellow": (244, 206, 18),
    "purple": (122, 38, 160),
    "black": (24, 24, 28),
}
_SIDE = {"small": (0.27, 0.30), "large": (0.39, 0.43)}  # side of a box, as a fraction of the image
_GAP = 0.02  # minimum gap between two boxes
_PLACEMENTS = 8  # drawn at a time
_HASH_GRID = 48  # positions on this grid decide the split
_BUCKETS = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}
_SUPERSAMPLING = 4  # points per pixel and axis
_NUMBERS = ("no", "one", "two", "three")


@dataclasses.dataclass(frozen=True)
class Object:
    """One shape; lengths are fractions of the image's side, and (0, 0) is the top left corner of the image."""

    colour: str
    shape: str
    size: str
    centre: tuple[float, float]  # x, y
    side: float  # of its square box

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 of the smallest box around the shape."""
        (x, y), half = self.centre, self.side / 2
        return x - half, y - half, x + half, y + half

    @property
    def description(self) -> str:
        """Such as "large red circle"."""
        return f"{self.size} {self.colour} {self.shape}"


@dataclasses.dataclass(frozen=True)
class Scene:
    """One to three objects that do not overlap, on a light background; `key` identifies the scene."""

    objects: tuple[Object, ...]
    background: tuple[int, int, int]  # RGB
    key: tuple[int, str, int]  # seed, split, index

    @property
    def image_id(self) -> str:
        """`shapes/<seed>/<split>/<index>`."""
        return "shapes/{}/{}/{}".format(*self.key)


def scene(seed: int, split: str, index: int) -> Scene:
    """Scene number `index` of a split, from 0 without an upper limit; raises ValueError for invalid arguments."""
    if split not in SPLITS or seed < 0 or index < 0:
        raise ValueError(f"no scene {seed}/{split}/{index}; splits are {', '.join(SPLITS)}")
    key = (seed, split, index)
    for attempt in itertools.count():
        rng = _generator(*key, attempt)
        objects = _draw_objects(rng)
        if _bucket(objects) in _BUCKETS[split]:
            background = tuple(int(value) for value in rng.integers(228, 253, 3))
            return Scene(objects, background, key)


def scene_from_image_id(image_id: str) -> Scene:
    """The scene of a record of the data set "shapes"; raises DataError for other ids."""
    match = re.fullmatch(rf"shapes/(\d+)/({'|'.join(SPLITS)})/(\d+)", image_id)
    if match is None:
        raise DataError(f"{image_id!r} is not the id of a drawn scene; give shapes/<seed>/<split>/<index>.")
    return scene(int(match[1]), match[2], int(match[3]))


def captions(a_scene: Scene) -> tuple[str, str, str, str]:
    """Four different true sentences; each mentions every object at most once.

    The first and the second sentence describe all objects. The third has no sizes. The fourth gives the relation of two
    objects, or the position of a single object.
    """
    rng = _generator(*a_scene.key, -1)
    number = len(a_scene.objects)
    orders = [[a_scene.objects[i] for i in rng.permutation(number)] for _ in range(4)]
    full = [[f"a {thing.description}" for thing in order] for order in orders]
    noun = "object" if number == 1 else "objects"
    verb = "is" if number == 1 else "are"
    without_size = [f"a {thing.colour} {thing.shape}" for thing in orders[2]]
    return (
        _list(full[0]),
        f"there {verb} {_NUMBERS[number]} {noun} : {_list(full[1])}",
        f"a picture of {_list(without_size)}",
        _relation(*orders[3][:2]) if number > 1 else f"{full[3][0]} {_corner(orders[3][0])}",
    )


def render(a_scene: Scene, image_size: int = 48) -> np.ndarray:
    """Draw the image: uint8 RGB, image_size x image_size x 3, with antialiased edges."""
    image_HxWx3 = np.empty((image_size, image_size, 3), np.float32)
    image_HxWx3[:] = a_scene.background
    for thing in a_scene.objects:
        x0, y0, x1, y1 = thing.box
        rows = slice(int(y0 * image_size), int(np.ceil(y1 * image_size)))
        columns = slice(int(x0 * image_size), int(np.ceil(x1 * image_size)))
        # Sampling points in the coordinates of the object, whose box is -1 to 1.
        x_w = (_points(columns, image_size) - thing.centre[0]) * 2 / thing.side
        y_h = (_points(rows, image_size) - thing.centre[1]) * 2 / thing.side
        inside_hw = _INSIDE[thing.shape](x_w[None, :], y_h[:, None]).astype(np.float32)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        cover_HxWx1 = inside_hw.reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING).mean((1, 3))
        cover_HxWx1 = cover_HxWx1[..., None]
        colour = np.array(_RGB[thing.colour], np.float32)
        image_HxWx3[rows, columns] += cover_HxWx1 * (colour - image_HxWx3[rows, columns])
    return np.rint(image_HxWx3).astype(np.uint8)


def _points(pixels: slice, image_size: int) -> np.ndarray:
    """Coordinates of the sampling points of consecutive pixels, as fractions of the side."""
    count = (pixels.stop - pixels.start) * _SUPERSAMPLING
    return (pixels.start + (np.arange(count) + 0.5) / _SUPERSAMPLING) / image_size


# In the coordinates of an object; y points down.
_INSIDE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: x**2 + y**2 <= 1,
    "square": lambda x, y: (abs(x) <= 1) & (abs(y) <= 1),
    "triangle": lambda x, y: (abs(x) * 2 <= y + 1) & (y <= 1),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.2) & (np.maximum(abs(x), abs(y)) <= 1),
}


def _generator(seed: int, split: str, index: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), index, stream + 1])


def _draw_objects(rng: np.random.Generator) -> tuple[Object, ...]:
    number = int(rng.integers(1, MAX_OBJECTS + 1))
    limits = (len(COLOURS), len(SHAPES), len(SIZES))
    words = [(COLOURS[a], SHAPES[b], SIZES[c]) for a, b, c in rng.integers(limits, size=(number, 3)).tolist()]
    sides = [float(rng.uniform(*_SIDE[size])) for _, _, size in words]
    # Only the positions are drawn again, not the words: a rejected word would depend on the other words.
    while True:
        for unit_centres in rng.random((_PLACEMENTS, number, 2)).tolist():
            centres = [
                (side / 2 + u * (1 - side), side / 2 + v * (1 - side))
                for side, (u, v) in zip(sides, unit_centres, strict=True)
            ]
            if all(
                _apart(centres[i], centres[j], (sides[i] + sides[j]) / 2 + _GAP)
                for i in range(number)
                for j in range(i)
            ):
                return tuple(map(Object, *zip(*words, strict=True), centres, sides))


def _apart(a: tuple[float, float], b: tuple[float, float], needed: float) -> bool:
    return abs(a[0] - b[0]) >= needed or abs(a[1] - b[1]) >= needed


def _bucket(objects: tuple[Object, ...]) -> int:
    """0 to 9: a hash of the objects and their positions on a 48x48 grid, independent of the order of the objects."""
    content = sorted(
        " ".join([thing.description, *(str(int(c * _HASH_GRID)) for c in thing.centre)]) for thing in objects
    )
    digest = hashlib.blake2b("\n".join(content).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 10


def _list(things: list[str]) -> str:
    """Such as "a b , a c and a d"."""
    return " and ".join(filter(None, [" , ".join(things[:-1]), things[-1]]))


def _relation(first: Object, second: Object) -> str:
    """The position of the first object relative to the second, along the axis of their larger distance."""
    dx, dy = (a - b for a, b in zip(first.centre, second.centre, strict=True))
    if abs(dx) >= abs(dy):
        where = "left of" if dx < 0 else "right of"
    else:
        where = "above" if dy < 0 else "below"
    return f"a {first.description} {where} a {second.description}"


def _corner(thing: Object) -> str:
    x, y = thing.centre
    return f"at the {'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"
