"""Scoring texts against an image whose pixels are kept: our evaluation and the PyTorch peer, in turn.

    python -m benchmarks.cpu.retrieval_against_torch --config.model.dtype=float32 --output=FILE.json
    python -m benchmarks.cpu.retrieval_against_torch --peer_python=PYTHON

Images fill the largest canvas of the config, texts are as long as captions of COCO. Both keep the image's pixels
and take texts in order of their length, 8 at once; the peer's are padded to the longest of the 8, without a mask,
which is less work than a correct evaluation needs. In bfloat16 the peer computes under autocast. Each side is a process
of its own: --peer_python may be another Python, one that has PyTorch. Prints one JSON object: pairs per second and
their ratio.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.cpu.retrieval import caption_lengths, random_model
from benchmarks.harness.measuring import largest_image, machine, report, with_vocabulary
from benchmarks.harness.sides import SIDE, alternate, commands_of, serve
from benchmarks.harness.turns import TURNS, spread
from data_pipelines.text.tokenizer import SPECIAL
from experiments.evaluation.pair_scorer import PairScorer
from experiments.run.common_flags import OUTPUT
from experiments.run.config import RunConfig
from experiments.run.config_flags import load_config, split_arguments
from pixelbert_jax.training.sharding import make_mesh

_SCORED = flags.DEFINE_integer("scored_texts", 24, "Texts that the image is scored with.", lower_bound=1)
_CONFIG, _AT_ONCE = "experiments/configs/retrieval_r50.py", 8


def image_of(config: RunConfig) -> dict[str, np.ndarray]:
    """An image that fills the largest canvas."""
    canvas, size = largest_image(config.data)
    pixels = np.random.default_rng(0).integers(0, 256, (1, *canvas, 3), np.uint8)
    return {"images": pixels, "image_size": np.array([size], np.int32)}


def our_scoring(config: RunConfig, length_T: np.ndarray) -> Callable[[], np.ndarray]:
    """Scores texts of these lengths against an image whose pixels are kept."""
    loaded, rng = random_model(config), np.random.default_rng(0)
    words = loaded.tokenizer.vocabulary[len(SPECIAL) :]
    scorer = PairScorer(loaded, [" ".join(rng.choice(words, length - 2)) for length in length_T], _AT_ONCE)
    seen = scorer.encode(image_of(config))
    return lambda: scorer.match(*seen)


def peer_scoring(config: RunConfig, length_T: np.ndarray) -> Callable[[], list[np.ndarray]]:
    """The same of the peer; in bfloat16 under autocast."""
    import torch

    from benchmarks.harness.torch_peer import TorchPixelBert

    model, image = with_vocabulary(config.model), image_of(config)
    peer, (height, width) = TorchPixelBert(model).eval(), image["image_size"][0]
    shown = torch.from_numpy(image["images"][:, :height, :width].copy()).permute(0, 3, 1, 2)
    autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=model.dtype == "bfloat16")
    with torch.inference_mode(), autocast():
        pixels = peer.encode_image(shown)
    rng, parts = np.random.default_rng(0), np.split(length_T, range(_AT_ONCE, len(length_T), _AT_ONCE))
    ids = [rng.integers(5, model.text.vocabulary_size, (len(part), part.max())) for part in parts]
    blocks = [torch.from_numpy(block) for block in ids]

    def run() -> list[np.ndarray]:
        with torch.inference_mode(), autocast():
            found = [peer.matching_head(peer.fuse(b, pixels.expand(len(b), -1, -1))[:, 0]) for b in blocks]
            return [logits.float().numpy() for logits in found]

    return run


def side_of(side: str, config: RunConfig, texts: int) -> tuple[Callable[[], Any], dict[str, Any]]:
    """What one side does in a turn, and what is to be said of it.

    Args:
      side: ours or torch.
      config: of the model and the images.
      texts: that the image is scored with.
    """
    length_T = np.sort(caption_lengths(texts, config.data.max_text_length))
    if side == "ours":
        about = {"texts": texts, "mean_tokens_of_a_text": round(float(length_T.mean()), 2)}
        return our_scoring(config, length_T), machine(make_mesh(config.mesh)) | about
    import torch

    return peer_scoring(config, length_T), {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}


def main(_: list[str], file: str, overrides: dict[str, str]) -> None:
    """Entry point behind the flags."""
    config = load_config(file, overrides)
    if SIDE.value:
        serve(*side_of(SIDE.value, config, _SCORED.value))
        return
    options = [f"--config={file}", *(f"--config.{name}={value}" for name, value in overrides.items())]
    options.append(f"--scored_texts={_SCORED.value}")
    about, seconds = alternate(commands_of("benchmarks.cpu.retrieval_against_torch", options), TURNS.value)
    pairs, of_ours = about["ours"]["texts"], zip(seconds["ours"], seconds["torch"], strict=True)
    found = {
        "pairs_per_second": {name: spread([pairs / s for s in values]) for name, values in seconds.items()},
        "pairs_per_second_ratio": spread([theirs / ours for ours, theirs in of_ours]),
    }
    first = {f"{name}_first_call_seconds": said.pop("first_call_seconds") for name, said in about.items()}
    what = {"config": file, "dtype": config.model.dtype}
    report(what | about["ours"] | about["torch"] | first | found, OUTPUT.value)


if __name__ == "__main__":
    rest, config_file, config_overrides = split_arguments(sys.argv)
    app.run(lambda arguments: main(arguments, config_file or _CONFIG, config_overrides), argv=rest)
