"""Every reader of untrusted files: a small valid input, how to read it, and how to damage it."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets import builder_class
from data_pipelines.datasets.settings import Settings
from data_pipelines.errors import DataError
from data_pipelines.images import files, resize
from data_pipelines.images.files import BadImageError
from data_pipelines.text.answers import read_vocabulary_list
from data_pipelines.text.tokenizer import Tokenizer, read_vocabulary
from data_pipelines.web_collection.image_reader import ImageReader
from data_pipelines.web_collection.sources import find_parts, read_part
from data_pipelines.web_collection.texts import read_words
from pixelbert_jax.errors import ConfigError
from tests.data_pipelines import parquet_sets, publishers
from tests.hostile import damage

Read = Callable[[Path], object]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader of untrusted files.

    Attributes:
      write: writes a small valid input to an empty folder.
      read: reads the input; succeeds if nothing is damaged.
      damaged: pattern of files in the folder -> function that damages the structure of their content.
      names_file: whether errors name the file; False if the reader gets bytes instead of a file.
      cost: time of one reading, relative to a data set of five small images.
    """

    write: Callable[[Path], object]
    read: Read
    damaged: Mapping[str, damage.Form]
    names_file: bool = True
    cost: float = 1

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The documented exceptions; the reader must not raise others."""
        return DataError, ConfigError


READERS: dict[str, Reader] = {}


def _add(
    name: str, write: Callable[[Path], object], read: Read, damaged: Mapping[str, damage.Form], **more: Any
) -> None:
    READERS[name] = Reader(write, read, damaged, **more)


# --- publishers' data sets and users' own -----------------------------------------------------------------------------


def _data_set(name: str, folder: Path, **options: Any) -> list[dict[str, Any]]:
    """All examples, encoded as in `prepare`; a bad image affects only itself."""
    if "regions" in options:
        options["regions"] = str(folder / options["regions"])
    builder = builder_class(name)(
        data_dir=folder / "data", source_dir=folder / "source", options=options, settings=Settings(1.0, num_threads=1)
    )
    builder.check()
    features = builder.info.features
    splits = builder._split_generators(None)
    found = [features.encode_example(example) for split in splits.values() for _, example in split]
    json.dumps(builder.about())
    return found


def _add_data_set(
    name: str, data_set: str, write: Callable[[Path], object], damaged: Mapping[str, damage.Form], **options: Any
) -> None:
    read = functools.partial(_data_set, data_set, **options)
    _add(name, lambda folder: write(folder / "source"), read, {f"source/{key}": form for key, form in damaged.items()})


def _karpathy_coco(folder: Path) -> None:
    publishers.coco(folder, year="2014")
    publishers.karpathy_coco(folder / "dataset_coco.json", {1: "train", 2: "restval", 3: "val", 4: "test"})


def _visual_genome(folder: Path) -> None:
    publishers.visual_genome(folder, {1: None, 2: 7})
    publishers.karpathy_coco(folder / "dataset_coco.json", {7: "train", 9: "val"})


def _visual_genome_qa(folder: Path) -> None:
    publishers.vqa_v2(folder)
    publishers.visual_genome_qa(folder / "visual_genome", {1: None, 2: 7})


def _lines(*entries: Any, images: int = 2) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for i in range(images):
            publishers.write_image(folder / f"{i}.png", format="PNG", seed=i)
        publishers.lines(folder / "train.jsonl", *entries)

    return write


def _web_members() -> dict[str, bytes | str]:
    members: dict[str, bytes | str] = {}
    for i in range(2):
        about = {"url": f"http://a.b/{i}.jpg", "caption": f"text {i}", "sha256": f"ab{i}", "status": "success"}
        members |= {f"{i:05d}.jpg": publishers.encode(seed=i), f"{i:05d}.txt": f"text {i}"}
        members[f"{i:05d}.json"] = json.dumps(about)
    return members


def _web_tar(folder: Path) -> None:
    publishers.tar(folder / "train" / "00000.tar", _web_members())


def _captions_tsv(folder: Path) -> None:
    rows = []
    for i in range(3):
        publishers.write_image(folder / "train" / f"{i}.jpg", seed=i)
        rows.append(f"caption {i}\thttp://a.b/c/{i}.jpg\n")
    (folder / "Train_GCC-training.tsv").write_text("".join(rows))


def _img2dataset_folder(folder: Path) -> None:
    for name, content in _web_members().items():
        path = folder / "train" / "00000" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "train" / "00000_stats.json").write_text('{"count": 2}')


def _sbu(folder: Path, *, as_json: bool) -> None:
    urls = [f"http://a.b/{i}.jpg" for i in range(3)]
    for i in range(3):
        publishers.write_image(folder / "images" / f"{i}.jpg", seed=i)
    if as_json:
        publishers.write_json(folder / "sbu-captions-all.json", {"image_urls": urls, "captions": ["a", "b", "c"]})
        return
    (folder / "SBU_captioned_photo_dataset_urls.txt").write_text("\n".join(urls) + "\n")
    (folder / "SBU_captioned_photo_dataset_captions.txt").write_text("a\nb\nc\n")


_JSON, _LINES, _TABS = damage.json_file, damage.json_lines, damage.cells_of(b"\t")
_add_data_set(
    "coco_captions", "coco_captions", publishers.coco, {"annotations/*.json": _JSON, "*2017/*.jpg": damage.no_structure}
)
_add_data_set("coco_karpathy", "coco_captions", _karpathy_coco, {"dataset_coco.json": _JSON})
_add_data_set("flickr8k", "flickr8k", publishers.flickr, {"*.json": _JSON})
_add_data_set("visual_genome", "visual_genome", _visual_genome, {"*.json": _JSON})
_add_data_set("vqa_v2", "vqa_v2", publishers.vqa_v2, {"*.json": _JSON})
_add_data_set("visual_genome_qa", "vqa_v2", _visual_genome_qa, {"visual_genome/*.json": _JSON}, visual_genome_qa=True)
_add_data_set("daquar", "daquar", publishers.daquar, {"*.txt": damage.cells_of(b" ,")})
_add_data_set("easy_vqa", "easy_vqa", publishers.easy_vqa, {"*/questions.json": _JSON})
_add_data_set("nlvr2", "nlvr2", publishers.nlvr2, {"data/*.json": _LINES})
_add_data_set("nlvr", "nlvr", publishers.nlvr, {"dev/dev.json": _LINES})
_add_data_set("nlvr_tar", "nlvr", functools.partial(publishers.nlvr, as_tar=True), {"dev/images.tar": damage.tar})
_add_data_set(
    "own_images",
    "image_text",
    _lines({"image": "0.png", "texts": ["a", "b"]}, {"image": "1.png", "texts": ["c"]}),
    {"train.jsonl": _LINES},
)
_add_data_set(
    "own_questions",
    "vqa",
    _lines(
        {"image": "0.png", "questions": [{"question": "a?", "answers": ["b"], "question_id": 4}]},
        {"image": "1.png", "questions": [{"question": "c?", "answers": ["d"]}]},
    ),
    {"train.jsonl": _LINES},
)
_add_data_set(
    "own_pairs",
    "image_pairs",
    _lines(
        {"images": ["0.png", "1.png"], "sentences": [{"sentence": "a", "label": True, "group": "x"}]},
        {"images": ["1.png", "0.png"], "sentences": [{"sentence": "b", "label": "false", "identifier": "i"}]},
    ),
    {"train.jsonl": _LINES},
)


def _parquet_rows(folder: Path, *, name: str) -> None:
    images = [parquet_sets.photo(i, f"{i}.jpg") for i in range(3)]
    if name == "image_text":
        rows = [{"image": image, "caption": ["a", "b"], "split": "train"} for image in images]
        publishers.write_image(folder / "3.jpg")
        rows.append({"image": {"bytes": None, "path": "3.jpg"}, "caption": ["c"], "split": "test"})
    elif name == "vqa":
        answers = [{"answer": "x", "answer_id": 1}]
        rows = [
            {"image": image, "question": "a?", "question_id": i, "answers": answers} for i, image in enumerate(images)
        ]
    else:
        rows = [
            {"images": images[:2], "sentence": "a", "label": True},
            {"images": images[1:], "sentence": "b", "label": False},
        ]
    parquet_sets.write(folder / "train-00000-of-00001.parquet", rows)


for _name in ("image_text", "vqa", "image_pairs"):
    _options = {"split_column": "split"} if _name == "image_text" else {}
    _write = functools.partial(_parquet_rows, name=_name)
    _add_data_set(f"parquet_{_name}", _name, _write, {"*.parquet": damage.parquet}, **_options)
_add_data_set("webdataset", "image_text", _web_tar, {"train/*.tar": damage.tar})
_add_data_set("captions_tsv", "conceptual_captions", _captions_tsv, {"*.tsv": _TABS})
_add_data_set("img2dataset_tar", "conceptual_captions", _web_tar, {"train/*.tar": damage.tar})
_add_data_set(
    "img2dataset_folder", "conceptual_captions", _img2dataset_folder, {"train/*/*.json": _JSON, "train/*.json": _JSON}
)
_add_data_set("sbu_json", "sbu", functools.partial(_sbu, as_json=True), {"*.json": _JSON}, sbu_validation=1)
_add_data_set("sbu_text", "sbu", functools.partial(_sbu, as_json=False), {"*.txt": _TABS}, sbu_validation=1)

# --- regions ----------------------------------------------------------------------------------------------------------


def _add_regions(name: str, regions: str, write: Callable[[Path], object], damaged: Mapping[str, damage.Form]) -> None:
    def write_both(folder: Path) -> None:
        publishers.coco(folder / "source", train=(1, 2), val=(4,))
        write(folder / regions)

    _add(name, write_both, functools.partial(_data_set, "coco_captions", regions=regions), damaged)


def _found(*more: str) -> dict[str, dict[str, Any]]:
    return publishers.detections(("1", "2", "4", *more))


_add_regions("regions_tsv", "r.tsv", lambda path: publishers.region_tsv(path, _found()), {"r.tsv": _TABS})
_add_regions(
    "regions_bottom_up",
    "r.tsv",
    lambda path: publishers.region_tsv(path, _found(), publishers.bottom_up_row),
    {"r.tsv": _TABS},
)
_add_regions("regions_npz", "r", lambda path: publishers.region_npz(path, _found()), {"r/*.npz": damage.npz})
for _layout in ("groups", "flat", "pos_boxes"):
    _add_regions(
        f"regions_hdf5_{_layout}",
        "r.h5",
        functools.partial(lambda layout, path: publishers.region_hdf5(path, _found(), layout), _layout),
        {"r.h5": damage.hdf5},
    )

# --- images ---------------------------------------------------------------------------------------------------------


def _image(name: str, folder: Path) -> None:
    """Read as in training; an image that passes `prepare` must have the size in its header."""
    encoded = (folder / name).read_bytes()
    decoded = resize.decode(encoded, str(folder / name))
    try:
        verified = files.verify(encoded)
    except BadImageError as error:
        assert error.reason.isprintable() and len(error.reason) < 60
        return
    assert decoded.shape == (verified.height, verified.width, 3)


for _format in ("JPEG", "PNG", "GIF", "WEBP", "BMP"):
    _name = f"a.{_format.lower()}"
    _add(
        f"image_{_format.lower()}",
        functools.partial(
            lambda name, kind, folder: publishers.write_image(folder / name, format=kind), _name, _format
        ),
        functools.partial(_image, _name),
        {_name: damage.no_structure},
        cost=0.2,
    )

# --- crawls -----------------------------------------------------------------------------------------------------------


def _crawl(folder: Path) -> list[tuple[object, ...]]:
    source, parts = find_parts(folder / "crawl")
    reader, found = ImageReader(source, source), []
    for part in parts:
        for image in read_part(source, part):
            try:
                size = files.read_header(reader.read(image.location)).width
            except BadImageError as error:
                size = error.reason
            found.append((str(image.location), len(image.texts), image.language, image.page, size))
    reader.close()
    return found


def _parquet(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {"image": [publishers.encode(seed=i) for i in range(3)], "alt": ["a", "b", "c"], "url": ["x"] * 3}
    (folder / "crawl").mkdir()
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "crawl" / "0.parquet")
    publishers.write_image(folder / "crawl" / "0.jpg")
    columns = {"image_path": ["0.jpg", "1.jpg"], "texts": [["a"], ["b", "c"]]}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "crawl" / "1.parquet")


_add(
    "crawl_tar",
    lambda folder: publishers.tar(folder / "crawl" / "0.tar", _web_members()),
    _crawl,
    {"crawl/*.tar": damage.tar},
)
_add("crawl_parquet", _parquet, _crawl, {"crawl/*.parquet": damage.parquet})

# --- lists ------------------------------------------------------------------------------------------------------------


def _text(name: str, content: str, read: Callable[[Path], object], form: damage.Form) -> None:
    file = f"list{Path(name).suffix}"
    _add(
        Path(name).stem,
        lambda folder: (folder / file).write_text(content, encoding="utf-8"),
        lambda folder: read(folder / file),
        {file: form},
        cost=0.1,
    )


_WORD_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "red")


def _encoded(path: Path) -> object:
    try:
        return Tokenizer(read_vocabulary(str(path))).encode("a red ab", 9)
    except DataError as error:
        # Tokens may come from any source; only a reader of a file names the file.
        raise DataError(f"{path}: {error}") from error


_text("answers_text.txt", "red\nblue\n2\n", read_vocabulary_list, damage.cells_of(b" "))
_text("answers_list.json", '["red", "blue", "2"]', read_vocabulary_list, _JSON)
_text(
    "answers_of_vqa.json",
    '{"ans2label": {"red": 0, "blue": 1}, "label2ans": ["red", "blue"]}',
    read_vocabulary_list,
    _JSON,
)
_text("word_pieces.txt", "\n".join(_WORD_PIECES) + "\n", _encoded, damage.cells_of(b" "))
_text("known_words.txt", "red\nblue\n", read_words, damage.cells_of(b" "))


def _tokenizer_folder(folder: Path) -> None:
    from tokenizers import BertWordPieceTokenizer

    words = BertWordPieceTokenizer(vocab={word: i for i, word in enumerate(_WORD_PIECES)})
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}'
    )


_add("tokenizer_folder", _tokenizer_folder, _encoded, {"*.json": _JSON})

# --- prepared data sets -----------------------------------------------------------------------------------------------


def _prepare(folder: Path) -> None:
    from data_pipelines.preparation.run import prepare

    publishers.vqa_v2(folder / "source")
    prepare("vqa_v2", folder / "data", folder / "source", num_threads=1)


def _prepared(folder: Path) -> object:
    from data_pipelines.images.resize import ResizeRule
    from data_pipelines.preparation.summary import describe
    from data_pipelines.storage.records import find_folder, open_records, read_summary

    found = find_folder(folder / "data", "vqa_v2")
    summary = read_summary(found)
    if summary is None:
        return None
    records = open_records(folder / "data", "vqa_v2", "train")
    texts = [text.encode() for record in records.texts() for text in record.texts]
    labels = [json.loads(label) for record in records.texts() for label in record.labels]
    assert len(records) < 10_000
    images = [resize.decode(records[i].image, repr(records)) for i in range(len(records))]
    return texts, labels, len(images), describe(Path(found), summary, ResizeRule(800, 1333))


_add(
    "prepared",
    _prepare,
    _prepared,
    {
        "data/vqa_v2/*/index.json": _JSON,
        "data/vqa_v2/*/index-train.npz": damage.npz,
        "data/vqa_v2/*/texts-train.jsonl.gz": damage.zipped_json_lines,
        "data/vqa_v2/*/*.array_record-*": damage.no_structure,
    },
)

# --- weights, shared models, checkpoints ------------------------------------------------------------------------------


def _tensors() -> dict[str, np.ndarray]:
    return {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.ones(2, np.float16)}


def _safetensors(folder: Path) -> None:
    import safetensors.numpy

    safetensors.numpy.save_file(_tensors(), folder / "model.safetensors")


def _weights_folder(folder: Path) -> None:
    import safetensors.numpy

    for number, (name, array) in enumerate(_tensors().items()):
        safetensors.numpy.save_file({name: array}, folder / f"model-{number}.safetensors")
    names = {name: f"model-{number}.safetensors" for number, name in enumerate(_tensors())}
    publishers.write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": names})
    publishers.write_json(folder / "config.json", {"hidden_size": 3, "model_type": "bert"})


def _read_weights(folder: Path) -> object:
    from pixelbert_jax.weights.files import check_config, read_config, read_tensors

    check_config(
        read_config(folder), {"hidden_size": (3, "model.encoder.width"), "model_type": ("bert", "")}, str(folder)
    )
    return read_tensors(folder)


def _torch_weights(folder: Path) -> None:
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in _tensors().items()}
    torch.save({"state_dict": tensors}, folder / "pytorch_model.bin")


_add("safetensors", _safetensors, _read_weights, {"*.safetensors": damage.safetensors}, cost=0.1)
_add("weights_folder", _weights_folder, _read_weights, {"*.json": _JSON}, cost=0.1)
_add("torch_weights", _torch_weights, _read_weights, {"*.bin": damage.no_structure}, cost=0.3)


def _description() -> dict[str, Any]:
    """Description of a run of the smallest model."""
    from experiments.run.config import RunConfig
    from pixelbert_jax.config import EncoderConfig, PixelBertConfig, ResNetConfig, TextConfig
    from pixelbert_jax.serialization import to_dict
    from pixelbert_jax.training.checkpoint import describe
    from tests.experiments.tiny_config import get_config

    backbone = ResNetConfig(
        (1,), (8,), (8,), (2,), block="basic", stem_width=8, norm="group", norm_groups=4, frozen_parts=0
    )
    encoder = EncoderConfig(layers=1, width=8, heads=2, mlp_width=8)
    model = PixelBertConfig(backbone=backbone, text=TextConfig(len(_WORD_PIECES), 8), encoder=encoder, dtype="float32")
    config: RunConfig = dataclasses.replace(get_config(), model=model)
    return describe("pretraining", to_dict(config), _WORD_PIECES, answers=[], step=0)


def _export(folder: Path) -> None:
    import jax
    import safetensors.numpy
    from flax import nnx

    from pixelbert_jax.loading import named_arrays
    from pixelbert_jax.tasks.registry import task_of

    description = _description()
    task = task_of(description)
    abstract = nnx.state(nnx.eval_shape(lambda: task.init(platform="cpu", rngs=nnx.Rngs(params=0))))
    arrays = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in named_arrays(abstract).items()}
    assert jax.devices()
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    (folder / "vocab.txt").write_text("\n".join(_WORD_PIECES) + "\n")
    description.pop("vocabulary")
    publishers.write_json(folder / "config.json", description)


def _load(folder: Path) -> object:
    from pixelbert_jax.loading import load

    return load(folder).path


_add("exported", _export, _load, {"config.json": _JSON, "vocab.txt": damage.cells_of(b" ")}, cost=4)


def _sealed(content: bytes, draw: damage.Draw) -> bytes:
    """Damage to the description of a checkpoint, with a correct digest."""
    from pixelbert_jax.training.checkpoint import seal

    metadata = json.loads(content)
    kept = metadata["custom_metadata"]
    kept.pop("digest")
    damaged = damage.damaged_value(kept, draw)
    metadata["custom_metadata"] = seal(damaged) if isinstance(damaged, dict) else damaged
    return json.dumps(metadata).encode()


def _checkpoint(folder: Path) -> None:
    import jax.numpy as jnp

    from pixelbert_jax.training.checkpoint import Checkpoints
    from pixelbert_jax.training.step import TrainState

    zero, arrays = jnp.zeros((), jnp.int32), {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(0, TrainState(zero, arrays, {}, (zero,), {}, zero, zero), _description())
    checkpoints.close()


def _read_checkpoint(folder: Path) -> object:
    import jax
    import jax.numpy as jnp

    from pixelbert_jax.loading import find_description
    from pixelbert_jax.serialization import build
    from pixelbert_jax.tasks.registry import task_of
    from pixelbert_jax.training.checkpoint import read_items

    path, description = find_description(folder)
    task_of(description)
    from data_pipelines.config import DataConfig

    build(description["config"]["data"], DataConfig, "config.data")
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {"a": (2, 3), "b": (2,)}
    abstract = {name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=device) for name, shape in shapes.items()}
    return read_items(path, {"model": {"params": abstract, "rest": {}}})


_add(
    "checkpoint",
    _checkpoint,
    _read_checkpoint,
    {
        "checkpoints/0/_CHECKPOINT_METADATA": _sealed,
        "checkpoints/0/model/_METADATA": _JSON,
        "checkpoints/0/model/manifest.ocdbt": damage.no_structure,
        "checkpoints/0/model/d/*": damage.no_structure,
    },
    cost=6,
)

# --- what programs read -----------------------------------------------------------------------------------------------


def _override(folder: Path) -> object:
    from experiments.run.config_flags import override
    from tests.experiments.tiny_config import get_config

    name, _, value = (folder / "argument.txt").read_text(encoding="utf-8", errors="surrogateescape").partition("=")
    return override(get_config(), {name: value})


_FIELDS = (
    "data.train",
    "data.canvases",
    "optimizer",
    "train.steps",
    "model",
    "data.mask_rate",
    "mesh",
    "data.canvases.0",
)


def _argument(content: bytes, draw: damage.Draw) -> bytes:
    value = damage.json_file(b'[{"name": "coco", "split": "a", "weight": 1.0}]', draw)
    return damage._one_of(draw, _FIELDS).encode() + b"=" + value


_add(
    "overrides",
    lambda folder: (folder / "argument.txt").write_text('data.train=[{"name": "coco"}]'),
    _override,
    {"argument.txt": _argument},
    names_file=False,
    cost=0.2,
)


def _metrics(folder: Path) -> object:
    from experiments.run.metric_writer import MetricWriter, read_metrics

    writer = MetricWriter(folder / "metrics.jsonl", resume_step=2)
    writer.close()
    return read_metrics(folder / "metrics.jsonl")


_add(
    "metrics",
    lambda folder: publishers.lines(folder / "metrics.jsonl", *({"step": i, "loss": 0.5} for i in range(4))),
    _metrics,
    {"metrics.jsonl": _LINES},
    cost=0.1,
)


def _vqa_predictions(path: Path) -> object:
    from experiments.evaluation.metrics.vqa import read_predictions

    return read_predictions(path)


def _nlvr2_predictions(path: Path) -> object:
    from experiments.evaluation.metrics.nlvr2 import read_predictions

    return read_predictions(path)


_text("vqa_predictions.json", '[{"question_id": 1, "answer": "red"}]', _vqa_predictions, _JSON)
_text("nlvr2_predictions.csv", "a-1-2-3,True\nb-1-2-3,False\n", _nlvr2_predictions, damage.cells_of(b","))


def _write_wordnet(folder: Path) -> None:
    from tests.experiments.evaluation.metrics.wordnet_folder import write_wordnet

    synsets = [("thing", [], "@"), ("animal beast", [0], "@"), ("dog", [1], "@"), ("cat", [1], "@i")]
    write_wordnet(folder, synsets, {"mice": ["mouse"]})


def _wordnet(folder: Path) -> object:
    from experiments.evaluation.metrics.wordnet import WordNet

    net = WordNet(folder)
    return [net.similarity(a, b) for a in ("dog", "mice", "thing") for b in ("cat", "dogs", "beast")]


_add(
    "wordnet", _write_wordnet, _wordnet, {"*.noun": damage.cells_of(b" |"), "noun.exc": damage.cells_of(b" ")}, cost=0.1
)
