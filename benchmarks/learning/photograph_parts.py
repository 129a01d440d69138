"""The parts of the experiment on photographs, in their order."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.learning.blind_guesses import nearest, questions, usual
from benchmarks.learning.workspace import Workspace, run
from data_pipelines.order.evaluation_plan import EvaluationPlan
from data_pipelines.storage.records import open_records
from data_pipelines.text.tokenizer import Tokenizer
from experiments.evaluation.metrics.retrieval import recalls
from experiments.run.canvases import canvas_of
from experiments.run.config import RunConfig, evaluation_rows
from experiments.run.loop import Stream
from experiments.run.report import neighbour_guess
from experiments.tasks.recipe import BatchInputs
from experiments.tasks.registry import recipe_of
from pixelbert_jax.loading import find_description
from pixelbert_jax.serialization import build

PRETRAINED = "pretrained"  # label of the main pre-training run
SEEDS = (0, 1, 2)
STARTS = {"pretrained": PRETRAINED, "published": ""}  # of a fine-tuning: the run, or the published weights alone
ABLATIONS = {  # label -> overrides of pre-training; None: there is none
    "none": None,
    "itm": ("task.mlm_weight=0",),
    "mlm": ("task.itm_weight=0",),
    "both": (),
    "all_pixels": ("task.sampled_pixels=0",),
}
ABLATION_STEPS, ABLATION_TUNING_STEPS = 1200, 500  # of pre-training, of fine-tuning retrieval


@dataclasses.dataclass(frozen=True)
class Sources:
    """The publishers' folders, "" where there is none, and the number of test images of the retrieval scores."""

    flickr8k: str
    daquar: str
    coco: str
    retrieval_images: int


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the experiment.

    Attributes:
      name: that --only takes.
      minutes: that it takes on two CPU cores, once pre-training is done.
      summary: what it does.
      last: label of the result that it ends with; "" if it is always run.
      run: does what is not finished of it.
      needs: the source without which it is skipped.
      optional: only runs when it is asked for by name.
    """

    name: str
    minutes: int
    summary: str
    last: str
    run: Callable[[Workspace, Sources], None]
    needs: str = "flickr8k"
    optional: bool = False


def _prepare(workspace: Workspace, sources: Sources) -> None:
    for name in ("flickr8k", "daquar"):
        if folder := getattr(sources, name):
            run(["data_pipelines.prepare", name, f"--source_dir={folder}", f"--data_dir={workspace.data_dir}"])


def _pretrain(workspace: Workspace, sources: Sources | None = None) -> Path:
    del sources
    return workspace.train(PRETRAINED, "pretrain_photographs")


def _pretraining_scores(workspace: Workspace, sources: Sources) -> None:
    """Masked tokens and image-text matching on the test split; zero-shot retrieval."""
    workdir = _pretrain(workspace)
    flags = (
        "--split=test",
        "--measure=tasks",
        *([f"--num_images={sources.retrieval_images}"] if workspace.tiny else []),
    )
    workspace.evaluate("tasks", workdir, ".json", *flags)
    workspace.evaluate("tasks_shuffled", workdir, ".json", *flags, "--shuffle_images")
    workspace.kept("tasks_text_alone", [str(workdir)], lambda: _text_alone(workspace, workdir))
    _retrieval_scores(workspace, "zero_shot", workdir, sources.retrieval_images, binary=True)


def _retrieval_scores(workspace: Workspace, label: str, workdir: Path, images: int, *, binary: bool = False) -> None:
    """Recalls of true and shuffled images; of a binary task's logits the accuracy over all pairs too."""
    flags = ("--split=test", "--dataset=flickr8k", *([f"--num_images={images}"] if images else []))
    workspace.evaluate(label, workdir, ".npz", *flags)

    def controls() -> dict[str, float]:
        with np.load(workspace.folder / "scores" / f"{label}.npz", allow_pickle=False) as stored:
            return controls_of(stored["scores"], stored["image_of_text"], binary=binary)

    workspace.kept(f"{label}_controls", [str(workdir), *flags], controls)


def controls_of(scores_IxT: np.ndarray, image_of_text: np.ndarray, *, binary: bool) -> dict[str, float]:
    """What else the scores of all pairs tell.

    Args:
      scores_IxT: logits.
      image_of_text: T indices of images.
      binary: a logit above 0 means that image and text match.

    Returns:
      `shuffled/...`: recalls if each image's texts belonged to the next image. `itm_accuracy`, if binary: of as many
      mismatched pairs as matched ones, the mean over all mismatched pairs.
    """
    images = len(scores_IxT)
    shuffled = recalls(scores_IxT, (image_of_text + 1) % images)
    found = {f"shuffled/{name}": value for name, value in shuffled.items()}
    if binary:
        own_IxT = np.arange(images)[:, None] == image_of_text[None]
        accuracy = ((scores_IxT[own_IxT] > 0).mean() + (scores_IxT[~own_IxT] <= 0).mean()) / 2
        found["itm_accuracy"] = float(accuracy)
    return found


