"""Re-ranking: all pairs from few pixels of each image, then the best pairs exactly."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from flax import nnx

from data_pipelines.batches import shared
from data_pipelines.images import resize
from experiments import evaluate as program
from experiments.evaluation import retrieval
from experiments.evaluation.metrics.retrieval import recalls
from experiments.evaluation.pair_scorer import PairScorer, spread_pixels
from experiments.evaluation.retrieval import best_pairs, ranked_below
from experiments.run.common_flags import OUTPUT, SPLIT, WORKDIR
from pixelbert_jax.errors import ConfigError
from tests.data_pipelines.fakes import FilledMemory
from tests.experiments.evaluating import evaluate, rank

pytestmark = pytest.mark.usefixtures("compiled_once")

TOP, PIXELS = 3, 6
CLOSE = 2e-5  # two programs for the same logit differ by less
BLOCKS = {"block_images": 4, "block_texts": 10}  # neither divides 13 images or 52 texts
RERANK = {"rerank_top": TOP, "rerank_pixels": PIXELS, **BLOCKS}


def saved(output) -> dict[str, np.ndarray]:
    with np.load(output) as file:
        return dict(file)


def assert_close(first: np.ndarray, second: np.ndarray, atol: float) -> None:
    """Numbers within a tolerance, names exactly."""
    if first.dtype.kind == "U":
        np.testing.assert_array_equal(first, second)
    else:
        np.testing.assert_allclose(first, second, atol=atol)


@pytest.fixture(scope="module")
def exact(pretrained, scenes, tmp_path_factory):
    """Metrics and file of the exact result."""
    output = tmp_path_factory.mktemp("exact") / "scores.npz"
    return rank(pretrained, scenes, output, **BLOCKS), saved(output)


@pytest.fixture(scope="module")
def reranked(pretrained, scenes, tmp_path_factory):
    """Metrics and file of the same with re-ranking."""
    output = tmp_path_factory.mktemp("reranked") / "scores.npz"
    found = rank(pretrained, scenes, output, **RERANK)
    assert list(output.parent.iterdir()) == [output]
    return found, saved(output)


def first_pass_alone(loaded, records) -> np.ndarray:
    """ITM logits from a few pixels of each image, with the whole encoder and all texts of one length."""

    @nnx.jit
    def match(module, image, size, text_TxL, mask_TxL):
        pixels_1xPxD, mask_1xP = module.model.encode_image(image, size)
        index_1xN, mask_1xN = spread_pixels(mask_1xP, module.model.config.grid(*image.shape[1:3])[1], PIXELS)
        pixels_TxNxD = jnp.broadcast_to(pixels_1xPxD[:, index_1xN[0]], (len(text_TxL), PIXELS, pixels_1xPxD.shape[-1]))
        mask_TxN = jnp.broadcast_to(mask_1xN, (len(text_TxL), PIXELS))
        return module.itm_logit(module.model.fuse(text_TxL, mask_TxL, pixels_TxNxD, mask_TxN))

    length = loaded.data.max_text_length
    ids = [loaded.tokenizer.encode(text, length) for record in records for text in record.texts]
    text_TxL = np.stack([np.pad(i, (0, length - len(i)), constant_values=loaded.tokenizer.pad) for i in ids])
    mask_TxL = np.arange(length)[None] < np.array([len(i) for i in ids])[:, None]
    scores = []
    for record in records:
        pixels = resize.decode(record.image)[None]
        size = np.array([pixels.shape[1:3]], np.int32)
        scores.append(np.asarray(match(loaded.model, pixels, size, text_TxL, mask_TxL)))
    return np.stack(scores)


def test_some_images_with_their_texts(exact, pretrained, scenes, tmp_path):
    """Evenly spaced ones: their part of all scores."""
    chosen, image_of_text = [0, 3, 6, 9, 12], exact[1]["image_of_text"]
    expected = exact[1]["scores"][chosen][:, np.isin(image_of_text, chosen)]
    found = rank(pretrained, scenes, tmp_path / "a.npz", num_images=5, **BLOCKS)
    file = saved(tmp_path / "a.npz")
    assert found["images"] == 5 and found["texts"] == expected.shape[1] == 20
    np.testing.assert_allclose(file["scores"], expected, atol=CLOSE)
    np.testing.assert_array_equal(file["image_of_text"], np.repeat(np.arange(5), 4))
    assert found["text_recall_1"] == recalls(expected, np.repeat(np.arange(5), 4))["text_recall_1"]


def chosen_by_hand(scores: np.ndarray, top: int) -> np.ndarray:
    texts, images = np.argsort(-scores, 1)[:, :top], np.argsort(-scores, 0)[:top]
    return np.array(
        [[j in texts[i] or i in images[:, j] for j in range(scores.shape[1])] for i in range(scores.shape[0])]
    )


def test_the_best_pairs_of_the_first_pass_are_scored_exactly(reranked, exact, pretrained, scenes):
    """And all others rank below them, as the first pass has them."""
    found, file = reranked
    first, is_exact, scores = first_pass_alone(pretrained, scenes), file["exact"], file["scores"]
    least_I, least_T = np.sort(first, 1)[:, -TOP], np.sort(first, 0)[-TOP]
    lead = first - np.minimum(least_I[:, None], least_T[None])  # of a pair before the last one that is chosen
    assert is_exact[lead > CLOSE].all() and not is_exact[lead < -CLOSE].any()
    assert found["exactly_scored_pairs"] == is_exact.sum() and 52 * TOP <= is_exact.sum() < is_exact.size / 2
    np.testing.assert_allclose(scores[is_exact], exact[1]["scores"][is_exact], atol=CLOSE)
    assert np.abs(scores - exact[1]["scores"])[~is_exact].min() > 1e-2
    assert scores[~is_exact].max() < scores[is_exact].min()
    assert np.ptp((first - scores)[~is_exact]) < 2 * CLOSE < np.ptp(first) / 100
    np.testing.assert_array_equal(file["image_of_text"], exact[1]["image_of_text"])
    assert (
        exact[1].keys() == {"scores", "image_of_text", "image_ids", "texts"} and exact[1]["scores"].dtype == np.float32
    )


def test_a_top_of_all_is_the_exact_result(exact, pretrained, scenes, tmp_path, capsys):
    """All texts, or all images, of which there are fewer."""
    for top in (13, 52, 1000):
        found = rank(pretrained, scenes, tmp_path / "a.npz", **RERANK | {"rerank_top": top})
        assert found == exact[0]
        assert f"--rerank_top={top} takes in every pair" in capsys.readouterr().out
        for name, array in saved(tmp_path / "a.npz").items():
            np.testing.assert_array_equal(array, exact[1][name])
    almost = RERANK | {"rerank_top": 12, "rerank_pixels": 36}
    found = rank(pretrained, scenes, tmp_path / "b.npz", **almost)
    assert found["exactly_scored_pairs"] < 13 * 52 and "INEXACT" in capsys.readouterr().out
    file = saved(tmp_path / "b.npz")
    np.testing.assert_allclose(file["scores"][file["exact"]], exact[1]["scores"][file["exact"]], atol=CLOSE)
    # The first pass read every pixel, so its order is the exact one.
    for axis in (0, 1):
        in_order = np.take_along_axis(exact[1]["scores"], np.argsort(file["scores"], axis), axis)
        assert np.diff(in_order, axis=axis).min() > -2 * CLOSE


def test_the_program_says_what_is_inexact(reranked, small_run, tmp_path, capsys):
    """Over eight devices, with blocks of other sizes."""
    settings = ((WORKDIR, str(small_run)), (OUTPUT, str(tmp_path / "a.npz")), (SPLIT, "validation"))
    with flagsaver.flagsaver(*settings, rerank_top=TOP, rerank_pixels=PIXELS):
        program.main()
    file, other = saved(tmp_path / "a.npz"), reranked[1]
    same, count = file["exact"] == other["exact"], file["exact"].sum()
    assert same.mean() > 0.99  # nearly equal scores may be swapped
    np.testing.assert_allclose(file["scores"][same], other["scores"][same], atol=3 * CLOSE)
    printed = capsys.readouterr().out
    assert f"INEXACT: {count} of 676 pairs ({count / 676:.2%}) were scored with all pixels, the best 3 of" in printed
    assert "first pass with 6 pixels" in printed and f"{'exactly_scored_pairs':40} {count}" in printed


def test_exact_and_inexact_parts_stay_apart(exact, reranked, pretrained, scenes, tmp_path, monkeypatch):
    """Stopped in the second pass: the continued run reuses only the parts of its own kind."""

    class Stopped(BaseException):
        pass

    calls, score, match_chosen = [], PairScorer.score, PairScorer.match_chosen

    def counted(self, *arguments):
        calls.append("all")
        return score(self, *arguments)

    def counted_or_stopped(self, *arguments):
        calls.append("chosen")
        if len(calls) == 6:
            raise Stopped
        return match_chosen(self, *arguments)

    monkeypatch.setattr(PairScorer, "score", counted)
    monkeypatch.setattr(PairScorer, "match_chosen", counted_or_stopped)
    output = tmp_path / "scores.npz"
    with pytest.raises(Stopped):
        rank(pretrained, scenes, output, **RERANK)
    assert sorted(len(list(folder.iterdir())) for folder in tmp_path.iterdir()) == [1, 4]
    cases = (
        ({"rerank_top": 0}, ["all"] * 4, 0, exact),
        ({"rerank_pixels": PIXELS + 1}, ["all"] * 4, 4, None),
        ({"rerank_top": 4}, [], 4, None),  # the same first pass; its parts go with the finished run
        ({}, ["all"] * 4, 3, reranked),
    )
    for changes, first, second, expected in cases:
        calls[:] = ["earlier"] * 10
        found = rank(pretrained, scenes, output, **RERANK | changes)
        assert calls[10:] == first + ["chosen"] * second, changes
        if expected:
            assert found == expected[0]
            for name, array in saved(output).items():
                assert_close(array, expected[1][name], 1e-6)
        elif changes.get("rerank_top"):
            assert found["exactly_scored_pairs"] > reranked[0]["exactly_scored_pairs"]
    assert list(tmp_path.iterdir()) == [output]


def test_few_shapes_are_compiled_for_chosen_pairs(pretrained, scenes):
    """One per length of texts, whatever is chosen; each pair gets its own logit."""
    texts = [text for record in scenes for text in record.texts] + ["red"]
    scorer = PairScorer(pretrained, texts, 10)
    rng = np.random.default_rng(0)
    canvas_4xHxWx3 = rng.integers(0, 256, (4, 48, 48, 3), np.uint8)
    size_4x2 = np.array([(48, 48), (36, 48), (48, 20), (1, 1)], np.int32)
    visual = scorer.encode({"images": canvas_4xHxWx3, "image_size": size_4x2})
    expected_4xT = scorer.match(*visual)
    for share in (0.05, 0.5, 1.0):
        chosen_3xT = rng.random((3, len(texts))) < share
        found_3xT = scorer.match_chosen(*visual, chosen_3xT)
        np.testing.assert_array_equal(found_3xT == -np.inf, ~chosen_3xT)
        np.testing.assert_allclose(found_3xT[chosen_3xT], expected_4xT[:3][chosen_3xT], atol=CLOSE)
    assert not np.isfinite(scorer.match_chosen(*visual, np.zeros((3, len(texts)), bool))).any()
    lengths = {-(-len(pretrained.tokenizer.encode(text, 99)) // 8) for text in texts}
    assert scorer._match_chosen._cache_size() == len(lengths) > 1


@pytest.mark.parametrize("rows, columns", [(13, 21), (21, 13), (13, 13), (13, 17), (10, 16), (4, 30)])
def test_pixels_are_spread_evenly(rows, columns):
    """Not along one column, say, where the grid's width divides what lies between two of them."""
    grid = 32
    mask_1xP = np.zeros((1, rows + 2, grid), bool)
    mask_1xP[:, :rows, :columns] = True
    mask_1xP = mask_1xP.reshape(1, -1)
    place_Px2 = np.stack(np.divmod(np.arange(mask_1xP.size), grid), 1)
    for count in (8, 13, 16, 32):
        index_1xN, used_1xN = (np.asarray(x) for x in spread_pixels(mask_1xP, grid, count))
        assert used_1xN.all() and len(set(index_1xN[0])) == count and mask_1xP[0, index_1xN[0]].all()
        valid_Vx2 = place_Px2[mask_1xP[0]]
        distance_VxN = np.linalg.norm(valid_Vx2[:, None] - place_Px2[index_1xN[0]][None], axis=-1)
        cell = np.sqrt(rows * columns / count)  # side of each one's share of the image
        assert distance_VxN.min(1).max() < 1.5 * cell and (distance_VxN.min(1) ** 2).mean() < 0.4 * cell**2


