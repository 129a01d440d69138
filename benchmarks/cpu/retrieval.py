"""Image-text retrieval: pairs a second of our evaluation, and of the whole model run for each pair, in turn.

    python -m benchmarks.cpu.retrieval --config.model.dtype=float32 --output=retrieval.json
    python -m benchmarks.cpu.retrieval --images=32 --texts=2048 --block_images=8 --block_texts=512 --plain_pairs=64

The first line takes a few minutes on a CPU of two cores, the second suits a GPU. Weights, images and texts are
random; images fill the largest canvas of the config, and texts are as long as captions of COCO. Every turn times each
of these ways once:

    plain          backbone and encoder for each pair, texts padded to data.max_text_length
    backbone_once  the backbone once an image
    grouped        and texts grouped by length
    cls_only       and [CLS] alone in the last layer: this is what experiments.evaluate does

The plain way finds its images on the device, the others take decoded images from the host. Times of COCO 5K (5,000
images, 25,010 texts, all on that canvas) are the operations that it takes, as the compiler counts them, at the rates
of the parts that were measured. Prints one JSON object and writes it to --output=FILE.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import app, flags
from flax import nnx
from jax.sharding import Mesh

from benchmarks.harness.measuring import (
    IMAGES,
    countable,
    largest_image,
    machine,
    operations,
    report,
    rounded,
    with_vocabulary,
)
from benchmarks.harness.turns import TURNS, spread
from data_pipelines.config import DataConfig
from data_pipelines.text.tokenizer import SPECIAL, Tokenizer
from experiments.evaluation.pair_scorer import PairScorer, length_groups, padded_lengths
from experiments.run.common_flags import OUTPUT
from experiments.run.config import RunConfig
from experiments.run.config_flags import load_config, split_arguments
from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.loading import LoadedModel
from pixelbert_jax.tasks.retrieval import RetrievalConfig, RetrievalTask
from pixelbert_jax.training.sharding import batch_sharding, make_mesh, replicated, state_shardings

_TEXTS = flags.DEFINE_integer("texts", 32, "Texts that each image is scored with.", lower_bound=1)
_BLOCK_IMAGES = flags.DEFINE_integer("block_images", 1, "Images that go through the backbone at once.", lower_bound=1)
_BLOCK_TEXTS = flags.DEFINE_integer("block_texts", 8, "Texts that an image is scored with at once.", lower_bound=1)
_PLAIN_PAIRS = flags.DEFINE_integer("plain_pairs", 2, "Pairs a turn of the plain way, all at once.", lower_bound=1)

COCO_IMAGES, COCO_TEXTS = 5000, 25010
_CONFIG = "experiments/configs/retrieval_r50.py"
_LEAST_WORDS, _MORE_WORDS = 8, 2.5  # of COCO's captions: what its writers were asked for, and the mean beyond it


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured; see the flags."""

    images: int
    texts: int
    block_images: int
    block_texts: int
    plain_pairs: int
    turns: int


class WholeLastLayer(PairScorer):
    """Our evaluation, but for [CLS] alone in the last layer."""

    @staticmethod
    def logits(module: Any, *pairs: jax.Array) -> jax.Array:
        return module.itm_logit(module.model.fuse(*pairs))


class OneLength(WholeLastLayer):
    """Nor are texts grouped by length."""

    length_step = sys.maxsize


WAYS = {"backbone_once": OneLength, "grouped": WholeLastLayer, "cls_only": PairScorer}


def caption_lengths(count: int, longest: int) -> np.ndarray:
    """Word pieces of `count` texts, [CLS] and [SEP] included, in ascending order: quantiles of one fixed draw."""
    more = np.random.default_rng(0).geometric(1 / (1 + _MORE_WORDS), COCO_TEXTS) - 1
    lengths = np.minimum(np.sort(_LEAST_WORDS + more) + 2, longest)
    return lengths[((np.arange(count) + 0.5) / count * COCO_TEXTS).astype(int)]


def random_model(config: RunConfig) -> LoadedModel:
    """The config's model with random weights on the config's mesh, and words to make texts of."""
    task, mesh = RetrievalTask(with_vocabulary(config.model), RetrievalConfig()), make_mesh(config.mesh)
    words = (f"w{i}" for i in range(task.model.text.vocabulary_size - len(SPECIAL)))

    def init() -> Any:
        return nnx.as_pure(nnx.state(task.init(platform=mesh.devices.flat[0].platform, rngs=nnx.Rngs(params=0))))

    shardings = state_shardings(mesh, config.mesh, jax.eval_shape(init))
    abstract = nnx.eval_shape(lambda: task.init(platform=mesh.devices.flat[0].platform, rngs=nnx.Rngs(params=0)))
    model = nnx.merge(nnx.graphdef(abstract), jax.jit(init, out_shardings=shardings)())
    return LoadedModel(model, Tokenizer((*SPECIAL, *words)), task, config.data, {}, "random weights")


