"""Our inference and pre-training step against a PyTorch peer, in turn, on the same inputs' shapes.

    python -m benchmarks.cpu.against_torch --backbone=r50 --what=inference --output=FILE.json
    python -m benchmarks.cpu.against_torch --backbone=r50 --what=step --dtype=bfloat16 --peer_python=PYTHON

Inference: one image of 608x1024 and 32 tokens, all hidden states. Step: two images of 384x640 with one text each, 100
pixels, SGD and AdamW, no part of the backbone frozen, nothing recomputed. Images fill their canvases. In bfloat16 the
peer computes under autocast. Each side is a process of its own: --peer_python may be another Python than ours, one
that has PyTorch. Prints one JSON object: medians, spread, the ratio (time of ours / time of PyTorch), each side's
first call (which compiles), and in `torch_compile` whether the peer was compiled.
"""

import dataclasses
import shutil
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags
from flax import nnx

from benchmarks.harness.measuring import countable, machine, report, with_vocabulary
from benchmarks.harness.rates import matrix_rate
from benchmarks.harness.sides import SIDE, alternate, commands_of, serve
from benchmarks.harness.stepping import steps_of, trainer_of
from benchmarks.harness.turns import TURNS, compared
from experiments.configs import pretrain_r50
from experiments.run.common_flags import OUTPUT
from experiments.run.config_flags import run_main
from pixelbert_jax.config import PixelBertConfig, pixelbert_r50, pixelbert_x152
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.inference_weights import in_compute_dtype
from pixelbert_jax.tasks.pretraining import ModelForPretraining, PretrainingConfig
from pixelbert_jax.training.sharding import MeshConfig, make_mesh

BACKBONE = flags.DEFINE_enum("backbone", "r50", ["r50", "x152"], "Which of the paper's models.")
_WHAT = flags.DEFINE_enum("what", "inference", ["inference", "step"], "What is timed.")
_COMPILED = flags.DEFINE_enum(
    "torch_compile",
    "auto",
    ["auto", "yes", "no"],
    "Compile the peer; auto: for inference, where g++ is there (the step gains nothing by it).",
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "What both compute in.")

COMPILER = "g++"  # torch.compile's on the CPU
INFERENCE, STEP, WORDS = (608, 1024), (384, 640), 32
MODELS = {"r50": pixelbert_r50, "x152": pixelbert_x152}


def is_compiled(choice: str, what: str) -> bool:
    """Whether the peer is compiled.

    Args:
      choice: auto, yes or no.
      what: inference or step.

    Raises:
      ConfigError: it is asked for, and there is no compiler.
    """
    found = shutil.which(COMPILER) is not None
    if choice == "yes" and not found:
        raise ConfigError(f"--torch_compile=yes: there is no {COMPILER}; install it, or give --torch_compile=no.")
    return choice == "yes" or (choice == "auto" and what == "inference" and found)


def comparable(model: PixelBertConfig, dtype: str = "float32") -> PixelBertConfig:
    """The model in a dtype, with nothing frozen, nothing recomputed, and no loop over the layers (5% on the CPU)."""
    model = countable(model)
    backbone = dataclasses.replace(model.backbone, frozen_parts=0)
    return with_vocabulary(dataclasses.replace(model, backbone=backbone, dtype=dtype))


def batch_of(size: tuple[int, int], images: int, texts: int, words: int, vocabulary: int) -> dict[str, np.ndarray]:
    """Random images of one size, texts without padding, 15% of whose words are masked."""
    rng, slots = np.random.default_rng(0), max(1, round(0.15 * words))
    pairs = (images, texts)
    return {
        "images": rng.integers(0, 256, (images, *size, 3)).astype(np.uint8),
        "image_size": np.tile(np.array(size, np.int32), (images, 1)),
        "text": rng.integers(5, vocabulary, (*pairs, words)).astype(np.int32),
        "text_mask": np.ones((*pairs, words), bool),
        "mlm_position": np.tile(np.arange(1, slots + 1, dtype=np.int32), (*pairs, 1)),
        "mlm_target": rng.integers(5, vocabulary, (*pairs, slots)).astype(np.int32),
        "mlm_mask": np.ones((*pairs, slots), bool),
        "itm_label": (np.arange(images * texts).reshape(pairs) % 2).astype(np.int32),
        "pair_mask": np.ones(pairs, bool),
    }


