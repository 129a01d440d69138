"""ImageBERT from prepared regions to retrieval: trained, resumed, fine-tuned, evaluated, shared, refused."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from flax import nnx

import pixelbert_jax
from data_pipelines.errors import DataError
from data_pipelines.storage.records import open_records
from experiments import export as export_program
from experiments.pretrain import pretrain
from experiments.run.common_flags import OUTPUT, WORKDIR
from experiments.run.config import CheckpointConfig, RunConfig
from experiments.run.metric_writer import read_metrics
from experiments.run.validation import validate
from experiments.tasks.registry import recipe_of
from pixelbert_jax.config import RegionsConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.loading import LoadedModel, named_arrays
from pixelbert_jax.tasks.nlvr2 import Nlvr2Config
from pixelbert_jax.tasks.pretraining import PretrainingConfig
from pixelbert_jax.tasks.regions_pretraining import RegionsPretrainingConfig
from pixelbert_jax.tasks.retrieval import RetrievalConfig
from pixelbert_jax.tasks.vqa import VqaConfig
from pixelbert_jax.weights.initialize import InitConfig
from tests.experiments.evaluating import evaluate, rank
from tests.experiments.evaluation.test_retrieval import CLOSE, chosen_by_hand, saved
from tests.experiments.fine_tuning import (
    evaluated,
    fine_tune,
    on_one_device,
    regions_config,
    small_config,
    steps,
    stopped_at,
    with_whole_image,
)
from tests.multi_process.outcomes import assert_same_checkpoint, metrics
from tests.saved_run import save_run

pytestmark = pytest.mark.usefixtures("compiled_once")


def check_records(config, records):
    recipe_of(config).check_records(config, records, known=True, scored=True)


@pytest.fixture(scope="module")
def config(region_data) -> RunConfig:
    return regions_config(region_data)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory, programs) -> Path:
    """Six steps of pre-training; not to be changed."""
    workdir = tmp_path_factory.mktemp("imagebert") / "run"
    fine_tune(config, workdir)
    return workdir


def retrieval(config: RunConfig, checkpoint: Path) -> RunConfig:
    """Two steps of the paper's fine-tuning from a checkpoint, on texts and images."""
    task = RetrievalConfig(
        negatives=6,
        hardest_negatives=2,
        image_negatives=True,
        multiclass_weight=0.0,
        binary_weight=1.0,
        triplet_weight=0.5,
    )
    return dataclasses.replace(
        config,
        task=task,
        init=InitConfig(checkpoint=str(checkpoint)),
        data=dataclasses.replace(config.data, texts_per_image=1),
        train=dataclasses.replace(config.train, steps=2),
        evaluation=dataclasses.replace(config.evaluation, every=2, words=()),
        checkpoint=CheckpointConfig(every=2, best="eval/retrieval_accuracy"),
    )


@pytest.fixture(scope="module")
def fine_tuned(config, run, tmp_path_factory, programs) -> Path:
    workdir = tmp_path_factory.mktemp("retrieval") / "run"
    fine_tune(retrieval(config, run), workdir)
    return workdir


@pytest.fixture(scope="module")
def validation_scenes(region_data):
    return open_records(region_data, "shapes", "validation")