def test_an_image_of_few_pixels_gives_all_of_them():
    mask_2xP = np.array([[True, False, True, True, False, True], [True] * 6])
    index_2xN, used_2xN = (np.asarray(x) for x in spread_pixels(mask_2xP, 3, 5))
    assert used_2xN.sum(1).tolist() == [4, 5]
    assert set(index_2xN[0][used_2xN[0]]) == {0, 2, 3, 5}
    index_2xN, used_2xN = (np.asarray(x) for x in spread_pixels(mask_2xP, 3, 50))
    assert index_2xN.shape == (2, 6) and used_2xN.sum(1).tolist() == [4, 6]


def test_no_order_is_lost_below_the_exact_scores():
    """Not even where two scores of the first pass are neighbours in float32."""
    first = np.float32([[1e-6, 2e-6, 9.0], [np.nextafter(np.float32(3), np.float32(4)), 3.0, -7.0]])
    exact = np.float32([[-np.inf, -np.inf, -5000.0], [-np.inf, -np.inf, 4000.0]])
    scores = ranked_below(first, exact)
    np.testing.assert_array_equal(scores[:, 2], exact[:, 2])
    assert -5000 > scores[1, 0] > scores[1, 1] > scores[0, 1] > scores[0, 0]
    scores = np.random.default_rng(0).normal(size=(7, 9))
    np.testing.assert_array_equal(best_pairs(scores, 2), chosen_by_hand(scores, 2))


