"""BERT's weights: parity with Hugging Face's PyTorch models, old and new files, and what does not fit."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from data_pipelines.text.tokenizer import Tokenizer, read_vocabulary
from pixelbert_jax.config import EncoderConfig, PixelBertConfig, TextConfig
from pixelbert_jax.errors import ConfigError
from pixelbert_jax.tasks.pretraining import ModelForPretraining
from pixelbert_jax.weights.bert import bert_parameters
from tests.pixelbert_jax.helpers import small_model
from tests.real_data import real_data

torch = pytest.importorskip("torch")
from tests.pixelbert_jax.weights.references import overlaid, run, torch_bert  # noqa: E402

VOCABULARY, POSITIONS = 50, 12
SHAPES = (
    EncoderConfig(layers=2, width=32, heads=4, mlp_width=64),
    EncoderConfig(layers=3, width=48, heads=2, mlp_width=80, layer_norm_epsilon=1e-5),
    EncoderConfig(layers=1, width=24, heads=1, mlp_width=24, activation="relu"),
)


def our_config(encoder=SHAPES[0], vocabulary=VOCABULARY, positions=POSITIONS) -> PixelBertConfig:
    return dataclasses.replace(small_model(), encoder=encoder, text=TextConfig(vocabulary, positions))


def saved(tmp_path, kind="BertModel", encoder=SHAPES[0]):
    model = torch_bert(encoder, VOCABULARY, POSITIONS, kind)
    model.save_pretrained(tmp_path)
    return model


def texts(vocabulary=VOCABULARY, length=POSITIONS):
    """Ids and a mask with 12, 7 and 2 tokens."""
    ids = np.random.default_rng(0).integers(0, vocabulary, (3, length))
    return ids, np.arange(length) < np.array([[length], [7], [2]])


def ours(config, arrays, ids, mask):
    """Hidden states of text alone, and token logits at every position."""
    module = ModelForPretraining(config, platform="cpu", rngs=nnx.Rngs(params=1))

    def read(module, ids, mask):
        nothing = jnp.zeros((len(ids), 0, config.encoder.width))
        hidden = module.model.fuse(ids, mask, nothing, jnp.zeros((len(ids), 0), bool))
        everywhere = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)
        return hidden, module.token_logits(hidden, everywhere)

    return [np.asarray(part)[mask] for part in run(*overlaid(module, arrays), read, ids, mask)]


def theirs(model, ids, mask):
    with torch.no_grad():
        return model(
            torch.from_numpy(ids), attention_mask=torch.from_numpy(mask.astype(np.int64)), output_hidden_states=True
        )


def assert_hidden(config, arrays, model, batch=None):
    ids, mask = batch or texts()
    reference = theirs(model, ids, mask).hidden_states[-1].numpy()[mask]
    assert reference.std() > 0.3
    hidden, _ = ours(config, arrays, ids, mask)
    np.testing.assert_allclose(hidden, reference, atol=1e-4, rtol=0)


def assert_logits(config, arrays, model, batch=None):
    ids, mask = batch or texts()
    outputs = theirs(model, ids, mask)
    reference = getattr(outputs, "prediction_logits", None)
    reference = (outputs.logits if reference is None else reference).numpy()[mask]
    assert reference.std() > 0.3
    _, logits = ours(config, arrays, ids, mask)
    np.testing.assert_allclose(logits, reference, atol=1e-4, rtol=0)


@pytest.mark.parametrize("encoder", SHAPES)
def test_bert_model(tmp_path, encoder):
    model = saved(tmp_path, encoder=encoder)
    loaded = bert_parameters(str(tmp_path), our_config(encoder))
    assert not loaded.partial and not any(name.startswith("mlm_head") for name in loaded.arrays)
    assert_hidden(our_config(encoder), loaded.arrays, model)


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining"])
@pytest.mark.parametrize("encoder", SHAPES[:2])
def test_models_with_a_head(tmp_path, kind, encoder):
    model = saved(tmp_path, kind, encoder)
    loaded = bert_parameters(str(tmp_path), our_config(encoder))
    assert sum(name.startswith("mlm_head") for name in loaded.arrays) == 5
    assert_hidden(our_config(encoder), loaded.arrays, model)
    assert_logits(our_config(encoder), loaded.arrays, model)


def test_head_of_a_relu_model_is_skipped(tmp_path):
    model = saved(tmp_path, "BertForMaskedLM", SHAPES[2])
    loaded = bert_parameters(str(tmp_path), our_config(SHAPES[2]))
    assert not any(name.startswith("mlm_head") for name in loaded.arrays)
    assert_hidden(our_config(SHAPES[2]), loaded.arrays, model)


def test_torch_file_with_old_names(tmp_path):
    """As the first BERTs were published: gamma and beta, all tied tensors twice, position_ids, no prefix dropped."""
    model = torch_bert(SHAPES[0], VOCABULARY, POSITIONS, "BertForPreTraining")
    state = model.state_dict() | {"bert.embeddings.position_ids": torch.arange(POSITIONS)[None]}
    assert {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "bert.pooler.dense.bias"} <= state.keys()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in state.items()
    }
    assert sum(name.endswith("gamma") for name in old) == 6
    torch.save(old, tmp_path / "pytorch_model.bin")
    loaded = bert_parameters(str(tmp_path), our_config())
    assert_hidden(our_config(), loaded.arrays, model)
    assert_logits(our_config(), loaded.arrays, model)
    only_file = bert_parameters(str(tmp_path / "pytorch_model.bin"), our_config())
    assert all((only_file.arrays[name] == array).all() for name, array in loaded.arrays.items())


@pytest.mark.parametrize("dropped", ["cls.predictions.bias", "cls.predictions.decoder.bias"])
def test_either_name_of_the_bias(tmp_path, dropped):
    model = torch_bert(SHAPES[0], VOCABULARY, POSITIONS, "BertForMaskedLM")
    state = {name: value for name, value in model.state_dict().items() if name != dropped}
    torch.save(state, tmp_path / "x.bin")
    assert_logits(our_config(), bert_parameters(str(tmp_path / "x.bin"), our_config()).arrays, model)


def test_real_text(tmp_path):
    vocabulary = read_vocabulary(str(real_data("bert-base-uncased")))
    tokenizer = Tokenizer(vocabulary)
    sentences = [
        "A man in a red jacket rides an unbelievably tall giraffe.",
        "Two cats; one zebra-striped umbrella?",
        "no",
    ]
    encoded = [tokenizer.encode(sentence, 24) for sentence in sentences]
    mask = np.arange(24) < np.array([[len(ids)] for ids in encoded])
    ids = np.full(mask.shape, tokenizer.pad, np.int64)
    ids[mask] = np.concatenate(encoded)
    model = torch_bert(SHAPES[1], len(vocabulary), 64, "BertForMaskedLM")
    model.save_pretrained(tmp_path)
    config = our_config(SHAPES[1], len(vocabulary), 64)
    arrays = bert_parameters(str(tmp_path), config).arrays
    assert_hidden(config, arrays, model, (ids, mask))
    assert_logits(config, arrays, model, (ids, mask))


# Some of the layers.


def layer_names(model, layers):
    return {name for name in model.state_dict() if any(name.startswith(f"encoder.layer.{i}.") for i in layers)}


@pytest.mark.parametrize("with_config", [True, False])
def test_leading_layers_of_a_deeper_file(tmp_path, with_config):
    model = saved(tmp_path, encoder=dataclasses.replace(SHAPES[0], layers=3))
    if not with_config:
        (tmp_path / "config.json").unlink()
    loaded = bert_parameters(str(tmp_path), our_config())
    assert set(loaded.unused) == layer_names(model, [2]) and len(loaded.unused) == 16
    ids, mask = texts()
    reference = theirs(model, ids, mask).hidden_states
    hidden, _ = ours(our_config(), loaded.arrays, ids, mask)
    np.testing.assert_allclose(hidden, reference[2].numpy()[mask], atol=1e-4, rtol=0)
    assert np.abs(hidden - reference[3].numpy()[mask]).max() > 0.1


def test_chosen_layers(tmp_path):
    model = saved(tmp_path, encoder=dataclasses.replace(SHAPES[0], layers=4))
    loaded = bert_parameters(str(tmp_path), our_config(), layers=(1, 3))
    assert set(loaded.unused) == layer_names(model, [0, 2])
    model.encoder.layer = torch.nn.ModuleList([model.encoder.layer[1], model.encoder.layer[3]])
    assert_hidden(our_config(), loaded.arrays, model)


@pytest.mark.parametrize("segment", [False, True])
def test_first_position_as_the_mean_of_the_others(tmp_path, segment):
    model = saved(tmp_path)
    config = our_config()
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, segment=segment))
    name = "model.text_embedding.position"
    own = bert_parameters(str(tmp_path), config).arrays
    found = bert_parameters(str(tmp_path), config, first_position="mean").arrays
    position = model.embeddings.position_embeddings.weight.detach().numpy()
    kind = 0 if segment else model.embeddings.token_type_embeddings.weight.detach().numpy()[0]
    np.testing.assert_allclose(found[name][0], position[1:].mean(0) + kind, atol=1e-6)
    np.testing.assert_array_equal(found[name][1:], own[name][1:])
    assert all((found[other] == own[other]).all() for other in own if other != name)


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        ((0,), r"init\.text_layers=\(0,\) must name 2 different layers in ascending order"),
        ((1, 0), "ascending order"),
        ((1, 1), "2 different layers"),
        ((0, 3), r"has no layer 3 \(it has 3, counted from 0\)"),
    ],
)
def test_layers_that_cannot_be_chosen(tmp_path, layers, match):
    saved(tmp_path, encoder=dataclasses.replace(SHAPES[0], layers=3))
    with pytest.raises(ConfigError, match=match):
        bert_parameters(str(tmp_path), our_config(), layers=layers)


def test_more_layers_than_the_file_has(tmp_path):
    saved(tmp_path, encoder=dataclasses.replace(SHAPES[0], layers=1))
    with pytest.raises(ConfigError, match=r"num_hidden_layers=1 \(here model\.encoder\.layers=2\)"):
        bert_parameters(str(tmp_path), our_config())
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"16 tensors that the model needs are not there"):
        bert_parameters(str(tmp_path), our_config())


# What does not fit.


def rewritten(folder, change):
    """Change the tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("hidden_act", "gelu_new", r"hidden_act='gelu_new' \(here model\.encoder\.activation='gelu'\)"),
        ("layer_norm_eps", 1e-5, r"layer_norm_eps=1e-05 \(here model\.encoder\.layer_norm_epsilon=1e-12\)"),
        ("num_attention_heads", 8, r"num_attention_heads=8 \(here model\.encoder\.heads=4\)"),
        ("num_hidden_layers", 1, r"num_hidden_layers=1 \(here model\.encoder\.layers=2\)"),
        ("hidden_size", 64, r"hidden_size=64 \(here model\.encoder\.width=32\)"),
        ("intermediate_size", 65, r"intermediate_size=65 \(here model\.encoder\.mlp_width=64\)"),
        (
            "position_embedding_type",
            "relative_key",
            r"position_embedding_type='relative_key' \(here always 'absolute'\)",
        ),
        ("model_type", "roberta", r"model_type='roberta' \(here always 'bert'\)"),
        ("is_decoder", True, r"is_decoder=True"),
    ],
)
def test_another_config(tmp_path, field, value, match):
    saved(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(ConfigError, match=match):
        bert_parameters(str(tmp_path), our_config())


def test_old_config_means_gelu(tmp_path):
    saved(tmp_path, encoder=SHAPES[2])
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    del content["hidden_act"]
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="hidden_act='gelu'"):
        bert_parameters(str(tmp_path), our_config(SHAPES[2]))