def test_a_run_leaves_what_it_promises(run):
    records = read_metrics(run / "metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 7))
    losses = {"mlm_loss", "moc_loss", "mrfr_loss", "itm_loss"}
    accuracies = {"mlm_accuracy", "moc_accuracy", "itm_accuracy"}
    assert losses | accuracies <= records[0].keys()
    assert records[0]["loss"] == pytest.approx(sum(records[0][name] for name in losses), rel=1e-5)
    evaluated = [r for r in records if "eval/itm_accuracy" in r]
    assert [r["step"] for r in evaluated] == [3, 6]
    names = losses | accuracies | {"mlm_accuracy_matched", "mlm_accuracy_words"}
    assert {f"eval/{name}" for name in names} == evaluated[0].keys() - {"step"}
    assert all(np.isfinite(value) for r in records for value in r.values())
    loaded = pixelbert_jax.load(run)
    assert loaded.description["task"] == "regions_pretraining" and loaded.task.model.regions == RegionsConfig(108, 25)
    assert {name.split(".")[0] for name in named_arrays(nnx.state(loaded.model))} == {
        *("model", "mlm_head", "itm_head", "class_head", "feature_head")
    }


def test_a_stopped_run_goes_on_to_the_bit(config, run, tmp_path, capsys):
    with stopped_at(5):
        fine_tune(config, tmp_path / "run")
    fine_tune(config, tmp_path / "run")
    assert "at step 4\n" in capsys.readouterr().out
    assert metrics(tmp_path / "run") == metrics(run)
    assert_same_checkpoint(tmp_path / "run", run, 6)


def test_retrieval_starts_from_pretraining(fine_tuned, run):
    """All that it needs is there, the ITM head too; all of it is trained."""
    report = json.loads((fine_tuned / "init.json").read_text())
    assert report["fresh"] == [] and set(report["loaded"].values()) == {f"init.checkpoint={run}"}
    before, after = (named_arrays(nnx.state(pixelbert_jax.load(folder).model)) for folder in (run, fine_tuned))
    assert before.keys() - after.keys() == {name for name in before if name.startswith(("mlm_", "class_", "feature_"))}
    for name, array in after.items():
        assert not np.array_equal(array, before[name]), name
        np.testing.assert_allclose(array, before[name], atol=0.01)
    losses = [r["retrieval_loss"] for r in read_metrics(fine_tuned / "metrics.jsonl") if "loss" in r]
    assert len(losses) == 2 and np.isfinite(losses).all()
    assert 0 <= evaluated(fine_tuned, "eval/retrieval_accuracy")[2] <= 1
    assert steps(fine_tuned / "checkpoints") == steps(fine_tuned / "best") == [2]


# Every image against every text.


def pairs_alone(loaded: LoadedModel, records, regions: int = 8) -> np.ndarray:
    """Image-text matching (ITM) logits of every image's first `regions` regions with every text, image by image."""

    @nnx.jit
    def match(module, visual, text_TxL, mask_TxL):
        regions, mask = module.model.encode_regions(*visual)
        regions, mask = (jnp.repeat(x, len(text_TxL), 0) for x in (regions, mask))
        return module.itm_logit(module.model.fuse(text_TxL, mask_TxL, regions, mask))

    length = loaded.data.max_text_length
    ids = [loaded.tokenizer.encode(text, length) for record in records for text in record.texts]
    text_TxL = np.stack([np.pad(i, (0, length - len(i)), constant_values=loaded.tokenizer.pad) for i in ids])
    mask_TxL = np.arange(length)[None] < np.array([len(i) for i in ids])[:, None]
    scores = []
    for record in records:
        found = record.regions
        visual = (found.features[None, :regions], found.boxes[None, :regions], np.ones((1, min(8, regions)), bool))
        whole = (found.global_feature[None],) if loaded.data.whole_image == "stored" else ()
        scores.append(np.asarray(match(loaded.model, visual + whole, text_TxL, mask_TxL)))
    return np.stack(scores)


BLOCKS = {"block_images": 4, "block_texts": 10}  # neither divides 13 images or 52 texts


def test_scores_are_those_of_each_pair_alone(fine_tuned, validation_scenes, tmp_path):
    """13 images in blocks of 4: padding rows of a block change nothing."""
    loaded, output = pixelbert_jax.load(fine_tuned), tmp_path / "a.npz"
    found = rank(loaded, validation_scenes, output, **BLOCKS)
    expected = pairs_alone(loaded, validation_scenes)
    np.testing.assert_allclose(saved(output)["scores"], expected, atol=CLOSE)
    assert expected.std(0).min() > 1e-3 and (found["images"], found["texts"]) == (13, 52)
    best = expected.argmax(1)
    own = saved(output)["image_of_text"]
    assert found["text_recall_1"] == pytest.approx(np.mean(own[best] == np.arange(13)))
    assert found["image_recall_1"] == pytest.approx(np.mean(expected.argmax(0) == own))


def test_reranking_reads_the_highest_scoring_regions_first(fine_tuned, validation_scenes, tmp_path, capsys):
    loaded, output = pixelbert_jax.load(fine_tuned), tmp_path / "a.npz"
    found = rank(loaded, validation_scenes, output, rerank_top=3, rerank_pixels=4, **BLOCKS)
    first, exact = pairs_alone(loaded, validation_scenes, 4), pairs_alone(loaded, validation_scenes)
    file = saved(output)
    assert (file["exact"] == chosen_by_hand(first, 3)).mean() > 0.99  # nearly equal scores may be swapped
    assert found["exactly_scored_pairs"] == file["exact"].sum() < file["exact"].size / 2
    np.testing.assert_allclose(file["scores"][file["exact"]], exact[file["exact"]], atol=CLOSE)
    assert np.ptp((first - file["scores"])[~file["exact"]]) < 2 * CLOSE
    assert np.abs(first - exact).max() > 1e-2 and "INEXACT" in capsys.readouterr().out


def test_zero_shot_with_the_whole_image(region_data, validation_scenes, tmp_path, programs):
    """As the program does it: the ITM head of pre-training, here untrained, on a run's own data."""
    with on_one_device():
        loaded = pixelbert_jax.load(
            save_run(tmp_path / "run", region_data, config=with_whole_image(regions_config(region_data)))
        )
    found = evaluate(loaded, "validation", tmp_path / "a.npz")
    np.testing.assert_allclose(saved(tmp_path / "a.npz")["scores"], pairs_alone(loaded, validation_scenes), atol=CLOSE)
    assert (found["images"], found["texts"]) == (13, 52)
    with pytest.raises(DataError, match=r"has no regions, but data\.regions=8"):
        rank(loaded, with_index(region_data, region_size=0), tmp_path / "b.npz")


def with_index(region_data, **fields):
    """The validation scenes with other fields in their index."""
    records = open_records(region_data, "shapes", "validation")
    records.index = dataclasses.replace(records.index, **fields)
    return records


# Sharing.


@pytest.fixture(scope="module")
def shared(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "model"
    with flagsaver.flagsaver((WORKDIR, str(run)), (OUTPUT, str(folder))):
        export_program.main()
    return folder


def test_export_and_load(run, shared):
    mine, theirs = pixelbert_jax.load(shared), pixelbert_jax.load(run)
    before, after = (named_arrays(nnx.state(loaded.model)) for loaded in (theirs, mine))
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    assert (mine.task, mine.data) == (theirs.task, theirs.data)
    assert mine.tokenizer.vocabulary == theirs.tokenizer.vocabulary


def test_the_card_of_an_exported_model(shared):
    """It names the model, and its example gives regions."""
    card = (shared / "README.md").read_text()
    assert "ImageBERT (Qi et al. 2020), pre-trained (masked language modelling, masked regions, " in card
    assert ", 6 steps, made with pixelbert_jax" in card
    assert "Pixel-BERT" not in card
    assert '= pixelbert_jax.Predictor.load("model", regions="regions/")  # an .npz file per image' in card


# Refused.


def changed(config: RunConfig, part: str, **fields) -> RunConfig:
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **fields)})


