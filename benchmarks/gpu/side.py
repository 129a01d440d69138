"""One side of a comparison in turns on a card, in a process of its own; `benchmarks.gpu.parts` starts it.

    python -m benchmarks.gpu.side --side=ours --model=r50 --texts_per_image=4 --images=16 --memory_gib=39

It takes a step of pre-training for each line of standard input (benchmarks/harness/sides.py).
"""

import dataclasses

from absl import flags

from benchmarks.gpu.models import CONFIGS, tiny, with_remat
from benchmarks.gpu.ours import check_card, our_step
from benchmarks.gpu.peer import peer_step
from benchmarks.harness.measuring import IMAGES
from benchmarks.harness.shared_flags import TINY
from benchmarks.harness.sides import SIDE, serve
from experiments.run.config_flags import load_config, run_main

_MODEL = flags.DEFINE_enum("model", "r50", list(CONFIGS), "Of the paper's two.")
_COMPILED = flags.DEFINE_bool("compiled", True, "Compile the peer by torch.compile.")
_TEXTS = flags.DEFINE_integer("texts_per_image", 4, "Texts that share an image.", lower_bound=1)
_MEMORY = flags.DEFINE_float("memory_gib", 39, "Memory of the card that the peer may take; ours is set outside.")


def main() -> None:
    """Entry point behind the flags."""
    config = with_remat(load_config(CONFIGS[_MODEL.value], {}), "none")
    config = tiny(config) if TINY.value else config
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, texts_per_image=_TEXTS.value))
    if SIDE.value == "ours":
        check_card()
        step = our_step(config, IMAGES.value)
    else:
        step = peer_step(config, _MEMORY.value, compiled=_COMPILED.value, tiny=TINY.value)(IMAGES.value)
    serve(step, {"pairs": IMAGES.value * _TEXTS.value})


if __name__ == "__main__":
    run_main(main, takes_config=False)
