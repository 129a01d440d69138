"""Regions of a detector are those of a direct call of its model; what is no detector is refused."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.images.files import BadImageError
from data_pipelines.regions.detector import Detector, batches_of_one_size
from tests.data_pipelines.regions.tiny_detectors import CLASSES, FAMILIES, QUERIES, save
from tests.hostile.guards import guarded

torch = pytest.importorskip("torch")


def image(height: int = 50, width: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def class_head(model) -> torch.nn.Module:
    """The layer that makes class logits of a query's hidden state."""
    if model.config.model_type == "rt_detr":
        return model.model.decoder.class_embed[-1]
    return model.class_embed[-1] if hasattr(model, "class_embed") else model.class_labels_classifier


@pytest.mark.parametrize("family", FAMILIES)
def test_regions_are_those_of_a_direct_call(family: str, tmp_path: Path) -> None:
    """The features, given to the model's own class head, must give the class and the confidence of the same region."""
    model = save(tmp_path / family, family)
    detector = Detector.load(str(tmp_path / family), device="cpu")
    pixels = image()
    (row,) = detector.detect(pixels[None])
    with torch.inference_mode():
        output = model(**detector._processor([pixels], return_tensors="pt"))
        logits = class_head(model)(torch.from_numpy(row.features))
    softmax = family in ("detr", "yolos")
    probabilities = logits.softmax(-1)[:, :-1] if softmax else logits.sigmoid()
    np.testing.assert_allclose(row.scores, probabilities.max(-1).values, atol=1e-5)
    np.testing.assert_array_equal(row.classes, probabilities.argmax(-1))
    assert (np.diff(row.scores) <= 0).all() and (row.height, row.width, row.in_pixels) == (50, 80, True)
    # Hugging Face's own boxes in pixels: one per query with softmax, one per query and class with sigmoid.
    more = {} if family in ("detr", "yolos", "rt_detr") else {"top_k": QUERIES * len(CLASSES)}
    theirs = detector._processor.post_process_object_detection(output, 0.0, [(50, 80)], **more)[0]
    scores, labels, boxes = (theirs[key].numpy() for key in ("scores", "labels", "boxes"))
    boxes = boxes.clip(0, [80, 50, 80, 50])
    for box, score, label in zip(row.boxes, row.scores, row.classes, strict=True):
        if family == "rt_detr" and score < scores.min():
            break  # it returns only as many as there are queries
        near = np.abs(boxes - box).max(1) < 1e-3
        assert (near & (np.abs(scores - score) < 1e-5) & (labels == label)).any()
    assert len(np.unique(row.boxes.round(3), axis=0)) > 5  # else a wrong order would not be noticed
    assert len(row.scores) == QUERIES or (boxes[:, 2:] <= boxes[:, :2]).any()  # without area
    about = detector.description
    assert about["classes"] == list(CLASSES.values()) and about["feature_size"] == row.features.shape[1]
    assert (about["family"], about["name"]) == (family, family)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("detectors") / "tiny"
    save(folder)
    return folder


def test_an_image_has_the_same_regions_alone_and_among_others(folder: Path) -> None:
    """A padded image would have others."""
    detector = Detector.load(str(folder), batch_size=2)
    images = [image(50, 80), image(30, 64, 1), image(50, 80, 2), image(50, 80, 3)]
    for alone, among in zip((detector([pixels])[0] for pixels in images), detector(images), strict=True):
        for name, array in vars(alone).items():
            np.testing.assert_allclose(getattr(among, name), array, atol=2e-3, err_msg=name)
    assert batches_of_one_size([(1, 2), (3, 4), (1, 2), (1, 2)], 2) == [[0, 2], [3], [1]]
    first = [np.concatenate(array) for array in zip(*(vars(found).values() for found in detector(images)), strict=True)]
    assert first[0].std() > 0.1 and not np.allclose(
        detector([images[0]])[0].features, detector([images[2]])[0].features
    )


def test_top_and_least_confidence(folder: Path) -> None:
    (every,) = Detector.load(str(folder)).detect(image()[None])
    (some,) = Detector.load(str(folder), top=3).detect(image()[None])
    np.testing.assert_array_equal(some.features, every.features[:3])
    np.testing.assert_array_equal(some.boxes, every.boxes[:3])
    least = float(every.scores[4])
    (above,) = Detector.load(str(folder), min_confidence=least).detect(image()[None])
    np.testing.assert_array_equal(above.scores, every.scores[every.scores >= np.float32(least)])
    nothing = Detector.load(str(folder), min_confidence=0.999)
    assert nothing.detect(image()[None]) == [None]
    with pytest.raises(DataError, match="Image 0 of 1 cannot be used: no region with"):
        nothing([image()])


def test_the_fingerprint_is_that_of_the_content(folder: Path, tmp_path: Path) -> None:
    before = Detector.load(str(folder)).description
    (tmp_path / "moved").mkdir()
    for file in folder.iterdir():
        (tmp_path / "moved" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "moved" / "README.md").write_text("new")
    moved = Detector.load(str(tmp_path / "moved")).description
    assert moved["fingerprint"] == before["fingerprint"] == before["revision"] and moved["name"] == "moved"
    config = tmp_path / "moved" / "preprocessor_config.json"
    config.write_text(config.read_text().replace("48", "40"))
    assert Detector.load(str(tmp_path / "moved")).description["fingerprint"] != before["fingerprint"]


