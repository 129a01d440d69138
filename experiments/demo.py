"""A web page to ask a trained model, on this machine alone unless --host says otherwise.

    python -m experiments.demo --workdir=RUN
    python -m experiments.demo --workdir=RUN --images=FOLDER --index=photographs.npz
    python -m experiments.demo --workdir=RUN_OF_AN_IMAGEBERT --detector=NAME

Its tabs are what the model can do: match an image with texts and see where a word looks, fill [MASK], answer a
question, judge a sentence, and search a folder of images. It needs the extra `demo` (pip install -e '.[demo]').
"""

import contextlib
import tempfile
from pathlib import Path

import numpy as np
from absl import flags

from data_pipelines.errors import DataError
from data_pipelines.storage.paths import as_path
from experiments.run.common_flags import CHECKPOINT, DETECTOR, INDEX, WORKDIR, new_file, required
from experiments.run.config_flags import run_main
from experiments.run.progress import say
from experiments.run.search_index import index_of
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.predictor import Predictor

_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0: every one of this machine.")
_PORT = flags.DEFINE_integer("port", 7860, "Port; 0: a free one.", 0, 65535)
_IMAGES = flags.DEFINE_string("images", None, "Folder of images that can be searched.")


def main() -> None:
    """Entry point behind the flags."""
    required(WORKDIR)
    try:
        from experiments.demo_page.page import make_page, serve
    except ImportError:
        raise ConfigError("The page needs Gradio; install it with: pip install -e '.[demo]'.") from None

    if INDEX.value:
        new_file(INDEX.value, ".npz", "index")
        if not _IMAGES.value and not as_path(INDEX.value).exists():
            raise ConfigError(f"--index={INDEX.value}: no such file; give --images=FOLDER to make it.")
    predictor = Predictor.load(WORKDIR.value, checkpoint=CHECKPOINT.value, detector=DETECTOR.value)
    with contextlib.suppress(DataError):  # the detector may see nothing in it
        predictor.read(np.zeros((64, 64, 3), np.uint8))  # an ImageBERT without a detector is refused here
    say(predictor.loaded.origin())
    index = index_of(predictor, _IMAGES.value, INDEX.value) if _IMAGES.value or INDEX.value else None
    with tempfile.TemporaryDirectory() as folder:
        page = make_page(predictor, Path(folder), index)
        url = serve(page, _HOST.value, _PORT.value or None)
        say(f"the page is at {url} (Ctrl-C ends it)")
        page.block_thread()


if __name__ == "__main__":
    run_main(main, takes_config=False)
