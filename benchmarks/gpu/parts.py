"""One part of the GPU benchmark, in a process of its own, so that it has the card's memory to itself.

    python -m benchmarks.gpu.parts --part=r50_torch --lines=FILE.jsonl --seconds=100

`benchmarks.gpu` starts it. Each finding is a line of JSON that is written at once, so a part that is cut keeps what it
has. Parts: `rates`, `lowerings`, `attention`; MODEL_turns_TEXTS or MODEL_turns_TEXTS_eager, in which ours and the peer
take turns; and MODEL_ours_REMAT, MODEL_torch or MODEL_torch_eager, whose findings are trials of a pre-training step.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import flags

from benchmarks.gpu.attention import CASES, attention
from benchmarks.gpu.lowerings import CANVAS, lowerings
from benchmarks.gpu.models import CONFIGS, REMATS, tiny, with_remat
from benchmarks.gpu.ours import check_card, operations_a_pair, our_attempt
from benchmarks.gpu.peer import peer_attempt
from benchmarks.gpu.trials import trials
from benchmarks.harness.measuring import largest_image, machine, rounded
from benchmarks.harness.rates import copy_rate, matrix_rate
from benchmarks.harness.shared_flags import TINY
from benchmarks.harness.sides import alternate, commands_of
from benchmarks.harness.turns import compared
from experiments.run.config import RunConfig
from experiments.run.config_flags import load_config, run_main
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.training.sharding import MeshConfig, make_mesh

_PART = flags.DEFINE_string("part", None, "What is measured.")
_LINES = flags.DEFINE_string("lines", None, "File to which findings are appended.")
_SECONDS = flags.DEFINE_float("seconds", 100, "No trial is begun that is expected to end later.")
FIRST_IMAGES = flags.DEFINE_integer("first_images", 16, "Images of the first trial.", lower_bound=1)
MOST_IMAGES = flags.DEFINE_integer("most_images", 4096, "Images of the largest trial.", lower_bound=1)
STEPS = flags.DEFINE_integer("timed_steps", 10, "Timed steps a trial.", lower_bound=1)
MEMORY_GIB = flags.DEFINE_float("memory_gib", 78, "Memory that a part may take: what an 80 GB card leaves.")
FULL_AT = flags.DEFINE_integer("full_at", 0, "Images from which memory counts as full, to try that; 0: when it is.")
TURN_IMAGES = flags.DEFINE_integer("turn_images", 8, "Images of a step of those that take turns.", lower_bound=1)
_COUNT = flags.DEFINE_bool("count_operations", True, "Have those of our step counted.")

_TURNS = re.compile(rf"({'|'.join(CONFIGS)})_turns_(\d+)(_eager)?")


def rates() -> Iterator[dict[str, Any]]:
    """Machine, and the rates of its first device."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    yield machine(mesh)
    yield {"matrix_rate_tflops": rounded(matrix_rate("bfloat16") / 1e12)}
    yield {"copy_rate_gb_per_second": rounded(copy_rate() / 1e9)}


def findings(part: str, config: RunConfig | None, until: float) -> Iterator[dict[str, Any]]:
    """What a part finds, one by one.

    Args:
      part: its name.
      config: of the model that the name begins with.
      until: `time.monotonic()` after which it should end.

    Raises:
      ConfigError: something that it needs is missing.
    """
    if turns := _TURNS.fullmatch(part):  # before JAX takes memory of the card, which is for the sides
        yield in_turns(turns[1], int(turns[2]), compiled=not turns[3])
        return
    if "torch" not in part:
        check_card()
    if part == "rates":
        yield from rates()
        return
    if part == "lowerings":
        yield from lowerings(
            (64, 64) if TINY.value else CANVAS, FIRST_IMAGES.value, until, scale=16 if TINY.value else 1
        )
        return
    if part == "attention":
        yield from attention(until, ((2, 9, 2, 8),) if TINY.value else CASES)
        return
    _, side, *remat = part.split("_")
    config = with_remat(tiny(config) if TINY.value else config, remat[0] if side == "ours" else "none")
    canvas, size = largest_image(config.data)
    yield {"canvas": list(canvas), "image": list(size), "texts_per_image": config.data.texts_per_image}
    if side == "torch":
        compiled = "eager" not in remat
        attempt = peer_attempt(config, STEPS.value, MEMORY_GIB.value, compiled=compiled, tiny=TINY.value)
    else:
        attempt = our_attempt(config, STEPS.value)
        if _COUNT.value:
            yield {"gigaflop_a_pair": rounded(operations_a_pair(config, FIRST_IMAGES.value) / 1e9)}
    limits = {"limit": MEMORY_GIB.value, "until": until, "full_at": FULL_AT.value}
    yield from trials(attempt, first=FIRST_IMAGES.value, most=MOST_IMAGES.value, **limits)


def in_turns(model: str, texts: int, *, compiled: bool) -> dict[str, Any]:
    """Pairs per second of ours and the peer, which take turns; each has half of the memory.

    Args:
      model: of CONFIGS.
      texts: per image.
      compiled: the peer, by torch.compile.

    Raises:
      ConfigError: a side ended before its time.
    """
    options = [f"--model={model}", f"--texts_per_image={texts}", f"--images={TURN_IMAGES.value}"]
    options += [f"--memory_gib={MEMORY_GIB.value / 2}", f"--compiled={str(compiled).lower()}"]
    options += [f"--tiny={str(TINY.value).lower()}"]
    commands = commands_of("benchmarks.gpu.side", options)
    about, seconds = alternate(commands, STEPS.value, {"torch": {"JAX_PLATFORMS": "cpu"}}, together=True)
    pairs, found = about["ours"]["pairs"], compared(seconds, "ours", "torch")
    return {
        "pairs": pairs,
        "texts_per_image": texts,
        "turns_pairs_per_second": {n: rounded(pairs / s["median"]) for n, s in found["seconds"].items()},
        "first_call_seconds": {name: said["first_call_seconds"] for name, said in about.items()},
        **found,
    }


def is_part(name: str) -> bool:
    """Whether there is such a part."""
    model, _, rest = name.partition("_")
    sides = {"torch", "torch_eager", *(f"ours_{remat}" for remat in REMATS)}
    others = name in ("rates", "lowerings", "attention") or _TURNS.fullmatch(name)
    return bool(others) or (model in CONFIGS and rest in sides)


def main() -> None:
    """Entry point behind the flags."""
    until = time.monotonic() + _SECONDS.value
    model = _PART.value.partition("_")[0]
    config = load_config(CONFIGS[model], {}) if model in CONFIGS else None
    with Path(_LINES.value).open("a") as file:
        try:
            for found in findings(_PART.value, config, until):
                file.write(json.dumps(found) + "\n")
                file.flush()
        except ConfigError as error:
            file.write(json.dumps({"missing": str(error)}) + "\n")


if __name__ == "__main__":
    run_main(main, takes_config=False)