def one_sentence(error: pytest.ExceptionInfo) -> None:
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_torch_that_is_not_installed(folder: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DataError, match=r"`pip install 'pixelbert_jax\[detect\]'`") as error:
        Detector.load(str(folder))
    one_sentence(error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "--top=0 is not between 1 and 10,000"),
        ({"min_confidence": 1.5}, r"--min_confidence=1\.5 is not between 0 and 1"),
        ({"batch_size": 0}, "--batch_size=0 is not positive"),
        ({"device": "cuda"}, "--device=cuda, but torch finds no GPU"),
    ],
)
def test_options_out_of_range(folder: Path, options: dict, message: str, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DataError, match=message) as error:
        Detector.load(str(folder), **options)
    one_sentence(error)


def test_what_is_no_detector_is_refused(folder: Path, tmp_path: Path) -> None:
    import transformers

    classifier = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32
    )
    transformers.ViTForImageClassification(classifier).save_pretrained(tmp_path / "classifier")
    transformers.AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "headless")
    for file in ("preprocessor_config.json", "config.json"):
        for name in ("headless", "pickled"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_bytes((folder / file).read_bytes())
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "empty").mkdir()
    cases = {
        "classifier": "cannot be loaded as an object detector .*ViTConfig",
        "headless": r"has no weights for \d+ parts of a DetrForObjectDetection \(first: bbox_predictor",
        "pickled": "cannot be loaded as an object detector .*safetensors",
        "empty": "cannot be loaded as an object detector",
        "missing/folder/here": "no such folder; give one that exists, or a Hugging Face name",
    }
    for name, message in cases.items():
        with pytest.raises(DataError, match=f"--detector={tmp_path / name}.*{message}") as error:
            Detector.load(str(tmp_path / name))
        one_sentence(error)


@pytest.mark.parametrize(
    ("end", "value", "what"),
    [
        ("bbox_predictor.layers.0.weight", float("nan"), "NaN or infinity"),
        ("class_labels_classifier.bias", float("inf"), "NaN or infinity"),
        ("running_var", -1.0, "a negative variance"),
    ],
)
def test_weights_that_are_no_numbers(folder: Path, tmp_path: Path, end: str, value: float, what: str) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "d")
    tensors = load_file(tmp_path / "d" / "model.safetensors")
    name = next(name for name in tensors if name.endswith(end))
    tensors[name].reshape(-1)[0] = value
    save_file(tensors, tmp_path / "d" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=rf"--detector=.*d: .*{end} holds {what}; download it again"):
        Detector.load(str(tmp_path / "d"))


def test_a_hub_that_cannot_be_reached(monkeypatch) -> None:
    def fail(*_):
        raise OSError("offline")

    monkeypatch.setattr("data_pipelines.regions.detector.snapshot", fail)
    with pytest.raises(DataError, match=r"--detector=a/b is neither a folder here nor .*\(offline\)") as error:
        Detector.load("a/b")
    one_sentence(error)


def test_a_name_on_the_hub(folder: Path, tmp_path: Path, monkeypatch) -> None:
    """The hub's cache has the files of a commit in a folder of its name."""
    commit = "0123456789abcdef" * 2 + "01234567"
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / commit).symlink_to(folder)

    def snapshot(name, patterns):
        assert name == "some/detr" and not any("bin" in pattern or pattern.endswith("*") for pattern in patterns)
        return tmp_path / "snapshots" / commit

    monkeypatch.setattr("data_pipelines.regions.detector.snapshot", snapshot)
    about = Detector.load("some/detr").description
    assert (about["name"], about["revision"]) == ("some/detr", commit)
    assert about["fingerprint"] == Detector.load(str(folder)).description["fingerprint"]


def test_code_beside_a_detector_is_not_run(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked the user"))
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'mark')!r})\nclass Model: pass\n")
    config = json.loads((tmp_path / "config.json").read_text())
    auto_map = {"AutoConfig": "evil.Model", "AutoModelForObjectDetection": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": auto_map}))
    with guarded(tmp_path), pytest.raises(DataError, match="cannot be loaded"):
        Detector.load(str(tmp_path))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pred_boxes": None}, "its output lacks last_hidden_state, pred_boxes or logits"),
        ({"last_hidden_state": torch.zeros(1, 5, 32)}, "its 5 hidden states and 12 boxes are not of the same queries"),
        ({"logits": torch.zeros(1, QUERIES, 9)}, "it has 9 logits for 5 classes"),
    ],
)
def test_an_output_without_aligned_queries(folder: Path, changes: dict, message: str, monkeypatch) -> None:
    from transformers import DetrForObjectDetection

    forward = DetrForObjectDetection.forward

    def changed(self, **inputs):
        output = forward(self, **inputs)
        for key, value in changes.items():
            setattr(output, key, value)
        return output

    monkeypatch.setattr(DetrForObjectDetection, "forward", changed)
    with pytest.raises(DataError, match=f"is a DetrForObjectDetection, and {message}") as error:
        Detector.load(str(folder))
    one_sentence(error)


def test_a_size_that_the_image_processor_refuses(folder: Path) -> None:
    """The shorter side would have no pixel."""
    with pytest.raises(BadImageError, match="a size that the detector's image processor refuses"):
        Detector.load(str(folder)).detect(np.zeros((1, 1, 2000, 3), np.uint8))
