"""Share a trained model: `python -m experiments.export --workdir=RUN --output=FOLDER [--push_to_hub=USER/NAME]`.

FOLDER, which must not exist, gets model.safetensors, config.json, vocab.txt and a model card;
`pixelbert_jax.load(FOLDER)` opens it.
"""

from pathlib import Path

from absl import flags

from data_pipelines.storage.paths import as_path, check_writable, is_local
from experiments.run.common_flags import CHECKPOINT, OUTPUT, WORKDIR, required
from experiments.run.config_flags import run_main
from experiments.run.metric_writer import read_metrics
from experiments.run.model_card import model_card
from experiments.run.progress import say
from pixelbert_jax.errors import ConfigError, in_short
from pixelbert_jax.loading import export, load

_PUSH_TO_HUB = flags.DEFINE_string("push_to_hub", "", "Also upload it to this Hugging Face repository, USER/NAME.")


def main() -> None:
    """Entry point behind the flags."""
    required(WORKDIR, OUTPUT)
    output = as_path(OUTPUT.value)
    if output.exists():
        raise ConfigError(f"--output={OUTPUT.value} exists; remove it or name another folder.")
    if _PUSH_TO_HUB.value and not is_local(output):
        raise ConfigError(f"--output={OUTPUT.value}: --push_to_hub uploads a local folder; give one.")
    check_writable(output)
    loaded = load(WORKDIR.value, checkpoint=CHECKPOINT.value)
    say(loaded.origin())
    # A checkpoint lies in RUN/checkpoints/STEP or RUN/best/STEP, the metrics in RUN.
    metrics = read_metrics(as_path(loaded.path).parents[1] / "metrics.jsonl")
    name = _PUSH_TO_HUB.value or output.name
    export(loaded, output, model_card(loaded, metrics, name))
    say(f"{OUTPUT.value} holds model.safetensors, config.json, vocab.txt, README.md")
    say("README.md states no licence: add yours before you share the model")
    if _PUSH_TO_HUB.value:
        push(output, _PUSH_TO_HUB.value)


def push(folder: Path, repository: str) -> None:
    """Upload an exported folder.

    Raises:
      ConfigError: not logged in, no such repository, or no network.
    """
    import huggingface_hub

    try:
        api = huggingface_hub.HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder))
    except Exception as error:  # of several libraries, by what failed
        reason = in_short(error)
        raise ConfigError(
            f"{folder} was written, but uploading it to {repository} failed ({type(error).__name__}: {reason}); log in "
            "with `hf auth login` and check the name, then upload that folder."
        ) from None
    say(f"uploaded to https://huggingface.co/{repository}")


if __name__ == "__main__":
    run_main(main, takes_config=False)
