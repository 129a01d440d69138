"""ImageBERT's pre-training: the four losses and what counts against plain numpy, what is hidden from the model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.regions_pretraining import RegionsPretrainingConfig, RegionsPretrainingTask
from pixelbert_jax.tasks.task import mean_metrics
from tests.pixelbert_jax.helpers import (
    VOCABULARY,
    GivenHeads,
    assert_fields,
    assert_fields_are_needed,
    assert_learned,
    make_regions_batch,
    randomize,
    small_imagebert,
)
from tests.pixelbert_jax.test_pretraining import token_losses

ROWS, TEXTS, MASKED, REGIONS, CLASSES, SIZE = 4, 3, 2, 5, 7, 6
PAIRS = ROWS * TEXTS
KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class GivenOutputs(RegionsPretrainingTask):
    """The task with given logits instead of a model's; a region's hidden state is its class logits, then features."""

    def forward(self, module, batch, key):
        return module.outputs


@dataclasses.dataclass
class Heads(GivenHeads):
    def class_head(self, hidden):
        return hidden[..., :CLASSES]

    def feature_head(self, hidden):
        return hidden[..., CLASSES:]


def outputs():
    """Random logits of tokens and pairs, and class logits and features of regions."""
    rng = np.random.default_rng(0)
    shapes = (PAIRS, MASKED, VOCABULARY), (PAIRS,), (PAIRS, REGIONS, CLASSES + SIZE)
    return tuple(rng.normal(0, 2, shape).astype(np.float32) for shape in shapes)


def batch():
    """A batch with two padding pairs; some predictions are right."""
    arrays = make_regions_batch(ROWS, TEXTS, REGIONS, masked=MASKED)
    arrays["pair_mask"][-1, 1:] = False
    tokens, _, regions = outputs()
    arrays["mlm_target"][0] = tokens.argmax(-1).reshape(ROWS, TEXTS, MASKED)[0]
    arrays["region_class"] = regions[::TEXTS, :, :CLASSES].argmax(-1).astype(np.int32)  # as the first text predicts
    return arrays


@functools.partial(jax.jit, static_argnums=(0, 4))
def value_and_gradient(config, given, arrays, totals_of, evaluated):
    task = GivenOutputs(small_imagebert(), config)

    def loss(given):
        return task.loss(Heads(given), arrays, task.totals(totals_of), None if evaluated else KEY)

    return jax.value_and_grad(loss, has_aux=True)(given)


def run(config=None, arrays=None, given=None, totals_of=None, evaluated=False):
    """Loss, metrics and the gradients of the outputs."""
    arrays = arrays or batch()
    (loss, sums), gradients = value_and_gradient(
        config or RegionsPretrainingConfig(), given or outputs(), arrays, totals_of or arrays, evaluated
    )
    return float(loss), {n: (float(a), int(b)) for n, (a, b) in sums.items()}, tuple(map(np.asarray, gradients))


def expected_metrics(conditional, feature_error):
    """(sum, count) of each metric, from the definitions, in loops over pairs."""
    arrays, (tokens, pair, regions) = batch(), (array.astype(np.float64) for array in outputs())
    sums = {name: np.zeros(2) for name in ("mlm_loss", "moc_loss", "mrfr_loss", "itm_loss")}
    sums |= {name: np.zeros(2) for name in ("mlm_accuracy", "moc_accuracy", "itm_accuracy")}
    for row, k in np.argwhere(arrays["pair_mask"]):
        n, matched = row * TEXTS + k, arrays["itm_label"][row, k] == 1
        probability = 1 / (1 + np.exp(-pair[n]))
        sums["itm_loss"] += -np.log(probability if matched else 1 - probability), 1
        sums["itm_accuracy"] += (probability > 0.5) == matched, 1
        if conditional and not matched:
            continue
        for m in np.flatnonzero(arrays["mlm_mask"][row, k]):
            target = arrays["mlm_target"][row, k, m]
            sums["mlm_loss"] += token_losses(tokens[n, m], target), 1
            sums["mlm_accuracy"] += tokens[n, m].argmax() == target, 1
        for r in np.flatnonzero(arrays["region_target"][row, k]):
            logits, feature = np.split(regions[n, r], [CLASSES])
            target = arrays["region_class"][row, r]
            errors = (feature - arrays["regions"][row, r].astype(np.float64)) ** 2
            sums["moc_loss"] += token_losses(logits, target), 1
            sums["moc_accuracy"] += logits.argmax() == target, 1
            sums["mrfr_loss"] += errors.sum() if feature_error == "sum" else errors.mean(), 1
    return {name: (total, int(count)) for name, (total, count) in sums.items()}


WEIGHTS = {"mlm_weight": 0.5, "moc_weight": 2.0, "mrfr_weight": 3.0, "itm_weight": 0.25}


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("feature_error", ["sum", "mean"])
def test_losses_and_accuracies(conditional, feature_error):
    expected = expected_metrics(conditional, feature_error)
    fields = {"conditional_mask": conditional, "feature_error": feature_error}
    for weights in ({}, WEIGHTS):
        loss, sums, _ = run(RegionsPretrainingConfig(**fields, **weights))
        assert sums.keys() == expected.keys()
        for name, (total, count) in expected.items():
            assert sums[name] == (pytest.approx(total, rel=1e-5), count), name
            assert count > 0 and total > 0 and (total < count or "loss" in name), name
        means = {name: total / count for name, (total, count) in expected.items()}
        weighted = sum(
            weights.get(f"{name}_weight", 1) * means[f"{name}_loss"] for name in ("mlm", "moc", "mrfr", "itm")
        )
        assert loss == pytest.approx(weighted, rel=1e-5)


@pytest.mark.parametrize("conditional", [True, False])
def test_what_a_mismatched_pair_teaches(conditional):
    """With the conditional mask nothing but that it is one: gradients of the other losses are exactly zero."""
    arrays = batch()
    arrays["region_target"] = arrays["region_mask"][:, None] & np.ones((1, TEXTS, 1), bool)
    arrays["mlm_mask"][:] = True
    tokens, pair, regions = run(RegionsPretrainingConfig(conditional_mask=conditional), arrays)[2]
    used, matched = arrays["pair_mask"].reshape(-1), arrays["itm_label"].reshape(-1) == 1
    assert (used & ~matched).sum() > 3
    counted = used & matched if conditional else used
    np.testing.assert_array_equal(pair != 0, used)
    np.testing.assert_array_equal((tokens != 0).any((1, 2)), counted)
    there = np.repeat(arrays["region_mask"], TEXTS, axis=0) & counted[:, None]
    for part in (regions[..., :CLASSES], regions[..., CLASSES:]):
        np.testing.assert_array_equal((part != 0).any(-1), there)
    np.testing.assert_array_equal(regions[~there], 0)


def test_a_weight_of_zero_leaves_a_loss_out():
    for name, index in (("mlm", 0), ("itm", 1)):
        gradients = run(RegionsPretrainingConfig(**{f"{name}_weight": 0.0}))[2]
        assert [(array != 0).any() for array in gradients] == [i != index for i in range(3)], name
    for name, part in (("moc", slice(None, CLASSES)), ("mrfr", slice(CLASSES, None))):
        regions = run(RegionsPretrainingConfig(**{f"{name}_weight": 0.0}))[2][2]
        assert not regions[..., part].any() and regions.any(), name


def test_padding_pairs_do_not_count():
    """Whatever is in them, NaN included."""
    expected = run(evaluated=True)
    arrays, (tokens, pair, regions) = batch(), outputs()
    arrays["mlm_mask"][-1, 1:] = True
    arrays["region_target"][-1, 1:] = True
    arrays["itm_label"][-1, 1:] = 1
    tokens[-2:], pair[-2:], regions[-2:] = np.nan, np.nan, np.nan
    assert run(arrays=arrays, given=(tokens, pair, regions), evaluated=True)[:2] == expected[:2]
    assert expected[1].keys() == run()[1].keys() | {"mlm_accuracy_matched"}


def test_parts_add_up_to_the_batch():
    """With the whole batch's totals, the losses of its rows sum to its loss, and so do the gradients."""
    whole, parts, gradients = run(), 0.0, []
    for row in range(ROWS):
        given = tuple(array[row * TEXTS : (row + 1) * TEXTS] for array in outputs())
        arrays = {name: array[row : row + 1] for name, array in batch().items()}
        loss, _, gradient = run(arrays=arrays, given=given, totals_of=batch())
        parts += loss
        gradients.append(gradient)
    assert parts == pytest.approx(whole[0], rel=1e-6)
    for expected, *found in zip(whole[2], *gradients, strict=True):
        np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-7)


