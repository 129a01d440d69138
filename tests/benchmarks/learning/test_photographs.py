"""The experiment on photographs: with tiny sizes from end to end, stopped in the middle; all parts with stand-ins."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

from benchmarks.learning import photograph_parts, photographs, workspace
from benchmarks.learning.attention_sheet import chosen_examples, examples
from benchmarks.learning.photograph_parts import ABLATIONS, PARTS, controls_of
from benchmarks.learning.photograph_tables import chance_recalls, tables
from benchmarks.learning.workspace import scores_in
from data_pipelines.text.tokenizer import SPECIAL
from experiments.configs.pretrain_photographs import WORDS
from experiments.evaluation.metrics.retrieval import recalls
from pixelbert_jax.config import EncoderConfig, ResNetConfig
from pixelbert_jax.errors import ConfigError
from tests.data_pipelines.publishers import sentences, write_image, write_json

ROOT = Path(__file__).parents[3]
VOCABULARY = (*SPECIAL, *WORDS.split(), "a", "and", "on")
BACKBONE = ResNetConfig(
    depths=(1, 1, 1, 1), widths=(8, 8, 16, 16), inner_widths=(8, 8, 16, 16), block="basic", stem_width=8
)
TINY = [
    "model.backbone.depths=(1, 1, 1)",
    "model.backbone.widths=(8, 8, 16)",
    "model.backbone.inner_widths=(8, 8, 16)",
    "model.backbone.stem_width=8",
    "model.encoder.layers=2",
    "model.encoder.width=24",
    "model.encoder.heads=2",
    "model.encoder.mlp_width=32",
    "model.encoder.scan_unroll=1",
    "model.text.vocabulary_size=0",
    "model.text.max_positions=24",
    "init.text_layers=(0, 2)",
    "data.resize.shorter_edge=32",
    "data.resize.longer_edge=32",
    "data.canvases=((32, 32),)",
    "data.batch_images=4",
    "pretrain_photographs:task.sampled_pixels=1",
]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, Path]:
    """Photographs in Karpathy's layout and weights, as published, small."""
    pytest.importorskip("torch")
    from safetensors.torch import save_file

    from tests.pixelbert_jax.weights.references import TorchResNet, shake, torch_bert

    folder, words, entries = tmp_path_factory.mktemp("published"), WORDS.split(), []
    rng = np.random.default_rng(0)
    for i in range(24):
        split = "train" if i < 12 else "val" if i < 18 else "test"
        write_image(folder / "flickr8k" / "images" / f"{i}.jpg", height=32, width=32, seed=i)
        texts = [f"a {first} and a {second} on {i % 3}" for first, second in rng.choice(words, (5, 2))]
        entries.append({"filename": f"{i}.jpg", "split": split, "sentences": sentences(*texts)})
    write_json(folder / "flickr8k" / "dataset_flickr8k.json", {"dataset": "flickr8k", "images": entries})
    bert = torch_bert(EncoderConfig(layers=3, width=24, heads=2, mlp_width=32), len(VOCABULARY), 24)
    bert.save_pretrained(folder / "text")
    (folder / "text" / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    save_file(shake(TorchResNet(BACKBONE)).state_dict(), folder / "resnet.safetensors")
    return {"flickr8k": folder / "flickr8k", "bert": folder / "text", "resnet": folder / "resnet.safetensors"}


def command_of(published: dict[str, Path], folder: Path, parts: str) -> list[str]:
    return [
        *(f"--{name}={path}" for name, path in published.items()),
        f"--folder={folder}",
        f"--only={parts}",
        "--tiny",
        "--override=train.compilation_cache=",
        *(f"--override={field}" for field in TINY),
    ]


def start(arguments: list[str]) -> subprocess.Popen:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.learning.photographs", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_tiny_from_end_to_end_stopped_in_the_middle(published, tmp_path):
    arguments = command_of(published, tmp_path, "prepare,pretraining,scores")
    first, lines = start(arguments), []
    for line in first.stdout:
        lines.append(line)
        if line.startswith("  step "):  # pre-training is under way
            first.send_signal(signal.SIGTERM)
            break
    lines += first.communicate(timeout=120)[0].splitlines(keepends=True)
    assert first.returncode, "".join(lines)
    assert not (tmp_path / "runs" / "pretrained" / "finished.json").exists()
    saved = [
        int(path.name) for path in (tmp_path / "runs" / "pretrained" / "checkpoints").iterdir() if path.name.isdigit()
    ]
    assert 0 < max(saved) < 24

    second = start(arguments)
    printed = second.communicate(timeout=300)[0]
    assert second.returncode == 0, printed
    assert f"resuming {tmp_path / 'runs' / 'pretrained'} at step" in printed
    kept = json.loads((tmp_path / "results.json").read_text())["kept"]
    results = {label: each["result"] for label, each in kept.items()}
    assert results["tasks"]["itm_accuracy_examples"] == 4 * 4 and 0 < results["tasks"]["mlm_accuracy_matched"] <= 1
    assert results["tasks"] != results["tasks_shuffled"] and 0 <= results["tasks_text_alone"]["mlm_accuracy_words"] < 1
    assert results["zero_shot"]["images"] == 4 and results["zero_shot"]["texts"] == 20
    assert 0 <= results["zero_shot_controls"]["shuffled/text_recall_1"] <= 1
    unused = json.loads((tmp_path / "runs" / "pretrained" / "init.json").read_text())["unused"]
    assert {len(names) for names in unused.values()} == {16, 18}  # a layer of BERT, a stage of ResNet
    table = (tmp_path / "tables.md").read_text()
    for row in ("true images", "shuffled images", "text alone", "pre-trained, not fine-tuned", "chance"):
        assert f"| {row} |" in table
    assert Image.open(tmp_path / "curves.png").size[0] > 500
    assert table in printed

    again = start(arguments)
    printed = again.communicate(timeout=120)[0]
    assert again.returncode == 0 and "experiments." not in printed, printed


def stand_in(commands: list[list[str]], recalls_of: dict[str, float]):
    """What `workspace.run` would do, without training: notes the command, writes scores, prints what programs print."""

    def run(command):
        commands.append(list(command))
        flag = dict(part.removeprefix("--").split("=", 1) for part in command if part.startswith("--") and "=" in part)
        if command[0] in ("experiments.pretrain", "experiments.finetune"):
            Path(flag["workdir"]).mkdir(parents=True)
            return ["done: it holds checkpoints/"]
        if command[0] in ("data_pipelines.prepare", "benchmarks.learning.attention_sheet"):
            return []
        if flag["output"].endswith(".npz"):
            scores = np.arange(12.0).reshape(2, 6) - 6
            np.savez(flag["output"], scores=scores, image_of_text=np.repeat([0, 1], 3))
            found = {"images": 2, "texts": 6} | recalls_of
        else:
            found = {"accuracy": 0.25} if "daquar" in flag["workdir"] else {"itm_accuracy": 0.9, "mlm_accuracy": 0.5}
        return [f"{name:40} {value}" for name, value in found.items()]

    return run


@pytest.mark.parametrize(("setting", "tiny"), [("cpu", False), ("amx", False), ("gpu", False), ("gpu", True)])
def test_every_part_gives_commands_that_fit_and_rows_of_a_table(setting, tiny, tmp_path, monkeypatch, capsys):
    from experiments.run.config_flags import load_config, split_arguments
    from experiments.run.validation import validate

    commands = []
    run = stand_in(commands, dict.fromkeys((f"{k}_recall_{n}" for k in ("text", "image") for n in (1, 5, 10)), 0.125))
    for module in (workspace, photograph_parts):
        monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(photograph_parts, "_text_alone", lambda *_: {"mlm_accuracy_matched": 0.25})
    monkeypatch.setattr(photograph_parts, "_blind_guesses", lambda *_: {"usual_answer": 0.1, "nearest_question": 0.2})
    monkeypatch.setattr(photographs, "chosen_examples", lambda _: None)
    given = {name: str(tmp_path) for name in ("flickr8k", "daquar", "coco")}
    flags = given | {"bert": "bert", "resnet": "resnet", "folder": str(tmp_path)}
    parts, override = [part.name for part in PARTS], ["vqa_photographs:optimizer.ema_decay=0.5"]
    with flagsaver.flagsaver(**flags, only=parts, override=override, setting=setting, tiny=tiny):
        photographs.main()
        count = len(commands)
        photographs.main()  # only data sets are looked at again
        assert [command[0] for command in commands[count:]] == ["data_pipelines.prepare"] * 2
    trained = [command for command in commands if command[0] in ("experiments.pretrain", "experiments.finetune")]
    assert len({tuple(command) for command in trained}) == len(trained) == 1 + 6 + 6 + 2 * len(ABLATIONS) - 1
    for command in trained:
        _, file, overrides = split_arguments(command[1:])
        config = load_config(file, overrides)
        validate(config)
        named = (config.init.text, config.init.backbone, config.data.vocabulary)
        assert named == (("", "", "") if config.init.checkpoint else ("bert", "resnet", "bert"))
        assert ("vqa" in file) == (config.optimizer.ema_decay == 0.5)
        assert (config.train.steps in (2, 24)) == tiny and (config.model.encoder.layers == 6) == (setting == "gpu")
    printed = capsys.readouterr().out
    for row in (
        "| true images | 0.900 |  |  |",
        "| fine-tuned, published weights alone | 0.125 ± 0.000 |",
        "| pre-trained, shuffled images | 0.250 ± 0.000 |",
        "| answer of the nearest training question | 0.200 |",
        "| no pre-training | 0.125 |",
        "| all pixels | 0.125 |",
    ):
        assert row in printed, row


def test_controls_by_hand():
    """Two images with two texts each; the scores of images 0 and 1 are exchanged in the control."""
    scores = np.array([[2.0, -1.0, -3.0, 1.0], [-2.0, -4.0, 3.0, 4.0]])
    found = controls_of(scores, np.array([0, 0, 1, 1]), binary=True)
    assert found["itm_accuracy"] == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert found["shuffled/text_recall_1"] == 0 and found["shuffled/image_recall_1"] == 0
    assert recalls(scores, np.array([0, 0, 1, 1]))["text_recall_1"] == 1
    assert "itm_accuracy" not in controls_of(scores, np.array([0, 0, 1, 1]), binary=False)


def test_chance_by_drawing():
    rng, image_of_text = np.random.default_rng(0), np.repeat(np.arange(20), 5)
    draws = [recalls(rng.permutation(2000).reshape(20, 100), image_of_text) for _ in range(2000)]
    for name, value in chance_recalls(20, 100).items():
        assert value == pytest.approx(np.mean([draw[name] for draw in draws]), abs=0.01), name


def test_no_result_is_no_table():
    assert tables({}) == ""
    assert "DAQUAR" not in tables({"tasks": {"itm_accuracy": 0.9}})


def test_scores_that_programs_print():
    long = "a" * 45
    printed = [f"{'a_b/c':40} 0.5000", f"{'n':40} 12", f"{long:40} 0.25", "step 3  loss 1.0", "x y  3"]
    assert scores_in(printed) == {"a_b/c": 0.5, "n": 12, long: 0.25}
    with pytest.raises(ConfigError, match="printed no score"):
        scores_in(["step 3  loss 1.0"])


def test_what_cannot_be_run_is_refused(tmp_path):
    given = {"flickr8k": str(tmp_path), "bert": "t", "resnet": "b", "folder": str(tmp_path / "new")}
    with flagsaver.flagsaver(**given, only=["nothing"]), pytest.raises(ConfigError, match="--only: nothing unknown"):
        photographs.main()
    cases = [
        ({"only": ["daquar"]}, "--only=daquar needs --daquar=FOLDER"),
        ({"daquar": "nowhere"}, "--daquar=nowhere: no such folder"),
        ({"coco": str(tmp_path)}, "captions_val2017.json is missing"),
        ({"override": ["pretrain_photograph:train.steps=5"]}, "no training has the config pretrain_photograph"),
    ]
    for more, message in cases:
        with flagsaver.flagsaver(**given | more), pytest.raises(ConfigError, match=message):
            photographs.main()
    assert not (tmp_path / "new").exists()


def test_a_result_of_other_flags_is_not_taken(tmp_path):
    space = workspace.Workspace(tmp_path, tmp_path / "data", (), "cpu")
    assert space.kept("a", ["--images=200"], lambda: {"x": 1}) == {"x": 1}
    assert space.kept("a", ["--images=200"], lambda: pytest.fail("done twice")) == {"x": 1}
    with pytest.raises(ConfigError, match=r"a\.json was made in another way \(--images=200, --images=4\)"):
        space.kept("a", ["--images=4"], lambda: {"x": 2})


def test_photographs_are_chosen_by_licence_and_word(tmp_path):
    content = {
        "licenses": [{"id": 1, "name": "NonCommercial"}, {"id": 4, "name": "Attribution"}],
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "license": licence} for i, licence in ((7, 4), (3, 4), (5, 1), (9, 4))
        ],
        "annotations": [
            {"id": 3, "image_id": 7, "caption": "A red thing."},
            {"id": 9, "image_id": 7, "caption": "Two dogs, a man."},
            {"id": 4, "image_id": 5, "caption": "A dog."},
            {"id": 1, "image_id": 3, "caption": "Nothing here"},
            {"id": 2, "image_id": 9, "caption": "The Beach."},
        ],
    }
    write_json(tmp_path / "annotations" / "captions_val2017.json", content)
    for i in (3, 5, 7, 9):
        write_image(tmp_path / "val2017" / f"{i}.jpg")
    found = list(examples(tmp_path))
    assert [(e.file.name, e.caption, e.word, e.source) for e in found] == [
        ("7.jpg", "Two dogs, a man.", "dogs", "COCO 7, Attribution"),
        ("9.jpg", "The Beach.", "beach", "COCO 9, Attribution"),
    ]
    with pytest.raises(ConfigError, match=r"captions_val2017\.json is missing"):
        list(examples(tmp_path / "annotations"))
    with pytest.raises(ConfigError, match="2 images fit the rule of the attention maps, which needs 12"):
        chosen_examples(tmp_path)
    (tmp_path / "val2017" / "9.jpg").unlink()
    with pytest.raises(ConfigError, match=r"9\.jpg is missing"):
        list(examples(tmp_path))