def test_other_sizes_are_refused(tmp_path):
    saved(tmp_path)
    with pytest.raises(ConfigError) as error:
        bert_parameters(str(tmp_path), our_config(vocabulary=60, positions=16))
    for part in (
        "50 rows",
        "12 rows",
        "model.text.vocabulary_size=60",
        "model.text.max_positions=16",
        "init.resize=true",
    ):
        assert part in str(error.value)
    with pytest.raises(ConfigError) as error:
        bert_parameters(str(tmp_path), our_config(positions=11))
    assert "max_positions=11" in str(error.value) and "vocabulary" not in str(error.value)


def test_resize(tmp_path):
    saved(tmp_path, "BertForMaskedLM")
    whole = bert_parameters(str(tmp_path), our_config())
    loaded = bert_parameters(str(tmp_path), our_config(vocabulary=60, positions=8), resize=True)
    assert loaded.partial.keys() == {"model.text_embedding.word", "mlm_head.bias"}
    assert all(np.array_equal(rows, np.arange(50)) for rows in loaded.partial.values())
    assert loaded.cut == {"model.text_embedding.position": 4}
    assert loaded.arrays.keys() == whole.arrays.keys()
    for name, array in loaded.arrays.items():
        expected = whole.arrays[name]
        np.testing.assert_array_equal(array, expected[:8] if name.endswith("position") else expected)
    loaded = bert_parameters(str(tmp_path), our_config(vocabulary=40, positions=20), resize=True)
    assert {name: len(rows) for name, rows in loaded.partial.items()} == {"model.text_embedding.position": 12}
    assert loaded.cut == {"model.text_embedding.word": 10, "mlm_head.bias": 10}
    assert loaded.arrays["model.text_embedding.word"].shape == (40, 32)
    assert loaded.arrays["mlm_head.bias"].shape == (40,)