def test_nothing_masked_gives_no_nan():
    """As in a batch whose pairs are all mismatched."""
    for changes in ({"itm_label": 0}, {"mlm_mask": False, "region_target": False}):
        arrays = batch()
        for name, value in changes.items():
            arrays[name][:] = value
        loss, sums, gradients = run(arrays=arrays)
        assert loss == pytest.approx(sums["itm_loss"][0] / sums["itm_loss"][1])
        means = mean_metrics({name: (jnp.array(a), jnp.array(b)) for name, (a, b) in sums.items()})
        assert means["mlm_loss"] == means["moc_loss"] == means["mrfr_loss"] == means["moc_accuracy"] == 0
        assert not gradients[0].any() and not gradients[2].any() and gradients[1].any()


def test_bad_configurations():
    zeros = {f"{name}_weight": 0.0 for name in ("mlm", "moc", "mrfr", "itm")}
    for fields in (zeros, {"moc_weight": -1.0}):
        with pytest.raises(ConfigError, match="must not be negative, and one positive"):
            RegionsPretrainingConfig(**fields)
    with pytest.raises(ConfigError, match=r"task\.feature_error='max' must be one of 'sum', 'mean'"):
        RegionsPretrainingConfig(feature_error="max")
    for name in zeros:
        RegionsPretrainingConfig(**zeros | {name: 1.0})


