"""Pairs a second of our pre-training step with several texts an image against one, in turn.

    python -m benchmarks.cpu.texts_an_image --output=FILE.json

ResNet-50, one image on the paper's canvas of 832x1344, 32 tokens and 100 pixels a pair, float32, nothing frozen,
nothing recomputed.
"""

from typing import Any

from absl import flags

from benchmarks.cpu.against_torch import WORDS, batch_of, comparable, our_step
from benchmarks.harness.measuring import machine, report
from benchmarks.harness.turns import TURNS, in_turn, spread
from experiments.run.common_flags import OUTPUT
from experiments.run.config_flags import run_main
from pixelbert_jax.config import PixelBertConfig, pixelbert_r50
from pixelbert_jax.training.sharding import MeshConfig, make_mesh

CANVAS = (832, 1344)
_TEXTS = flags.DEFINE_integer("texts_an_image", 4, "Texts that share an image.", lower_bound=2)


def measure(model: PixelBertConfig, size: tuple[int, int], texts: int, turns: int) -> dict[str, Any]:
    """Time both steps in turn."""
    model = comparable(model)
    ways = {
        str(count): our_step(model, batch_of(size, 1, count, WORDS, model.text.vocabulary_size)) for count in (1, texts)
    }
    seconds = in_turn(ways, turns)
    ratios = [texts * one / many for one, many in zip(seconds["1"], seconds[str(texts)], strict=True)]
    return {
        **machine(make_mesh(MeshConfig())),
        "image": list(size),
        "texts": texts,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "pairs_per_second_ratio": spread(ratios),
    }


def main() -> None:
    """Entry point behind the flags."""
    report(measure(pixelbert_r50(), CANVAS, _TEXTS.value, TURNS.value), OUTPUT.value)


if __name__ == "__main__":
    run_main(main, takes_config=False)
