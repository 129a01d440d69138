"""Share a trained model: `python -m experiments.export --workdir=RUN --output=FOLDER [--push_to_hub=USER/NAME]`.

FOLDER, which must not exist, gets model.safetensors, config.json, vocab.txt and a model card;
`pixelbert_jax.load(FOLDER)` opens it.
"""

from pathlib import Path
from typing import Any

from absl import flags

from experiments.common_flags import CHECKPOINT, OUTPUT, WORKDIR, required
from experiments.config_flags import run_main
from experiments.metric_writer import read_metrics
from experiments.progress import say
from pixelbert_jax.config import PixelBertConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import LoadedModel, export, load

_PUSH_TO_HUB = flags.DEFINE_string("push_to_hub", "", "Also upload it to this Hugging Face repository, USER/NAME.")


def model_card(loaded: LoadedModel, metrics: list[dict[str, Any]], name: str) -> str:
    """README.md of an exported model: what it is, what it was trained on, its scores, how to open it."""
    description = loaded.description
    step = description["step"]
    seen = [record for record in metrics if record["step"] <= step]
    held_out = next((r for r in reversed(seen) if any(key.startswith("eval/") for key in r)), {"step": None})
    scores = [f"| {key.removeprefix('eval/')} | {value:.4f} |" for key, value in held_out.items() if "eval/" in key]
    sources = [f"- {source['source']}" for source in description["data"]]
    reads_pixels = isinstance(loaded.task.model, PixelBertConfig)
    paper = "Pixel-BERT (Huang et al. 2020)" if reads_pixels else "ImageBERT (Qi et al. 2020)"
    use = [
        "predictor = pixelbert_jax.Predictor.load(NAME)",
        'predictor.match("photograph.jpg", ["a dog on grass", "a red car"])',
    ]
    if not reads_pixels:
        use = ["loaded = pixelbert_jax.load(NAME)  # loaded.model.model has encode_regions and fuse"]
    versions = ", ".join(f"{key} {value}" for key, value in description["versions"].items())
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: pixelbert_jax",
        f"tags: [{'pixel-bert' if reads_pixels else 'imagebert'}, jax, image-text]",
        "---",
        f"# {name}",
        "",
        f"{paper}, task {description['task']}, {step:,} steps, made with pixelbert_jax.",
        "",
        "## Trained on",
        *sources,
        "",
        "## By",
        f"    {description.get('command') or '(called from Python)'}",
        "",
        f"{versions}. The whole configuration is in config.json.",
        "",
        "## Held-out scores",
        *(
            [f"At step {held_out['step']:,}:", "", "| figure | value |", "|---|---|", *scores]
            if scores
            else ["None were measured in the run."]
        ),
        "",
        "## Use",
        "```python",
        "import pixelbert_jax",
        "",
        *(line.replace("NAME", f'"{name}"') for line in use),
        "```",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Entry point behind the flags."""
    required(WORKDIR, OUTPUT)
    if Path(OUTPUT.value).exists():
        raise ConfigError(f"--output={OUTPUT.value} exists; remove it or name another folder.")
    loaded = load(WORKDIR.value, checkpoint=CHECKPOINT.value)
    say(loaded.origin())
    # A checkpoint lies in RUN/checkpoints/STEP or RUN/best/STEP, the metrics in RUN.
    metrics = read_metrics(Path(loaded.path).parents[1] / "metrics.jsonl")
    name = _PUSH_TO_HUB.value or Path(OUTPUT.value).name
    export(loaded, OUTPUT.value, model_card(loaded, metrics, name))
    say(f"{OUTPUT.value} holds model.safetensors, config.json, vocab.txt, README.md")
    if _PUSH_TO_HUB.value:
        push(Path(OUTPUT.value), _PUSH_TO_HUB.value)


def push(folder: Path, repository: str) -> None:
    """Upload an exported folder.

    Raises:
      ConfigError: not logged in, no such place, or no network.
    """
    import huggingface_hub

    try:
        api = huggingface_hub.HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder))
    except Exception as error:  # of several libraries, by what failed
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{folder} was written, but uploading it to {repository} failed ({type(error).__name__}: {reason}); log in "
            "with `hf auth login` and check the name, then upload that folder."
        ) from None
    say(f"uploaded to https://huggingface.co/{repository}")


if __name__ == "__main__":
    run_main(main, takes_config=False)