# The model's part.

WHOLE = 3


@pytest.fixture(scope="module", params=[0, WHOLE], ids=["regions", "whole image too"])
def model(request):
    """A task, its module, and its outputs and metrics for a batch, compiled."""
    task = RegionsPretrainingTask(small_imagebert({"global_size": request.param}), RegionsPretrainingConfig())
    module = task.init(platform="cpu", rngs=nnx.Rngs(params=0))
    randomize(module)

    @nnx.jit
    def outputs_and_sums(module, arrays):
        return task.forward(module, arrays, None), task.loss(module, arrays, task.totals(arrays), None)[1]

    return task, module, lambda arrays: jax.device_get(outputs_and_sums(module, arrays))


def model_batch(task, **options):
    return make_regions_batch(ROWS, TEXTS, REGIONS, masked=MASKED, whole=task.model.regions.global_size, **options)


def test_forward_is_the_model_pair_by_pair(model):
    """K texts per row, each with the row's regions without its zeroed features; the heads read their own positions."""
    task, module, compiled = model
    arrays = model_batch(task)
    arrays["region_zeroed"][0] = np.eye(TEXTS, REGIONS, dtype=bool)
    tokens, logits, hidden = compiled(arrays)[0]
    assert hidden.dtype == np.float32
    whole = arrays.get("whole")
    alone = nnx.jit(lambda module, ids, mask, *arrs: module.model.fuse(ids, mask, *module.model.encode_regions(*arrs)))
    for row, k in [(0, 0), (0, 1), (1, 2), (3, 0)]:
        n = row * TEXTS + k
        feature = np.where(arrays["region_zeroed"][row, k, :, None], np.float16(0), arrays["regions"][row])
        given = (feature[None], arrays["boxes"][row][None], arrays["region_mask"][row][None])
        given += () if whole is None else (whole[row][None],)
        expected = alone(module, arrays["text"][row, k][None], arrays["text_mask"][row, k][None], *given)
        np.testing.assert_allclose(hidden[n], expected[0, -REGIONS:], atol=1e-5)
        np.testing.assert_allclose(logits[n], module.itm_logit(expected)[0], atol=1e-5)
        at_positions = module.token_logits(expected, arrays["mlm_position"][row, k][None])
        np.testing.assert_allclose(module.logits_of_tokens(tokens[n][None]), at_positions, atol=1e-4)


