"""The tabs of the page: what the model's heads make possible."""

import functools
import string
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np

from data_pipelines.errors import DataError
from experiments.demo_page.checked_image import checked_image
from experiments.demo_page.examples import DrawnExample, drawn_examples
from experiments.demo_page.security import middleware
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.image_index import ImageIndex
from pixelbert_jax.loading import LoadedModel
from pixelbert_jax.predictor import Predictor
from pixelbert_jax.predictor_inputs import pixels_of

_MOST_TEXTS = 20
_MOST_LETTERS = 2000
_TOP = 5
_THUMBNAIL = 320  # pixels of the longer edge
_KEPT = (60, 600)  # seconds between looks for old uploads, and of an upload's life
_SERVED_AT_ONCE, _WAITING = 1, 20
_FONT = ("system-ui", "sans-serif")  # nothing is loaded from another host


def make_page(predictor: Predictor, folder: Path, index: ImageIndex | None = None) -> gr.Blocks:
    """The page of a model.

    Args:
      predictor: of the model.
      folder: for files of the examples; it has to stay as long as the page.
      index: of the images that can be searched; None: no such tab.
    """
    loaded, able = predictor.loaded, predictor.methods
    examples = drawn_examples(loaded, folder)
    page = gr.Blocks(title="pixelbert_jax", analytics_enabled=False, delete_cache=_KEPT)
    with page:
        gr.Markdown(f"# Ask a trained model\n{_name(loaded)}")
        if "match" in able:
            _match_tab(predictor, examples)
        if "fill_mask" in able:
            _fill_tab(predictor, examples)
        if "answer" in able:
            _answer_tab(predictor, examples)
        if "judge" in able:
            _judge_tab(predictor)
        if index is not None and "match" in able:
            _search_tab(index)
    return page.queue(default_concurrency_limit=_SERVED_AT_ONCE, max_size=_WAITING)


def serve(page: gr.Blocks, host: str = "127.0.0.1", port: int | None = None, *, max_upload: str = "20mb") -> str:
    """Serve a page in the background until it is closed; gives its address.

    Args:
      page: from `make_page`.
      host: the address to listen on.
      port: None: a free one.
      max_upload: size of the largest file that is taken, such as "20mb".
    """
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        theme=gr.themes.Default(font=_FONT, font_mono=("monospace",)),
        max_file_size=max_upload,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        show_error=True,
        footer_links=[],
        app_kwargs={"middleware": middleware()},
    )
    return url


def timed(work: Callable[..., Any]) -> Callable[..., Any]:
    """An event handler whose last output is the time that it took; its errors become one sentence on the page."""

    @functools.wraps(work)
    def handler(*inputs: Any) -> tuple[Any, ...]:
        begun = time.perf_counter()
        try:
            found = work(*inputs)
        except (ConfigError, DataError) as error:
            raise gr.Error(str(error), print_exception=False) from None
        outputs = found if isinstance(found, tuple) else (found,)
        return *outputs, f"{time.perf_counter() - begun:.2f} s"

    return handler


def needed(**inputs: Any) -> None:
    """Refuse missing images and texts, and texts without end; raises ConfigError."""
    for name, value in inputs.items():
        if value is None or (isinstance(value, str) and not value.strip()):
            raise ConfigError(f"Give {name.replace('_', ' ')} first.")
        if isinstance(value, str) and len(value) > _MOST_LETTERS:
            raise ConfigError(f"A text has {len(value):,} characters; give at most {_MOST_LETTERS:,}.")


def lines_of(text: str) -> list[str]:
    """The texts of a box, one a line; raises ConfigError if there are too many."""
    texts = [line.strip() for line in text.splitlines() if line.strip()]
    if len(texts) > _MOST_TEXTS:
        raise ConfigError(f"{len(texts)} texts were given; give at most {_MOST_TEXTS}, one a line.")
    return texts


def thumbnail(path: str) -> np.ndarray:
    """An image of at most some hundred pixels, uint8 HxWx3."""
    pixels = pixels_of(path)
    scale = min(1.0, _THUMBNAIL / max(pixels.shape[:2]))
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _name(loaded: LoadedModel) -> str:
    """Name of the run or folder and step; visitors see no path of the machine."""
    path = Path(loaded.path)
    run = path.parents[1] if path.name.isdigit() and len(path.parents) > 1 else path  # RUN/checkpoints/STEP
    step = loaded.description.get("step")
    return run.name if step is None else f"{run.name}, step {step:,}"