def test_untied_decoder(tmp_path):
    model = torch_bert(SHAPES[0], VOCABULARY, POSITIONS, "BertForMaskedLM")
    for name in ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"):
        torch.save(model.state_dict() | {name: model.state_dict()[name] + 1}, tmp_path / "x.bin")
        with pytest.raises(ConfigError, match=rf"{name} differs from"):
            bert_parameters(str(tmp_path / "x.bin"), our_config())


def test_all_that_is_wrong_in_one_message(tmp_path):
    saved(tmp_path)

    def change(tensors):
        del tensors["encoder.layer.1.output.dense.weight"], tensors["embeddings.token_type_embeddings.weight"]
        tensors["qa_outputs.weight"] = np.zeros((2, 2), np.float32)
        tensors["encoder.layer.0.intermediate.dense.bias"] = np.zeros(63, np.float32)
        tensors["encoder.layer.0.attention.self.key.weight"] = np.zeros(7, np.float32)

    rewritten(tmp_path, change)
    with pytest.raises(ConfigError) as error:
        bert_parameters(str(tmp_path), our_config())
    for part in (
        str(tmp_path),
        "2 tensors that the model needs are not there",
        "encoder.layer.1.output.dense.weight",
        "embeddings.token_type_embeddings.weight",
        "1 tensors that are there are not known (qa_outputs.weight)",
        "2 tensors have another shape",
        "encoder.layer.0.intermediate.dense.bias, ...: 63 and 64, model.encoder.layers.mlp_inner.bias: 2x64",
        "encoder.layer.0.attention.self.query.weight, ...: 32x32 and 7, model.encoder.layers.query_key_value.kernel: ",
    ):
        assert part in str(error.value)


def test_half_a_head_is_refused(tmp_path):
    saved(tmp_path, "BertForMaskedLM")
    rewritten(tmp_path, lambda tensors: tensors.pop("cls.predictions.transform.dense.weight"))
    with pytest.raises(ConfigError, match=r"1 tensors .* not there \(cls\.predictions\.transform\.dense\.weight\)"):
        bert_parameters(str(tmp_path), our_config())


def test_names_twice(tmp_path):
    saved(tmp_path)
    rewritten(tmp_path, lambda tensors: tensors.update({"bert.pooler.dense.bias": np.zeros(32, np.float32)}))
    with pytest.raises(ConfigError, match="twice"):
        bert_parameters(str(tmp_path), our_config())