def test_zeroed_features_are_no_input(model):
    """They change the target of the regression and nothing else; kept features and all boxes are visual input."""
    task, _, compiled = model
    arrays = model_batch(task)
    zeroed = arrays["region_mask"] & (np.arange(REGIONS) % 2 == 0)
    arrays["region_zeroed"][:] = zeroed[:, None]  # from all texts of a row alike
    arrays["region_target"] |= arrays["region_zeroed"]
    arrays["itm_label"][:] = 1
    outputs, sums = compiled(arrays)
    other = model_batch(task, seed=1)
    changed = arrays | {"regions": np.where(zeroed[..., None], other["regions"], arrays["regions"])}
    again, moved = compiled(changed)
    for actual, expected in zip(again, outputs, strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert {name for name in sums if not np.array_equal(sums[name], moved[name])} == {"mrfr_loss"}
    there = arrays["region_mask"] & ~zeroed
    for name, chosen in (("regions", there), ("boxes", zeroed)):
        altered = arrays | {name: np.where(chosen[..., None], other[name], arrays[name])}
        assert np.abs(compiled(altered)[0][1] - outputs[1]).max() > 1e-4, name
    kept = arrays | {"region_zeroed": np.zeros_like(arrays["region_zeroed"])}
    assert np.abs(compiled(kept)[0][1] - outputs[1]).max() > 1e-4


def test_each_text_masks_its_own_regions(model):
    """A feature that is zeroed for one text is visual input of the other texts of its row."""
    task, _, compiled = model
    arrays = model_batch(task)
    arrays["region_zeroed"][:] = False
    before = compiled(arrays)[0][2]
    arrays["region_zeroed"][2, 1, 0] = True
    after = compiled(arrays)[0][2]
    np.testing.assert_array_equal(np.flatnonzero((before != after).any((1, 2))), [2 * TEXTS + 1])


def test_dropout_in_training_alone():
    task = RegionsPretrainingTask(small_imagebert(encoder={"dropout": 0.3}), RegionsPretrainingConfig())
    module = task.init(platform="cpu", rngs=nnx.Rngs(params=0))
    arrays = model_batch(task) | {"row": np.arange(ROWS)}
    forward = nnx.jit(lambda module, arrays, key: task.forward(module, arrays, key)[1])
    evaluated = forward(module, arrays, None)
    draws = [forward(module, arrays | {"row": np.arange(ROWS) + first}, KEY) for first in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != evaluated).all() and (draws[0] != draws[2]).all()  # another micro-batch draws anew


def test_fields_are_what_the_loss_takes():
    """All of them are needed, nothing else is, and their description fits a batch."""
    task = RegionsPretrainingTask(small_imagebert(), RegionsPretrainingConfig())
    assert_fields_are_needed(task, make_regions_batch())
    whole = dataclasses.replace(task, model=small_imagebert({"global_size": WHOLE}))
    assert_fields(whole, make_regions_batch(whole=WHOLE))
    assert whole.fields().keys() == task.fields().keys() | {"whole"}


def test_a_batch_can_be_learned_by_heart_in_parts_and_on_several_devices():
    """The rows of the micro-batches count unevenly."""
    arrays = make_regions_batch(8, 2)
    arrays["region_target"][::2] &= arrays["region_zeroed"][::2]
    config, options = RegionsPretrainingConfig(), {"model": small_imagebert(), "devices": 2, "accumulation": 2}
    assert_learned(config, arrays, "moc_accuracy", steps=60, **options)