def our_inference(model: PixelBertConfig, batch: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    """Matching logits of images with one text each."""
    platform = jax.default_backend()
    make = lambda: ModelForPretraining(model, platform=platform, rngs=nnx.Rngs(params=0))  # noqa: E731
    asked = lambda: in_compute_dtype(make(), model.dtype)  # noqa: E731
    graphdef = nnx.graphdef(nnx.eval_shape(asked))
    state = jax.jit(lambda: nnx.as_pure(nnx.state(asked())))()

    @jax.jit
    def run(
        state: Any, images: jax.Array, size: jax.Array, text: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        module = nnx.merge(graphdef, state)
        hidden = module.model.fuse(text, mask, *module.model.encode_image(images, size))
        return module.itm_logit(hidden), hidden

    arrays = batch["images"], batch["image_size"], batch["text"][:, 0], batch["text_mask"][:, 0]
    return lambda: np.asarray(jax.block_until_ready(run(state, *arrays))[0])


def peer_inference(model: PixelBertConfig, batch: dict[str, np.ndarray], compiled: bool) -> Callable[[], np.ndarray]:
    """The same of the peer."""
    import torch

    from benchmarks.harness.torch_peer import TorchPixelBert, torch_batch

    peer, arrays = TorchPixelBert(model).eval(), torch_batch(batch)
    forward = torch.compile(peer) if compiled else peer

    def run() -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=model.dtype == "bfloat16"):
            return forward(arrays["images"], arrays["text"][:, 0]).float().numpy()

    return run


def our_step(model: PixelBertConfig, batch: dict[str, np.ndarray]) -> Callable[[], float]:
    """One step of our trainer after the other."""
    optimizer = pretrain_r50.get_config().optimizer
    return steps_of(trainer_of(model, PretrainingConfig(), optimizer, make_mesh(MeshConfig()), MeshConfig()), batch)


def peer_step(model: PixelBertConfig, batch: dict[str, np.ndarray], compiled: bool) -> Callable[[], float]:
    """The same of the peer."""
    from benchmarks.harness.torch_peer import TorchPixelBert, make_step, torch_batch

    peer, arrays = TorchPixelBert(model, PretrainingConfig().sampled_pixels), torch_batch(batch)
    optimizer, bfloat16 = pretrain_r50.get_config().optimizer, model.dtype == "bfloat16"
    step = make_step(peer, optimizer, compiled=compiled, bfloat16=bfloat16)
    return lambda: step(arrays)


def side_of(side: str, model: PixelBertConfig, what: str, *, compiled: bool) -> tuple[Callable[[], Any], dict]:
    """What one side does in a turn, and what is to be said of it.

    Args:
      side: ours or torch.
      model: made `comparable`.
      what: inference or step.
      compiled: the peer, by torch.compile.
    """
    words = model.text.vocabulary_size
    batch = batch_of(INFERENCE, 1, 1, WORDS, words) if what == "inference" else batch_of(STEP, 2, 1, WORDS, words)
    about = {"image": list(batch["images"].shape[1:3]), "pairs": int(batch["pair_mask"].size)}
    if side == "ours":
        run = our_inference(model, batch) if what == "inference" else our_step(model, batch)
        rate = {"matrix_rate_tflops": round(matrix_rate(model.dtype) / 1e12, 3)}
        return run, machine(make_mesh(MeshConfig())) | about | rate
    import torch

    run = (peer_inference if what == "inference" else peer_step)(model, batch, compiled)
    return run, {
        "torch": torch.__version__,
        "torch_python": sys.version.split()[0],
        "torch_threads": torch.get_num_threads(),
        "torch_compile": compiled,
    }


def measure(backbone: str, what: str, dtype: str, turns: int, *, compiled: bool) -> dict[str, Any]:
    """Time both in turn."""
    options = [f"--backbone={backbone}", f"--what={what}", f"--dtype={dtype}"]
    options.append(f"--torch_compile={'yes' if compiled else 'no'}")
    about, seconds = alternate(commands_of("benchmarks.cpu.against_torch", options), turns)
    first = {f"{name}_first_call_seconds": said.pop("first_call_seconds") for name, said in about.items()}
    return about["ours"] | about["torch"] | first | compared(seconds, "ours", "torch")


def main() -> None:
    """Entry point behind the flags."""
    compiled = is_compiled(_COMPILED.value, _WHAT.value)
    if SIDE.value:
        model = comparable(MODELS[BACKBONE.value](), _DTYPE.value)
        serve(*side_of(SIDE.value, model, _WHAT.value, compiled=compiled))
        return
    of = {"backbone": BACKBONE.value, "what": _WHAT.value, "dtype": _DTYPE.value}
    found = measure(*of.values(), TURNS.value, compiled=compiled)
    report(of | found, OUTPUT.value)


if __name__ == "__main__":
    run_main(main, takes_config=False)