def test_padding_rows_of_a_block_are_empty(pretrained, scenes, monkeypatch):
    """They do not hold the earlier content of their memory, such as another image."""
    made = []
    for value in (0, 255):
        monkeypatch.setattr(shared, "_memory", FilledMemory(value))
        made.append(retrieval._images(pretrained, scenes, 0, np.arange(3), 5))
    for field in made[0]:
        np.testing.assert_array_equal(made[0][field], made[1][field])
    assert made[0]["images"].reshape(5, -1).any(1).tolist() == [True] * 3 + [False] * 2


def test_bad_reranking_is_refused_before_any_work(pretrained, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "PairScorer", lambda *_, **__: pytest.fail("called the model"))
    cases = [
        ({"rerank_top": -1}, r"--rerank_top=-1 must be at least 1, or 0 to score all pairs exactly"),
        ({"rerank_top": 5, "rerank_pixels": 0}, r"--rerank_pixels=0 at least 1"),
    ]
    for options, message in cases:
        with pytest.raises(ConfigError, match=message) as error:
            evaluate(pretrained, "validation", tmp_path / "a.npz", **options)
        assert "\n" not in str(error.value)
    for task, suffix in (("vqa", "json"), ("nlvr2", "csv")):
        other = dataclasses.replace(pretrained, description={**pretrained.description, "task": task})
        with pytest.raises(ConfigError, match=rf"--rerank_top=5 ranks .* a model of the task {task}; leave the flag"):
            evaluate(other, "validation", tmp_path / f"a.{suffix}", rerank_top=5)
    assert not list(tmp_path.iterdir())
