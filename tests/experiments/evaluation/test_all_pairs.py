"""Every image against every text: exact scores, stopped and continued, over several devices."""

import dataclasses

import numpy as np
import pytest
from absl.testing import flagsaver
from flax import nnx

from data_pipelines.images import resize
from experiments import evaluate as program
from experiments.evaluation import retrieval
from experiments.run.common_flags import OUTPUT, SPLIT, WORKDIR
from tests.experiments.evaluating import rank

pytestmark = pytest.mark.usefixtures("compiled_once")


def pairs_alone(loaded, records, indices: list[int]) -> np.ndarray:
    """Image-text matching (ITM) logits of some images with every text, the whole model for each pair."""

    @nnx.jit
    def match(module, image, size, text, mask):
        pixels, pixel_mask = module.model.encode_image(image, size)
        return module.itm_logit(module.model.fuse(text, mask, pixels, pixel_mask))[0]

    length = loaded.data.max_text_length
    texts = [text for record in records for text in record.texts]
    scores = np.zeros((len(indices), len(texts)), np.float32)
    for i, index in enumerate(indices):
        pixels = resize.decode(records[index].image)[None]
        for k, text in enumerate(texts):
            ids = loaded.tokenizer.encode(text, length)
            padded = np.pad(ids, (0, length - len(ids)), constant_values=loaded.tokenizer.pad)[None]
            size = np.array([pixels.shape[1:3]], np.int32)
            scores[i, k] = match(loaded.model, pixels, size, padded, np.arange(length)[None] < len(ids))
    return scores


def recall_by_hand(scores, image_of_text, k) -> tuple[float, float]:
    """Recalls of texts and of images, where no two scores are equal."""
    best_texts = np.argsort(-scores, 1)[:, :k]
    text = np.mean([(image_of_text[best] == i).any() for i, best in enumerate(best_texts)])
    return text, np.mean([t in np.argsort(-scores[:, j])[:k] for j, t in enumerate(image_of_text)])


@pytest.fixture(scope="module")
def zero_shot(pretrained, scenes, tmp_path_factory):
    output = tmp_path_factory.mktemp("zero_shot") / "scores.npz"
    found = rank(pretrained, scenes, output, block_images=4, block_texts=10)
    return found, output


def test_zero_shot_scores_are_those_of_each_pair_alone(zero_shot, pretrained, scenes):
    """13 images in blocks of 4, 52 texts in blocks of 10: neither divides."""
    found, output = zero_shot
    with np.load(output) as file:
        scores, image_of_text = file["scores"], file["image_of_text"]
    np.testing.assert_array_equal(image_of_text, np.repeat(np.arange(13), [len(r.texts) for r in scenes]))
    images = [0, 5, 7, 12]
    np.testing.assert_allclose(scores[images], pairs_alone(pretrained, scenes, images), atol=2e-5)
    assert scores.std() > 1e-3
    assert list(output.parent.iterdir()) == [output]
    assert (found["images"], found["texts"]) == scores.shape
    for k in (1, 5, 10):
        text, image = recall_by_hand(scores, image_of_text, k)
        assert found[f"text_recall_{k}"] == pytest.approx(text, abs=0.08)
        assert found[f"image_recall_{k}"] == pytest.approx(image, abs=0.08)


def test_scores_over_eight_devices_are_those_of_one(zero_shot, small_run, scenes, tmp_path):
    """Through the program, which takes all devices."""
    settings = ((WORKDIR, str(small_run)), (OUTPUT, str(tmp_path / "a.npz")), (SPLIT, "validation"))
    with flagsaver.flagsaver(*settings):
        program.main()
    with np.load(tmp_path / "a.npz") as mine, np.load(zero_shot[1]) as theirs:
        np.testing.assert_allclose(mine["scores"], theirs["scores"], atol=2e-5)


def test_an_evaluation_that_was_stopped_goes_on(zero_shot, pretrained, scenes, tmp_path, monkeypatch):
    """Blocks that are kept are not scored again; scores of other blocks, data or models are not reused."""
    calls, score = [], retrieval.PairScorer.score

    def counted(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(self, *arguments)

    monkeypatch.setattr(retrieval.PairScorer, "score", counted)
    output = tmp_path / "scores.npz"
    with pytest.raises(KeyboardInterrupt):
        rank(pretrained, scenes, output, block_images=4, block_texts=10)
    (parts,) = tmp_path.iterdir()
    assert parts.name.startswith(".scores.npz.") and sorted(p.name for p in parts.iterdir()) == ["0.npy", "1.npy"]
    calls += [1] * 10
    for block_images, expected in ((8, 2), (4, 2)):
        begun = len(calls)
        found = rank(pretrained, scenes, output, block_images=block_images, block_texts=10)
        assert len(calls) - begun == expected
        assert found == zero_shot[0]
        with np.load(output) as mine, np.load(zero_shot[1]) as theirs:
            np.testing.assert_allclose(mine["scores"], theirs["scores"], atol=1e-6)
        assert output in tmp_path.iterdir() and len(list(tmp_path.iterdir())) == (2 if block_images == 8 else 1)


def test_texts_as_long_as_the_model_takes(pretrained, scenes, tmp_path):
    """A greatest length that is no multiple of eight, all of the positions there are."""
    longest = pretrained.task.model.text.max_positions
    assert longest % 8 == 0
    long = [" ".join(["red"] * 60), "a circle"]
    for length in (longest, 21):
        data = dataclasses.replace(pretrained.data, max_text_length=length)
        scorer = retrieval.PairScorer(dataclasses.replace(pretrained, data=data), long, 2)
        (_, text, _) = scorer._blocks[0]
        assert text.shape[1] == length and scorer.cut == 1


def test_control_with_shuffled_images(pretrained, scenes, zero_shot, tmp_path):
    """The scores stay the same; the texts count as those of the next image."""
    rank(pretrained, scenes, tmp_path / "a.npz", shuffle_images=True)
    with np.load(tmp_path / "a.npz") as mine, np.load(zero_shot[1]) as theirs:
        np.testing.assert_allclose(mine["scores"], theirs["scores"], atol=2e-5)
        np.testing.assert_array_equal(mine["image_of_text"], (theirs["image_of_text"] + 1) % 13)
