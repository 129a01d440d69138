"""README.md of an exported model: what it is, what it was trained on, its metrics, its limits, how to use it."""

import re
from pathlib import PurePath
from typing import Any

import jax
from flax import nnx

from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.loading import LoadedModel

_MEANINGS = {
    "itm_accuracy": "share of image-text pairs, half of them mismatched, that are told apart (chance 0.5)",
    "mlm_accuracy": "share of masked tokens that are predicted",
    "mlm_accuracy_matched": "the same in matched pairs alone",
    "mlm_accuracy_words": "the same for the words that the configuration names",
    "moc_accuracy": "share of masked regions whose detector class is predicted",
    "mrfr_loss": "squared error of masked regions' features",
    "vqa_score": "mean score of the likeliest answer, in [0, 1]",
    "nlvr2_accuracy": "share of sentences that are judged rightly (chance 0.5)",
    "retrieval_accuracy": "share of images whose own text scores above those of the other images of a batch",
}
_TASKS = {
    "pretraining": "pre-trained (masked language modelling, image-text matching)",
    "regions_pretraining": "pre-trained (masked language modelling, masked regions, image-text matching)",
    "vqa": "fine-tuned for visual question answering",
    "nlvr2": "fine-tuned to judge sentences about images",
    "retrieval": "fine-tuned for image-text retrieval",
}
_DRAWN = ("shapes", "noisy_shapes", "easy_vqa", "nlvr")
_REGIONS = [
    "loaded = pixelbert_jax.load(NAME)  # loaded.model.model has encode_regions and fuse",
]


def model_card(loaded: LoadedModel, metrics: list[dict[str, Any]], name: str) -> str:
    """The text of the card.

    Args:
      loaded: the model.
      metrics: records of the run's metrics.jsonl.
      name: that others load it by.
    """
    description, config = loaded.description, loaded.description["config"]
    reads_pixels = isinstance(loaded.task.model, PixelBertConfig)
    paper = "Pixel-BERT (Huang et al. 2020)" if reads_pixels else "ImageBERT (Qi et al. 2020)"
    task = _TASKS.get(description["task"], description["task"])
    versions = ", ".join(f"{key} {value}" for key, value in description["versions"].items())
    lines = [
        "---",
        "library_name: pixelbert_jax",
        f"tags: [{'pixel-bert' if reads_pixels else 'imagebert'}, jax, image-text]",
        "---",
        f"# {name}",
        "",
        f"{paper}, {task}, {description['step']:,} steps, made with pixelbert_jax.",
        "",
        "## Use",
        "```python",
        "import pixelbert_jax",
        "",
        *(line.replace("NAME", f'"{name}"') for line in _example(loaded)),
        "```",
        "",
        "## Sizes",
        *_sizes(loaded),
        "",
        "## Trained on",
        *(_source(entry) for entry in description["data"]),
        *_initial_weights(config),
        "",
        "## Metrics on the evaluation split",
        *_metric_table(metrics, description["step"]),
        "",
        "## Limits",
        *_limits(loaded),
        "",
        "## Command",
        f"    {without_folders(description.get('command') or '(called from Python)')}",
        "",
        f"{versions}. The whole configuration is in config.json.",
    ]
    return "\n".join(lines) + "\n"


def without_folders(command: str) -> str:
    """A command without the folders of the machine that it ran on: of absolute paths the last part is left."""
    return re.sub(r"(?<![\w.])(?:/|~/)[^\s'\",)]*", lambda path: PurePath(path[0]).name, command)


