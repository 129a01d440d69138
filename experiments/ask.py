"""Ask a trained model about your own images.

    python -m experiments.ask --workdir=RUN --image=a.jpg --text="two dogs" --text="a red car"
    python -m experiments.ask --workdir=RUN --image=a.jpg --text="a [MASK] on the grass"
    python -m experiments.ask --workdir=RUN --image=a.jpg --question="what is on the table?"
    python -m experiments.ask --workdir=RUN --left=a.jpg --right=b.jpg --sentence="both show a dog"
    python -m experiments.ask --workdir=RUN --search="two dogs" --search_in=FOLDER --index=photographs.npz

A pre-trained model gives the probability that a text matches an image, and predicts [MASK]. A retrieval model gives
the probability only. A model of visual question answering gives answers. An NLVR2 model judges a sentence about two
images, an NLVR model a sentence about one --image. --search finds images of a folder by a text. --index keeps their
embeddings, so that the next search is quick.
--image, --text, --question and --sentence may be given several times. --workdir is a run, an exported folder or a
Hugging Face name. An ImageBERT also takes --regions=FOLDER, with an .npz file of a detector's regions for each image,
or --detector=NAME.
"""

import json
from collections.abc import Sequence
from typing import Any

from absl import flags

from data_pipelines.storage.paths import as_path
from experiments.run.common_flags import (
    CHECKPOINT,
    DETECTOR,
    IMAGES,
    INDEX,
    REGIONS,
    TEXTS,
    WORKDIR,
    new_file,
    required,
)
from experiments.run.config_flags import run_main
from experiments.run.progress import say
from experiments.run.search_index import index_of
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.image_index import ImageIndex
from pixelbert_jax.predictor import Predictor

_QUESTIONS = flags.DEFINE_multi_string("question", [], "Question about each image.")
_LEFT = flags.DEFINE_string("left", None, "Left image of a pair, for --sentence.")
_RIGHT = flags.DEFINE_string("right", None, "Right image of a pair, for --sentence.")
_SENTENCES = flags.DEFINE_multi_string("sentence", [], "Sentence to judge.")
_SEARCH = flags.DEFINE_string("search", None, "Text to find images by, in --search_in.")
_SEARCH_IN = flags.DEFINE_string("search_in", None, "Folder of images; not needed with an --index that is there.")
_TOP = flags.DEFINE_integer("top", 5, "How many answers, tokens for a [MASK], or images.", 1)
_JSON = flags.DEFINE_bool("json", False, "Print JSON alone.")

_MASK = "[MASK]"


def matched(predictor: Predictor, images: Sequence[str], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Probability of each text with each image."""
    scores_IxT = predictor.match(list(images), texts)
    return [
        {"image": image, "text": text, "probability": float(scores_IxT[i, t])}
        for i, image in enumerate(images)
        for t, text in enumerate(texts)
    ]


def filled(predictor: Predictor, images: Sequence[str], texts: Sequence[str], top: int) -> list[dict[str, Any]]:
    """The likeliest tokens for each [MASK] of each text with each image."""
    found = []
    for image in images:
        encoded = predictor.encode(image)
        for text in texts:
            for number, tokens in enumerate(predictor.fill_mask(encoded, text, top=top), 1):
                found += [
                    {"image": image, "text": text, "mask": number, "token": token, "probability": probability}
                    for token, probability in tokens
                ]
    return found


def answered(predictor: Predictor, images: Sequence[str], questions: Sequence[str], top: int) -> list[dict[str, Any]]:
    """The likeliest answers to each question about each image."""
    found = []
    for image in images:
        for question, answers in zip(questions, predictor.answer(image, list(questions), top=top), strict=True):
            found += [
                {"image": image, "question": question, "answer": answer, "probability": probability}
                for answer, probability in answers
            ]
    return found


def judged(predictor: Predictor, images: Sequence[str], sentences: Sequence[str]) -> list[dict[str, Any]]:
    """Probability that each sentence is true of the images, which belong together."""
    probabilities = predictor.judge(*images, list(sentences))
    return [
        {"images": list(images), "sentence": sentence, "probability": float(probability)}
        for sentence, probability in zip(sentences, probabilities, strict=True)
    ]


def searched(index: ImageIndex, text: str, top: int) -> list[dict[str, Any]]:
    """The images that match a text best."""
    return [{"image": name, "probability": probability} for name, probability in index.search(text, top)]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as text: probability first, without columns that are the same in all rows."""
    names = [name for name in rows[0] if name != "probability" and len({str(row[name]) for row in rows}) > 1]
    names = names or [name for name in rows[0] if name != "probability"][-1:]
    widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in names}
    lines = ["probability  " + "  ".join(f"{name:{widths[name]}}" for name in names).rstrip()]
    for row in rows:
        cells = "  ".join(f"{row[name]!s:{widths[name]}}" for name in names).rstrip()
        lines.append(f"{row['probability']:11.3f}  {cells}")
    return "\n".join(lines)


