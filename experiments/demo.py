"""A web page to ask a trained model, on this machine alone unless --host says otherwise.

    python -m experiments.demo --workdir=RUN
    python -m experiments.demo --workdir=RUN --images=FOLDER --index=photographs.npz

Its tabs are what the model can do: match an image with texts and see where a word looks, fill [MASK], answer a
question, judge a sentence, and search a folder of images. It needs the extra `demo` (pip install -e '.[demo]').
"""

import tempfile
from pathlib import Path

from absl import flags

from data_pipelines.storage.paths import as_path
from experiments.run.common_flags import CHECKPOINT, WORKDIR, new_file, required
from experiments.run.config_flags import run_main
from experiments.run.progress import say
from experiments.run.search_index import index_of
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.predictor import Predictor

_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0: every one of this machine.")
_PORT = flags.DEFINE_integer("port", 7860, "Port; 0: a free one.", 0, 65535)
_IMAGES = flags.DEFINE_string("images", None, "Folder of images that can be searched.")
_INDEX = flags.DEFINE_string("index", None, "An .npz file: the index of --images, made if it does not exist.")
_MAX_UPLOAD = "20mb"


def main() -> None:
    """Entry point behind the flags."""
    required(WORKDIR)
    try:
        import gradio
    except ImportError:
        raise ConfigError("The page needs Gradio; install it with: pip install -e '.[demo]'.") from None
    from experiments.demo_page.page import FONT, make_page
    from experiments.demo_page.security import middleware

    if _INDEX.value:
        new_file(_INDEX.value, ".npz", "index")
        if not _IMAGES.value and not as_path(_INDEX.value).exists():
            raise ConfigError(f"--index={_INDEX.value}: no such file; give --images=FOLDER to make it.")
    predictor = Predictor.load(WORKDIR.value, checkpoint=CHECKPOINT.value)
    say(predictor.loaded.origin())
    index = index_of(predictor, _IMAGES.value, _INDEX.value) if _IMAGES.value or _INDEX.value else None
    with tempfile.TemporaryDirectory() as folder:
        page = make_page(predictor, Path(folder), index)
        _, url, _ = page.launch(
            server_name=_HOST.value,
            server_port=_PORT.value or None,
            theme=gradio.themes.Default(font=FONT, font_mono=("monospace",)),
            max_file_size=_MAX_UPLOAD,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=True,
            footer_links=[],
            app_kwargs={"middleware": middleware()},
        )
        say(f"the page is at {url} (Ctrl-C ends it)")
        page.block_thread()


if __name__ == "__main__":
    run_main(main, takes_config=False)