def _example(loaded: LoadedModel) -> list[str]:
    """Code for a model of this task, with texts of its own domain."""
    if not isinstance(loaded.task.model, PixelBertConfig):
        return _REGIONS
    drawn = all(name in _DRAWN for name in _data_sets(loaded.description["config"]))
    image, text, other = ("scene.png", "a red circle", "a blue square")
    question, sentence = "what color is the circle?", "There is a red circle."
    if not drawn:
        image, text, other = ("photograph.jpg", "a dog on grass", "a red car")
        question, sentence = "what is on the table?", "There are two dogs."
    calls = {
        "vqa": [f'predictor.answer("{image}", "{question}", top=3)  # [(answer, probability), ...]'],
        "nlvr2": [f'predictor.judge("left.jpg", "right.jpg", "{sentence}")  # probability that it is true'],
    }
    if getattr(loaded.task.config, "pictures", 2) == 1:
        calls["nlvr2"] = [f'predictor.judge("{image}", "{sentence}")  # probability that it is true']
    usual = [f'predictor.match("{image}", ["{text}", "{other}"])  # probability of each text, 1x2']
    if loaded.description["task"] == "pretraining":
        usual.append(f'predictor.fill_mask("{image}", "{text.replace(text.split()[1], "[MASK]")}")')
    return ["predictor = pixelbert_jax.Predictor.load(NAME)", *calls.get(loaded.description["task"], usual)]


def _data_sets(config: dict[str, Any]) -> list[str]:
    """Names of the training data sets, of all stages."""
    mixtures = [config["data"]["train"], *(stage["train"] for stage in config.get("stages") or ())]
    return [source["name"] for mixture in mixtures for source in mixture]


def _source(entry: dict[str, Any]) -> str:
    if "name" not in entry:  # of an older run
        return f"- {without_folders(entry['source'])}"
    return f"- {entry['name']}, split {entry['split']}: {entry['images']:,} images"


def _initial_weights(config: dict[str, Any]) -> list[str]:
    init = config.get("init") or {}
    named = {name: init.get(name) for name in ("text", "backbone", "checkpoint")}
    return [f"- began with init.{name}: {without_folders(value)}" for name, value in named.items() if value]


def _sizes(loaded: LoadedModel) -> list[str]:
    model = loaded.task.model
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.as_pure(nnx.state(loaded.model, nnx.Param))))
    lines = [
        f"- {count / 1e6:,.1f} million parameters; encoder: {model.encoder.layers} layers of {model.encoder.width}",
        f"- texts of up to {model.text.max_positions} tokens ({loaded.data.max_text_length} in training), vocabulary "
        f"of {len(loaded.tokenizer.vocabulary):,}",
    ]
    if isinstance(model, PixelBertConfig):
        resize = loaded.data.resize
        lines.append(
            f"- images are resized to {resize.shorter_edge} pixels on the shorter edge and at most "
            f"{resize.longer_edge} on the longer one; one pixel feature for each {model.stride}x{model.stride} pixels"
        )
    else:
        lines.append(f"- up to {loaded.data.regions} regions an image, features of {model.regions.feature_size}")
    if answers := loaded.description.get("answers"):
        lines.append(f"- chooses among {len(answers):,} answers")
    return lines


def _metric_table(metrics: list[dict[str, Any]], step: int) -> list[str]:
    known = [record for record in metrics if record["step"] <= step]
    last = next((record for record in reversed(known) if any(key.startswith("eval/") for key in record)), None)
    if last is None:
        return ["None were measured in the run."]
    rows = [
        f"| {name} | {value:.4f} | {_MEANINGS.get(name, 'mean cross-entropy' if name.endswith('_loss') else '')} |"
        for key, value in last.items()
        if (name := key.removeprefix("eval/")) != key and value is not None
    ]
    return [f"At step {last['step']:,}:", "", "| metric | value | meaning |", "|---|---|---|", *rows]


def _limits(loaded: LoadedModel) -> list[str]:
    lines = ["- It knows what its training data shows; on other images and texts its probabilities mean little."]
    if loaded.description.get("answers"):
        lines.append("- It can give only the answers of its list (`answers` in config.json).")
    if loaded.description["task"] in ("pretraining", "retrieval"):
        lines.append("- A matching probability compares texts; it is not calibrated as the chance of being true.")
    lines.append(
        "- No licence is stated: it depends on the data and on the weights that training began with. Add one before "
        "you share the model."
    )
    return lines