def _match_tab(predictor: Predictor, examples: Sequence[DrawnExample]) -> None:
    def match(image: np.ndarray | None, text: str) -> tuple[dict[str, float], list[tuple[str, None]], str]:
        needed(an_image=image, a_text=text)
        texts = lines_of(text)
        scores = predictor.match(image, texts)[0]
        best = texts[int(np.argmax(scores))]
        return dict(zip(texts, map(float, scores), strict=True)), [(f"{word} ", None) for word in best.split()], best

    def look(image: np.ndarray | None, text: str, chosen: gr.SelectData) -> np.ndarray:
        needed(an_image=image, a_text=text)
        clicked = chosen.value if isinstance(chosen.value, str) else chosen.value[0]
        return predictor.attention_map(image, text, clicked.strip().strip(string.punctuation)).overlay()

    with gr.Tab("Match"):
        with gr.Row():
            with gr.Column():
                image = checked_image("Image")
                text = gr.Textbox(label="Texts, one a line", lines=3)
                button = gr.Button("Match", variant="primary")
            with gr.Column():
                scores = gr.Label(label="Probability that image and text belong together", num_top_classes=_MOST_TEXTS)
                words = gr.HighlightedText(label="Best text: click a word to see where it looks", interactive=False)
                attention = gr.Image(
                    label="Attention of the word", interactive=False, height=320, buttons=["fullscreen", "download"]
                )
                seconds, best = gr.Markdown(), gr.State("")
        if examples:
            gr.Examples([[e.image, f"{e.caption}\n{e.other}"] for e in examples], [image, text], cache_examples=False)
        button.click(timed(match), [image, text], [scores, words, best, seconds], api_name="match")
        words.select(timed(look), [image, best], [attention, seconds], api_name=False)


def _fill_tab(predictor: Predictor, examples: Sequence[DrawnExample]) -> None:
    def fill(image: np.ndarray | None, text: str) -> list[list[Any]]:
        needed(an_image=image, a_text=text)
        found = predictor.fill_mask(image, text, top=_TOP)
        return [[number, token, round(p, 4)] for number, best in enumerate(found, 1) for token, p in best]

    with gr.Tab("Fill [MASK]"):
        with gr.Row():
            with gr.Column():
                image, text = checked_image("Image"), gr.Textbox(label="Text with [MASK]")
                button = gr.Button("Fill", variant="primary")
            with gr.Column():
                table = gr.Dataframe(headers=["mask", "token", "probability"], interactive=False)
                seconds = gr.Markdown()
        if examples:
            gr.Examples([[e.image, e.masked] for e in examples], [image, text], cache_examples=False)
        button.click(timed(fill), [image, text], [table, seconds], api_name="fill_mask")


def _answer_tab(predictor: Predictor, examples: Sequence[DrawnExample]) -> None:
    def answer(image: np.ndarray | None, question: str) -> dict[str, float]:
        needed(an_image=image, a_question=question)
        return dict(predictor.answer(image, question, top=_TOP))

    with gr.Tab("Ask"):
        with gr.Row():
            with gr.Column():
                image, question = checked_image("Image"), gr.Textbox(label="Question")
                button = gr.Button("Ask", variant="primary")
            with gr.Column():
                answers, seconds = gr.Label(label="Answers", num_top_classes=_TOP), gr.Markdown()
        if examples:
            gr.Examples([[e.image, e.question] for e in examples], [image, question], cache_examples=False)
        button.click(timed(answer), [image, question], [answers, seconds], api_name="answer")


def _judge_tab(predictor: Predictor) -> None:
    names = ("Left image", "Right image") if predictor.loaded.task.config.images == 2 else ("Image",)

    def judge(*images_and_sentence: Any) -> dict[str, float]:
        *images, sentence = images_and_sentence
        needed(**dict(zip((f"the_{name.lower().replace(' ', '_')}" for name in names), images, strict=True)))
        needed(a_sentence=sentence)
        probability = predictor.judge(*images, sentence)
        return {"true": probability, "false": 1 - probability}

    with gr.Tab("Judge"):
        with gr.Row():
            with gr.Column():
                with gr.Row():
                    images = [checked_image(name) for name in names]
                sentence = gr.Textbox(label="Sentence")
                button = gr.Button("Judge", variant="primary")
            with gr.Column():
                verdict, seconds = gr.Label(label="Is the sentence true?"), gr.Markdown()
        button.click(timed(judge), [*images, sentence], [verdict, seconds], api_name="judge")


def _search_tab(index: ImageIndex) -> None:
    def search(text: str) -> list[tuple[np.ndarray, str]]:
        needed(a_text=text)
        found = index.search(text, top=12)
        return [(thumbnail(name), f"{Path(name).name}  {probability:.2f}") for name, probability in found]

    with gr.Tab("Search"):
        text = gr.Textbox(label=f"Text to find among {len(index.names):,} images")
        button = gr.Button("Search", variant="primary")
        gallery, seconds = gr.Gallery(label="Best matches", columns=4, interactive=False), gr.Markdown()
    button.click(timed(search), [text], [gallery, seconds], api_name="search")