def check_flags() -> str:
    """Which of "match", "fill_mask", "answer", "judge" and "search" the flags select.

    Raises:
      ConfigError: they select none or several, or an image is missing.
    """
    pair = [flag.value for flag in (_LEFT, _RIGHT) if flag.value]
    wanted = [flag.name for flag in (TEXTS, _QUESTIONS, _SENTENCES, _SEARCH) if flag.value]
    if len(wanted) != 1:
        given = " and ".join(f"--{name}" for name in wanted) or "none of them"
        raise ConfigError(f"Give one of --text, --question, --sentence and --search; here is {given}.")
    if wanted == ["search"]:
        if INDEX.value:
            new_file(INDEX.value, ".npz", "index")
        kept = INDEX.value and as_path(INDEX.value).exists()
        if not (kept or _SEARCH_IN.value) or pair or IMAGES.value:
            raise ConfigError("--search takes a --search_in=FOLDER, or an --index that is there, and no single images.")
        return "search"
    if pair and (wanted != ["sentence"] or len(pair) != 2 or IMAGES.value):
        raise ConfigError("--left and --right are a pair for --sentence: give both of them, and no --image.")
    if not pair and not IMAGES.value:
        raise ConfigError("Give an --image, or --left and --right for a sentence about two.")
    if wanted == ["question"]:
        return "answer"
    if wanted == ["sentence"]:
        if not pair and len(IMAGES.value) != 1:
            raise ConfigError("A sentence about one image takes one --image; about two it takes --left and --right.")
        return "judge"
    masked = [_MASK in text for text in TEXTS.value]
    if any(masked) and not all(masked):
        raise ConfigError("Some --text have [MASK] and some have not; give them in separate commands.")
    return "fill_mask" if all(masked) else "match"


def main() -> None:
    """Entry point behind the flags."""
    required(WORKDIR)
    method = check_flags()
    predictor = Predictor.load(
        WORKDIR.value, checkpoint=CHECKPOINT.value, regions=REGIONS.value, detector=DETECTOR.value
    )
    pair = [_LEFT.value, _RIGHT.value] if _LEFT.value else IMAGES.value
    rows = {
        "match": lambda: matched(predictor, IMAGES.value, TEXTS.value),
        "fill_mask": lambda: filled(predictor, IMAGES.value, TEXTS.value, _TOP.value),
        "answer": lambda: answered(predictor, IMAGES.value, _QUESTIONS.value, _TOP.value),
        "judge": lambda: judged(predictor, pair, _SENTENCES.value),
        "search": lambda: searched(
            index_of(predictor, _SEARCH_IN.value, INDEX.value, quiet=_JSON.value), _SEARCH.value, _TOP.value
        ),
    }[method]()
    if _JSON.value:
        model = {"path": predictor.loaded.path, "step": predictor.loaded.description.get("step")}
        print(json.dumps({"model": model, "method": method, "rows": rows}, indent=1, ensure_ascii=False))
    else:
        say(predictor.loaded.origin())
        print(table(rows))


if __name__ == "__main__":
    run_main(main, takes_config=False)
