"""README.md of an exported model: what it is, what it was trained on, its metrics, its limits, how to use it."""

import re
from pathlib import PurePath
from typing import Any

import jax
from flax import nnx

from data_pipelines.storage.detectors import named
from experiments.tasks.recipe import ExampleTexts, Recipe
from experiments.tasks.registry import recipe_named
from experiments.tasks.visual_input import VisualInput, visual_input_of
from pixelbert_jax.loading import LoadedModel

_DRAWN = ("shapes", "noisy_shapes", "easy_vqa", "nlvr")
_OF_DRAWINGS = ExampleTexts(
    "scene.png", "a red circle", "a blue square", "what color is the circle?", "There is a red circle."
)
_OF_PHOTOGRAPHS = ExampleTexts(
    "photograph.jpg", "a dog on grass", "a red car", "what is on the table?", "There are two dogs."
)


def model_card(loaded: LoadedModel, metrics: list[dict[str, Any]], name: str) -> str:
    """The text of the card.

    Args:
      loaded: the model.
      metrics: records of the run's metrics.jsonl.
      name: the name by which others load it.
    """
    description, config = loaded.description, loaded.description["config"]
    visual_input, recipe = visual_input_of(loaded.task.model), recipe_named(description["task"])
    versions = ", ".join(f"{key} {value}" for key, value in description["versions"].items())
    lines = [
        "---",
        "library_name: pixelbert_jax",
        f"tags: [{visual_input.tag}, jax, image-text]",
        "---",
        f"# {name}",
        "",
        f"{visual_input.paper}, {recipe.summary}, {description['step']:,} steps, made with pixelbert_jax.",
        "",
        "## Use",
        "```python",
        "import pixelbert_jax",
        "",
        *(line.replace("NAME", f'"{name}"') for line in _example(loaded, visual_input, recipe)),
        "```",
        "",
        "## Sizes",
        *_sizes(loaded, visual_input),
        "",
        "## Trained on",
        *(_source(entry) for entry in description["data"]),
        *_regions(description),
        *_initial_weights(config),
        "",
        "## Metrics on the evaluation split",
        *_metric_table(metrics, description["step"], recipe),
        "",
        "## Limits",
        *_limits(recipe),
        "",
        "## Command",
        f"    {without_folders(description.get('command') or '(called from Python)')}",
        "",
        f"{versions}. The whole configuration is in config.json.",
    ]
    return "\n".join(lines) + "\n"


def without_folders(command: str) -> str:
    """A command without the folders of the machine that it ran on: absolute paths keep their last part only."""
    return re.sub(r"(?<![\w.])(?:/|~/)[^\s'\",)]*", lambda path: PurePath(path[0]).name, command)


def _example(loaded: LoadedModel, visual_input: VisualInput, recipe: Recipe) -> list[str]:
    """Example code for a model of this task, with texts of its own domain."""
    drawn = all(name in _DRAWN for name in data_sets(loaded.description["config"]))
    example = recipe.example(loaded, _OF_DRAWINGS if drawn else _OF_PHOTOGRAPHS)
    return [visual_input.predictor, *example]


def data_sets(config: dict[str, Any]) -> list[str]:
    """Names of the training data sets, of all stages."""
    mixtures = [config["data"]["train"], *(stage["train"] for stage in config.get("stages") or ())]
    return [source["name"] for mixture in mixtures for source in mixture]


def _source(entry: dict[str, Any]) -> str:
    if "name" not in entry:  # of an older run
        return f"- {without_folders(entry['source'])}"
    return f"- {entry['name']}, split {entry['split']}: {entry['images']:,} images"


def _regions(description: dict[str, Any]) -> list[str]:
    return [f"- regions of the detector {named(description['detector'])}"] if description.get("detector") else []


def _initial_weights(config: dict[str, Any]) -> list[str]:
    init = config.get("init") or {}
    named = {name: init.get(name) for name in ("text", "backbone", "checkpoint")}
    return [f"- began with init.{name}: {without_folders(value)}" for name, value in named.items() if value]


def _sizes(loaded: LoadedModel, visual_input: VisualInput) -> list[str]:
    model = loaded.task.model
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.as_pure(nnx.state(loaded.model, nnx.Param))))
    lines = [
        f"- {count / 1e6:,.1f} million parameters; encoder: {model.encoder.layers} layers of {model.encoder.width}",
        f"- texts of up to {model.text.max_positions} tokens ({loaded.data.max_text_length} in training), vocabulary "
        f"of {len(loaded.tokenizer.vocabulary):,}",
    ]
    lines.append(visual_input.sizes(model, loaded.data))
    if answers := loaded.description.get("answers"):
        lines.append(f"- chooses among {len(answers):,} answers")
    return lines


def _metric_table(metrics: list[dict[str, Any]], step: int, recipe: Recipe) -> list[str]:
    known = [record for record in metrics if record["step"] <= step]
    last = next((record for record in reversed(known) if any(key.startswith("eval/") for key in record)), None)
    if last is None:
        return ["None were measured in the run."]

    def meaning(name: str) -> str:
        return recipe.metric_meanings.get(name, "mean cross-entropy" if name.endswith("_loss") else "")

    rows = [
        f"| {name} | {value:.4f} | {meaning(name)} |"
        for key, value in last.items()
        if (name := key.removeprefix("eval/")) != key and value is not None
    ]
    return [f"At step {last['step']:,}:", "", "| metric | value | meaning |", "|---|---|---|", *rows]


def _limits(recipe: Recipe) -> list[str]:
    return [
        "- It knows only what its training data contains; on other images and texts its probabilities mean little.",
        *recipe.limits,
        "- No licence is stated: it depends on the data and on the weights that training began with. Add one before "
        "you share the model.",
    ]