def _text_alone(workspace: Workspace, workdir: Path) -> dict[str, float]:
    """Masked tokens of the test split, guessed from their two true neighbours in the training texts."""
    description = find_description(workdir)[1]  # no arrays: the devices are left to the programs
    config = build(description["config"], RunConfig)
    tokenizer = Tokenizer(tuple(description["vocabulary"]), config.data.lowercase)
    data = dataclasses.replace(config.data, mask_rate=config.evaluation.mask_rate)
    recipe = recipe_of(config)
    splits = {split: open_records(workspace.data_dir, "flickr8k", split) for split in ("train", "test")}
    makers = {
        split: recipe.make_batches(config, BatchInputs(tokenizer, None, [records], data, evaluation=split == "test"))
        for split, records in splits.items()
    }
    stream = Stream(EvaluationPlan([canvas_of(splits["test"], data)], rows=evaluation_rows(config)), makers["test"])
    return {
        "mlm_accuracy_matched": neighbour_guess(makers["train"], stream, ()),
        "mlm_accuracy_words": neighbour_guess(
            makers["train"], stream, recipe.make_task(config, tokenizer).reported_ids
        ),
    }


def _fine_tune_retrieval(seed: int) -> Callable[[Workspace, Sources], None]:
    def work(workspace: Workspace, sources: Sources) -> None:
        _pretrain(workspace)
        for label, start in STARTS.items():
            workdir = workspace.train(f"retrieval_{label}_{seed}", "retrieval_photographs", start=start, seed=seed)
            _retrieval_scores(workspace, f"retrieval_{label}_{seed}", workdir, sources.retrieval_images)

    return work


def _whole_split(workspace: Workspace, sources: Sources) -> None:
    del sources
    _pretrain(workspace)
    label = f"retrieval_{PRETRAINED}_{SEEDS[0]}"
    workdir = workspace.train(label, "retrieval_photographs", start=PRETRAINED, seed=SEEDS[0])
    _retrieval_scores(workspace, "whole_split", workdir, 0)


def _fine_tune_daquar(workspace: Workspace, sources: Sources) -> None:
    del sources
    _pretrain(workspace)
    workspace.kept("daquar_blind", [], lambda: _blind_guesses(workspace))
    for seed in SEEDS:
        for label, start in STARTS.items():
            workdir = workspace.train(f"daquar_{label}_{seed}", "vqa_photographs", start=start, seed=seed)
            for suffix, flags in (("", ()), ("_shuffled", ("--shuffle_images",))):
                workspace.evaluate(f"daquar_{label}_{seed}{suffix}", workdir, ".json", "--split=test", *flags)


def _blind_guesses(workspace: Workspace) -> dict[str, float]:
    """DAQUAR's test questions: the usual answer, and the answer of the nearest training question."""
    known, asked = (list(questions(open_records(workspace.data_dir, "daquar", split))) for split in ("train", "test"))
    most_frequent = usual(known)
    return {
        "usual_answer": float(np.mean([answer == most_frequent for _, answer in asked])),
        "nearest_question": float(np.mean(nearest(known, asked))),
        "questions": len(asked),
    }


def _ablation(name: str) -> Callable[[Workspace, Sources], None]:
    def work(workspace: Workspace, sources: Sources) -> None:
        label, overrides = f"ablation_{name}", ABLATIONS[name]
        steps = [] if workspace.tiny else [f"train.steps={n}" for n in (ABLATION_STEPS, ABLATION_TUNING_STEPS)]
        if overrides is not None:
            workspace.train(label, "pretrain_photographs", overrides=(*steps[:1], *overrides))
        start = "" if overrides is None else label
        workdir = workspace.train(f"{label}_retrieval", "retrieval_photographs", start=start, overrides=steps[1:])
        _retrieval_scores(workspace, f"{label}_retrieval", workdir, sources.retrieval_images)

    return work


def _attention(workspace: Workspace, sources: Sources) -> None:
    """In a process of its own, which gives the devices back."""
    workdir, output = _pretrain(workspace), workspace.folder / "attention.png"
    command = ["benchmarks.learning.attention_sheet", f"--workdir={workdir}", f"--coco={sources.coco}"]
    command.append(f"--output={output}")

    def work() -> dict[str, str]:
        run(command)
        return {"attention": str(output)}

    workspace.kept("attention", command, work)


PARTS = (
    Part("prepare", 1, "prepares the data sets", "", _prepare),
    Part("pretraining", 75, "pre-trains on Flickr8k's training split", "", _pretrain),
    Part("scores", 15, "ITM, MLM and zero-shot retrieval on the test split", "zero_shot_controls", _pretraining_scores),
    Part("attention", 1, "draws where words look, on COCO photographs", "attention", _attention, needs="coco"),
    *(
        Part(
            f"retrieval_{seed}",
            40,
            f"fine-tunes retrieval from both starts, seed {seed}",
            f"retrieval_published_{seed}_controls",
            _fine_tune_retrieval(seed),
        )
        for seed in SEEDS
    ),
    Part(
        "daquar",
        100,
        "fine-tunes DAQUAR from both starts, three seeds",
        f"daquar_published_{SEEDS[-1]}_shuffled",
        _fine_tune_daquar,
        needs="daquar",
    ),
    *(
        Part(
            f"ablation_{name}",
            65,
            f"pre-trains a variant ({name}) and fine-tunes retrieval",
            f"ablation_{name}_retrieval_controls",
            _ablation(name),
        )
        for name in ABLATIONS
    ),
    Part(
        "whole_split",
        300,
        "retrieval over the whole test split, 1,000 x 5,000",
        "whole_split_controls",
        _whole_split,
        optional=True,
    ),
)