def test_configurations_that_do_not_fit_are_refused(config):
    pixels = dataclasses.replace(
        small_config(), data=dataclasses.replace(small_config().data, data_dir=config.data.data_dir)
    )
    reads_pixels = r"The model is a PixelBertConfig, which reads pixels, but data\.regions="
    cases = [
        (changed(pixels, "data", regions=8), rf"{reads_pixels}8"),
        (
            dataclasses.replace(pixels, task=config.task),
            "PixelBertConfig, which has no task regions_pretraining; set task to one of PretrainingConfig, VqaConfig",
        ),
        *(
            (
                dataclasses.replace(config, task=task),
                f"ImageBertConfig, which has no task {name}; set task to one of RegionsPretrainingConfig, Retrieval",
            )
            for name, task in (("vqa", VqaConfig()), ("nlvr2", Nlvr2Config()), ("pretraining", PretrainingConfig()))
        ),
        (changed(config, "data", regions=0), r"data\.regions=0, but the model reads regions; set it to 100"),
        (
            changed(config, "data", whole_image="mean"),
            r"global_size=0, but data\.whole_image='mean'; set both or none",
        ),
        (
            changed(with_whole_image(config), "data", whole_image="none"),
            r"global_size=192, but data\.whole_image='none'; set both or none",
        ),
        (dataclasses.replace(config, init=InitConfig(backbone="x")), "names a backbone; ImageBERT has none"),
        (
            dataclasses.replace(config, init=InitConfig(checkpoint="x", checkpoint_parts="backbone")),
            "names a backbone",
        ),
        (
            dataclasses.replace(config, task=RetrievalConfig(6, 2)),
            r"data\.texts_per_image=2.* retrieval takes one text",
        ),
    ]
    validate(config)
    validate(retrieval(config, Path("run")))
    for bad, message in cases:
        with pytest.raises(ConfigError, match=message) as error:
            validate(bad)
        assert "\n" not in str(error.value)


def test_data_that_does_not_fit_is_refused(config, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.run.build.make_trainer", lambda *_, **__: pytest.fail("built a model"))

    def sizes(base=config, **fields):
        return changed(base, "model", regions=dataclasses.replace(base.model.regions, **fields))

    whole = with_whole_image(config)
    cases = [
        (sizes(feature_size=100), r"model\.regions\.feature_size=100, but in Records.* it is 108; set it to that"),
        (sizes(classes=24), r"model\.regions\.classes=24, but Records.* has 25; set the first to that"),
        (sizes(whole, global_size=100), r"model\.regions\.global_size=100, but in Records.* it is 192; set it to that"),
        (changed(whole, "data", whole_image="mean"), r"model\.regions\.global_size=192, but in Records.* it is 108"),
        (
            changed(config, "data", data_dir=str(data_dir)),
            r"has no regions, but data\.regions=8; prepare it with --regions",
        ),
    ]
    for number, (bad, message) in enumerate(cases):
        with pytest.raises((ConfigError, DataError), match=message) as error:
            pretrain(bad, tmp_path / f"run{number}")
        assert "\n" not in str(error.value)


def test_classes_that_nobody_knows(config, region_data, validation_scenes):
    """They are needed for one loss alone."""
    unknown = with_index(region_data, region_classes=0)
    with pytest.raises(ConfigError, match=r"of Records.* have no classes; set task\.moc_weight=0") as error:
        check_records(config, unknown)
    assert "\n" not in str(error.value)
    check_records(dataclasses.replace(config, task=RegionsPretrainingConfig(moc_weight=0.0)), unknown)
    check_records(retrieval(config, Path("run")), unknown)
    check_records(config, validation_scenes)
