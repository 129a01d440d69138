"""Scoring texts against an image whose pixels are kept: our evaluation and the PyTorch peer, in turn.

    python -m benchmarks.cpu.retrieval_against_torch --config.model.dtype=float32 --output=FILE.json

Images fill the largest canvas of the config, texts are as long as captions of COCO. Both keep the image's pixels
and take texts in order of their length, 8 at once; the peer's are padded to the longest of the 8, without a mask,
which is less work than a correct evaluation needs. Prints one JSON object: pairs a second and their ratio.
"""

import sys
from typing import Any

import numpy as np
import torch
from absl import app, flags

from benchmarks.cpu.retrieval import caption_lengths, random_model
from benchmarks.harness.measuring import largest_image, machine, report
from benchmarks.harness.torch_peer import TorchPixelBert
from benchmarks.harness.turns import TURNS, in_turn, spread
from data_pipelines.text.tokenizer import SPECIAL
from experiments.evaluation.pair_scorer import PairScorer
from experiments.run.common_flags import OUTPUT
from experiments.run.config import RunConfig
from experiments.run.config_flags import load_config, split_arguments
from pixelbert_jax.training.sharding import make_mesh

_SCORED = flags.DEFINE_integer("scored_texts", 24, "Texts that the image is scored with.", lower_bound=1)
_CONFIG, _AT_ONCE = "experiments/configs/retrieval_r50.py", 8


def measure(config: RunConfig, texts: int, turns: int) -> dict[str, Any]:
    """Time both in turn; the backbone takes no part."""
    loaded, rng = random_model(config), np.random.default_rng(0)
    model, longest = loaded.task.model, config.data.max_text_length
    words = loaded.tokenizer.vocabulary[len(SPECIAL) :]
    length_T = np.sort(caption_lengths(texts, longest))
    scorer = PairScorer(loaded, [" ".join(rng.choice(words, length - 2)) for length in length_T], _AT_ONCE)
    canvas, size = largest_image(config.data)
    image = {"images": rng.integers(0, 256, (1, *canvas, 3), np.uint8), "image_size": np.array([size], np.int32)}
    seen = scorer.encode(image)

    peer = TorchPixelBert(model).eval()
    shown = torch.from_numpy(image["images"][:, : size[0], : size[1]].copy()).permute(0, 3, 1, 2)
    with torch.inference_mode():
        pixels = peer.encode_image(shown)
    blocks = [
        torch.from_numpy(rng.integers(5, model.text.vocabulary_size, (len(part), part.max())))
        for part in np.split(length_T, range(_AT_ONCE, texts, _AT_ONCE))
    ]

    def theirs() -> list[np.ndarray]:
        with torch.inference_mode():
            return [peer.matching_head(peer.fuse(b, pixels.expand(len(b), -1, -1))[:, 0]).numpy() for b in blocks]

    seconds = in_turn({"ours": lambda: scorer.match(*seen), "torch": theirs}, turns, 1)
    return {
        **machine(make_mesh(config.mesh)),
        "pixels": int(pixels.shape[1]),
        "texts": texts,
        "mean_word_pieces_of_a_text": round(float(length_T.mean()), 2),
        "pairs_per_second": {name: spread([texts / s for s in values]) for name, values in seconds.items()},
        "pairs_per_second_ratio": spread([t / o for o, t in zip(seconds["ours"], seconds["torch"], strict=True)]),
    }


def main(_: list[str], file: str, overrides: dict[str, str]) -> None:
    """Entry point behind the flags."""
    report({"config": file} | measure(load_config(file, overrides), _SCORED.value, TURNS.value), OUTPUT.value)


if __name__ == "__main__":
    rest, config_file, config_overrides = split_arguments(sys.argv)
    app.run(lambda arguments: main(arguments, config_file or _CONFIG, config_overrides), argv=rest)