@dataclasses.dataclass(frozen=True)
class Operations:
    """Floating-point operations, and the number of rows that the texts of an image are scored in."""

    backbone: float  # of an image
    pair: dict[tuple[int, bool], float]  # of the encoder, by the padded length of the text and whether all is computed
    longest: int
    rows: int

    def plain(self) -> float:
        """Of a pair in the plain way."""
        return self.backbone + self.pair[self.longest, True]

    def encoder(self, way: type[PairScorer], length_T: np.ndarray) -> float:
        """Of an image with texts of these lengths, the rows that fill the last group included."""
        slots_T = padded_lengths(length_T, self.longest, way.length_step)
        groups = length_groups(slots_T, self.rows)
        return sum(self.rows * self.pair[int(slots_T[places].max()), way is not PairScorer] for places in groups)


def count_operations(model: PixelBertConfig, data: DataConfig, mesh: Mesh, block_texts: int) -> Operations:
    """Have the compiler count the backbone for one image, and the encoder for one pair of each padded length."""
    task = RetrievalTask(countable(model), RetrievalConfig())
    module = nnx.eval_shape(lambda: task.init(platform=mesh.devices.flat[0].platform, rngs=nnx.Rngs(params=0)))
    graphdef, state = nnx.split(module)
    canvas, _ = largest_image(data)

    def encode(state: Any, images: jax.Array, sizes: jax.Array) -> tuple[jax.Array, jax.Array]:
        return nnx.merge(graphdef, state).model.encode_image(images, sizes)

    image = jax.ShapeDtypeStruct((1, *canvas, 3), np.uint8), jax.ShapeDtypeStruct((1, 2), np.int32)
    seen = jax.eval_shape(encode, state, *image)

    def pair(slots: int, way: type[PairScorer]) -> float:
        text = jax.ShapeDtypeStruct((1, slots), np.int32), jax.ShapeDtypeStruct((1, slots), bool)
        return operations(lambda state, *pair: way.logits(nnx.merge(graphdef, state), *pair), state, *text, *seen)

    longest = data.max_text_length
    lengths = np.unique(padded_lengths(np.arange(3, longest + 1), longest, PairScorer.length_step)).tolist()
    pairs = {
        (slots, way is WholeLastLayer): pair(slots, way) for way in (PairScorer, WholeLastLayer) for slots in lengths
    }
    return Operations(operations(encode, state, *image), pairs, longest, _up(block_texts, mesh.size))


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of each timed turn by part: plain, backbone, and the encoder of each way; of the first turn too."""

    turns: dict[str, list[float]]
    first: dict[str, float]
    largest_difference: float  # of a logit of ours to that of the plain way

    def median(self, part: str) -> float:
        return statistics.median(self.turns[part])


def time_ways(loaded: LoadedModel, mesh: Mesh, sizes: Sizes) -> Times:
    """Time all ways in turn; the first turn compiles and does not count."""
    rng, longest, tokenizer = np.random.default_rng(0), loaded.data.max_text_length, loaded.tokenizer
    canvas, size = largest_image(loaded.data)
    images_IxHxWx3 = rng.integers(0, 256, (sizes.images, *canvas, 3), np.uint8)
    size_Ix2 = np.tile(np.array(size, np.int32), (sizes.images, 1))
    words = tokenizer.vocabulary[len(SPECIAL) :]
    texts = [" ".join(rng.choice(words, length - 2)) for length in caption_lengths(sizes.texts, longest)]
    # The pairs of the plain way are spread over all of them.
    pair_N = np.linspace(0, sizes.images * sizes.texts - 1, sizes.plain_pairs).astype(int)
    image_N, text_N = np.divmod(pair_N, sizes.texts)
    ids = [tokenizer.encode(texts[text], longest) for text in text_N]
    text_NxT = np.stack([np.pad(i, (0, longest - len(i)), constant_values=tokenizer.pad) for i in ids])
    mask_NxT = np.arange(longest)[None] < np.array([len(i) for i in ids])[:, None]
    pairs = images_IxHxWx3[image_N], size_Ix2[image_N], text_NxT, mask_NxT
    pairs = jax.device_put(pairs, batch_sharding(mesh))
    graphdef, state = nnx.split(loaded.model)
    state = nnx.as_pure(state)

    def whole_model(state: Any, images: jax.Array, sizes: jax.Array, text: jax.Array, mask: jax.Array) -> jax.Array:
        module = nnx.merge(graphdef, state)
        return module.itm_logit(module.model.fuse(text, mask, *module.model.encode_image(images, sizes)))

    plain = jax.jit(whole_model, out_shardings=replicated(mesh))
    scorers = {name: way(loaded, texts, sizes.block_texts) for name, way in WAYS.items()}
    blocks = [slice(start, start + sizes.block_images) for start in range(0, sizes.images, sizes.block_images)]

    def backbone() -> list[tuple[jax.Array, jax.Array]]:
        batches = ({"images": images_IxHxWx3[part], "image_size": size_Ix2[part]} for part in blocks)
        return [scorers["cls_only"].encode(batch) for batch in batches]

    def encoder(scorer: PairScorer, seen: list[tuple[jax.Array, jax.Array]]) -> np.ndarray:
        return np.concatenate([scorer.match(*block) for block in seen])

    seconds: dict[str, list[float]] = {name: [] for name in ("plain", "backbone", *WAYS)}

    def timed(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        begun = time.perf_counter()
        found = jax.block_until_ready(function(*arguments))
        seconds[name].append(time.perf_counter() - begun)
        return found

    for _ in range(1 + sizes.turns):
        expected_N = np.asarray(timed("plain", plain, state, *pairs))
        seen = timed("backbone", backbone)
        logits = [timed(name, encoder, scorer, seen) for name, scorer in scorers.items()]
    difference = max(np.abs(logits_IxT[image_N, text_N] - expected_N).max() for logits_IxT in logits)
    first = {name: round(times.pop(0), 1) for name, times in seconds.items()}
    return Times(seconds, first, float(difference))


def measure(config: RunConfig, sizes: Sizes) -> dict[str, Any]:
    """Measure, and project to COCO 5K."""
    mesh, longest = make_mesh(config.mesh), config.data.max_text_length
    sizes = dataclasses.replace(
        sizes, images=_up(sizes.images, sizes.block_images), plain_pairs=_up(sizes.plain_pairs, mesh.size)
    )
    loaded = random_model(config)
    counted = count_operations(loaded.task.model, config.data, mesh, sizes.block_texts)
    times = time_ways(loaded, mesh, sizes)

    length_T = caption_lengths(sizes.texts, longest)
    rates = {
        "plain": sizes.plain_pairs * counted.plain() / times.median("plain"),
        "backbone": sizes.images * counted.backbone / times.median("backbone"),
        **{name: sizes.images * counted.encoder(way, length_T) / times.median(name) for name, way in WAYS.items()},
    }
    coco_length_T = caption_lengths(COCO_TEXTS, longest)
    encoder = {name: counted.encoder(way, coco_length_T) for name, way in WAYS.items()}  # of an image with all texts
    image_operations = {
        "plain": COCO_TEXTS * counted.plain(),
        **{name: counted.backbone + count for name, count in encoder.items()},
    }
    image_seconds = {
        "plain": image_operations["plain"] / rates["plain"],
        **{name: counted.backbone / rates["backbone"] + count / rates[name] for name, count in encoder.items()},
    }
    pairs_per_second = {
        "plain": [sizes.plain_pairs / s for s in times.turns["plain"]],
        **{
            name: [
                sizes.images * sizes.texts / (both + own)
                for both, own in zip(times.turns["backbone"], times.turns[name], strict=True)
            ]
            for name in WAYS
        },
    }
    ratios = [ours / plain for ours, plain in zip(pairs_per_second["cls_only"], pairs_per_second["plain"], strict=True)]
    canvas, size = largest_image(config.data)
    return {
        **machine(mesh),
        **dataclasses.asdict(sizes),
        "dtype": config.model.dtype,
        "canvas": list(canvas),
        "image": list(size),
        "mean_tokens_of_a_text": round(float(length_T.mean()), 2),
        "pairs_per_second": {name: spread(values) for name, values in pairs_per_second.items()},
        "ratio_of_cls_only_to_plain": spread(ratios),
        "backbone_seconds_a_image": spread([s / sizes.images for s in times.turns["backbone"]]),
        "first_turn_seconds": times.first,
        "largest_difference_to_a_plain_logit": times.largest_difference,
        "gigaflop": {
            "backbone_a_image": rounded(counted.backbone / 1e9),
            "encoder_a_pair": {str(s): rounded(n / 1e9) for (s, whole), n in counted.pair.items() if not whole},
            "encoder_a_pair_plain": rounded(counted.pair[longest, True] / 1e9),
        },
        "teraflop_per_second": {name: rounded(rate / 1e12) for name, rate in rates.items()},
        "coco_5k_gigaflop_a_pair": {name: rounded(n / COCO_TEXTS / 1e9) for name, n in image_operations.items()},
        "coco_5k_hours": {name: rounded(COCO_IMAGES * s / 3600) for name, s in image_seconds.items()},
        "coco_5k_ratio_of_cls_only_to_plain": rounded(image_seconds["plain"] / image_seconds["cls_only"]),
    }


def _up(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple


def main(_: list[str], file: str, overrides: dict[str, str]) -> None:
    sizes = Sizes(IMAGES.value, _TEXTS.value, _BLOCK_IMAGES.value, _BLOCK_TEXTS.value, _PLAIN_PAIRS.value, TURNS.value)
    report({"config": file} | measure(load_config(file, overrides), sizes), OUTPUT.value)


if __name__ == "__main__":
    rest, config_file, config_overrides = split_arguments(sys.argv)
    app.run(lambda arguments: main(arguments, config_file or _CONFIG, config_overrides), argv=rest)
