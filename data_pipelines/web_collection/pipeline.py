"""The stages as an Apache Beam pipeline.

Only descriptions of images pass between the stages. The encoded bytes are read again when they are needed, in the order
of the files. The output depends only on the input, not on workers, bundles or their order.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.utils.shared import Shared

from data_pipelines.beam.runner import WorkerProgress
from data_pipelines.storage.atomic_files import write_atomically
from data_pipelines.web_collection import choice, merging, repeats
from data_pipelines.web_collection.examining import examine
from data_pipelines.web_collection.funnel import KEPT, Drop, Tally
from data_pipelines.web_collection.image_reader import ImageReader
from data_pipelines.web_collection.near_duplicates import ImageHash, bands, near_duplicates
from data_pipelines.web_collection.samples import WebImage
from data_pipelines.web_collection.scoring import Scorer
from data_pipelines.web_collection.settings import Settings
from data_pipelines.web_collection.shards import shard_name, write_shard
from data_pipelines.web_collection.sources import Part, read_part

TALLIES_FILE = "tallies.json"  # temporary file with the counts of the workers, in the folder of an unfinished run
_SCORED_TOGETHER = 256  # consecutive images of a file that one worker scores
_DROPS, _KEPT = "drops", "kept"
_TOTAL = ""  # no file has this name


@dataclasses.dataclass(frozen=True)
class Folders:
    """The folders in which the workers read and write; they are the same for all workers.

    Attributes:
      source: folder with the tar and Parquet files.
      images: folder with the image files that Parquet files name.
      output: output folder of the unfinished run.
    """

    source: Path
    images: Path
    output: Path

    def reader(self) -> ImageReader:
        """A reader of the images."""
        return ImageReader(self.source, self.images)


def build(pipeline: beam.Pipeline, parts: Sequence[Part], folders: Folders, settings: Settings) -> None:
    """Add all stages to a pipeline: from the parts of the source to tar files and TALLIES_FILE in `folders.output`."""
    drops: list[beam.PCollection] = []

    def stage(name: str, into: Callable[..., beam.DoFn] | beam.DoFn, images: beam.PCollection) -> beam.PCollection:
        do = into if isinstance(into, beam.DoFn) else _Stage(into)
        results = images | name >> beam.ParDo(do).with_outputs(_DROPS, main=_KEPT)
        drops.append(results[_DROPS])
        return results[_KEPT]

    images = pipeline | "Parts" >> beam.Create(parts) | "Spread" >> beam.Reshuffle()
    images = stage("Examine", _Examine(folders, settings), images)

    images = images | "ByContent" >> beam.Map(_by_content) | "SameFile" >> beam.GroupByKey() | beam.Values()
    images = stage("Merge", functools.partial(merging.merge, max_texts=settings.max_texts_per_image), images)

    uses = images | "Uses" >> beam.FlatMap(repeats.uses) | "ByText" >> beam.Map(_by_text)
    uses = uses | "SameText" >> beam.GroupByKey() | "TextUses" >> beam.Values()
    limit = functools.partial(repeats.without_repeats, max_images=settings.max_images_per_text)
    uses = stage("Repeats", limit, uses) | "UsesByContent" >> beam.Map(_by_content)
    images = (images | "ImagesByContent" >> beam.Map(_by_content), uses) | "OwnTexts" >> beam.CoGroupByKey()
    images = stage("WithTexts", _with_texts, images)

    if settings.model:
        images = images | "ByNeighbours" >> beam.Map(_by_neighbours) | "Neighbours" >> beam.GroupByKey()
        images = stage("Score", _Score(folders, settings), images)
    else:
        images = stage("Choose", functools.partial(choice.choose, scores=None, min_score=0.0), images)

    if settings.max_distance >= 0:
        near = images | "Bands" >> beam.FlatMap(_bands, distance=settings.max_distance)
        near = near | "SameBand" >> beam.GroupByKey() | "BandImages" >> beam.Values()
        near = near | "Compare" >> beam.FlatMap(_worse, distance=settings.max_distance)
        images = (images | "ChosenByContent" >> beam.Map(_by_content), near) | "WithBetter" >> beam.CoGroupByKey()
        images = stage("NearDuplicates", _unless_near_duplicate, images)

    drops.append(images | "Kept" >> beam.Map(_kept))
    tallies = tuple(drops) | "Drops" >> beam.Flatten() | "ByStage" >> beam.Map(_by_stage)
    tallies = tallies | "Tally" >> beam.CombinePerKey(_Total()) | "Tallies" >> beam.combiners.ToList()
    _ = tallies | "WriteTallies" >> beam.Map(_write_tallies, path=folders.output / TALLIES_FILE)

    by_file = images | "ByFile" >> beam.Map(_by_file)
    lengths = by_file | "FileOfEach" >> beam.Keys() | beam.combiners.Count.PerElement()
    firsts = beam.pvalue.AsSingleton(lengths | beam.combiners.ToList() | "Firsts" >> beam.Map(_firsts))
    shards = by_file | "SameFileOfSource" >> beam.GroupByKey()
    shards = shards | "Number" >> beam.FlatMap(_numbered, firsts, size=settings.images_per_shard)
    shards = shards | "SameShard" >> beam.GroupByKey()
    _ = shards | "Write" >> beam.ParDo(_Write(folders, settings), firsts)


def read_tallies(folder: Path) -> Mapping[str, Tally]:
    """The counts of the workers for each stage."""
    listed = json.loads((folder / TALLIES_FILE).read_text())
    return {
        stage: Tally(
            images, texts, reasons, {reason: tuple(map(tuple, examples)) for reason, examples in listed.items()}
        )
        for stage, images, texts, reasons, listed in listed
    }


class _Stage(beam.DoFn):
    """A plain function from one element to several; drops go to a separate output."""

    def __init__(self, function: Callable[[Any], Iterable[Any]]) -> None:
        self._function = function

    def process(self, element: Any) -> Iterator[Any]:
        return _tagged(self._function(element))


class _Examine(beam.DoFn):
    """Reads a part and examines each of its images."""

    def __init__(self, folders: Folders, settings: Settings) -> None:
        self._folders, self._settings = folders, settings

    def setup(self) -> None:
        self._reader, self._progress = self._folders.reader(), WorkerProgress("read")

    def process(self, part: Part) -> Iterator[Any]:
        for found in read_part(self._folders.source, part):
            read = functools.partial(self._reader.read, found.location)
            yield from _tagged(examine(found, read, self._settings))
            self._progress.step(found.location)

    def teardown(self) -> None:
        self._reader.close()


class _Score(beam.DoFn):
    """Scores the texts of neighbouring images; each process loads the model only once."""

    def __init__(self, folders: Folders, settings: Settings) -> None:
        self._folders, self._settings, self._shared = folders, settings, Shared()

    def setup(self) -> None:
        self._reader, self._progress = self._folders.reader(), WorkerProgress("scored")
        self._scorer = self._shared.acquire(lambda: Scorer(self._settings.model, self._settings.checkpoint))

    def process(self, neighbours: tuple[Any, Iterable[WebImage]]) -> Iterator[Any]:
        for image in sorted(neighbours[1], key=lambda image: image.location):
            scores = self._scorer.score(self._reader.read(image.location), image.texts)
            yield from _tagged(choice.choose(image, scores, self._settings.min_score))
            self._progress.step(image.location)

    def teardown(self) -> None:
        self._reader.close()


class _Write(beam.DoFn):
    """Writes one tar file; a second write gives the same file."""

    def __init__(self, folders: Folders, settings: Settings) -> None:
        self._folders, self._settings = folders, settings

    def setup(self) -> None:
        self._reader, self._progress = self._folders.reader(), WorkerProgress("written")

    def process(self, shard: tuple[int, Iterable[tuple[int, WebImage]]], firsts: Mapping[str, int]) -> None:
        number, images = shard
        total = -(-firsts[_TOTAL] // self._settings.images_per_shard)
        folder = self._folders.output / self._settings.split
        folder.mkdir(exist_ok=True)
        name = shard_name(self._settings.split, number, total)
        ordered = sorted(images, key=lambda numbered: numbered[0])
        write_shard(folder / name, ordered, self._reader)
        for _, image in ordered:
            self._progress.step(image.location)

    def teardown(self) -> None:
        self._reader.close()


class _Total(beam.CombineFn):
    """Adds tallies."""

    def create_accumulator(self) -> Tally:
        return Tally()

    def add_input(self, accumulator: Tally, drop: Drop) -> Tally:
        return Tally.total((accumulator, Tally.of(drop)))

    def merge_accumulators(self, accumulators: Iterable[Tally]) -> Tally:
        return Tally.total(accumulators)

    def extract_output(self, accumulator: Tally) -> Tally:
        return accumulator


def _tagged(results: Iterable[Any]) -> Iterator[Any]:
    for result in results:
        yield beam.pvalue.TaggedOutput(_DROPS, result) if isinstance(result, Drop) else result


def _by_content(element: Any) -> tuple[str, Any]:
    return element.sha256, element


def _by_text(use: repeats.Use) -> tuple[str, repeats.Use]:
    return merging.text_key(use.text), use


def _by_neighbours(image: WebImage) -> tuple[tuple[str, int], WebImage]:
    return (image.location.file, image.location.number // _SCORED_TOGETHER), image


def _by_file(image: WebImage) -> tuple[str, WebImage]:
    return image.location.file, image


def _by_stage(drop: Drop) -> tuple[str, Drop]:
    return drop.stage, drop


def _kept(image: WebImage) -> Drop:
    return Drop(KEPT, images=1, texts=len(image.texts))


def _with_texts(joined: tuple[str, tuple[Iterable[WebImage], Iterable[repeats.Use]]]) -> Iterator[WebImage | Drop]:
    (image,), uses = joined[1]
    return repeats.with_texts(image, uses)


def _bands(image: WebImage, distance: int) -> Iterator[tuple[str, ImageHash]]:
    image_hash = ImageHash(image.sha256, image.image_hash, image.score or 0.0)
    for band in bands(image.image_hash, distance):
        yield band, image_hash


def _worse(images: Iterable[ImageHash], distance: int) -> Iterator[tuple[str, ImageHash]]:
    """Each image that has a better near-duplicate, with the better one."""
    for image, better in near_duplicates(images, distance):
        yield image.sha256, better


def _unless_near_duplicate(
    joined: tuple[str, tuple[Iterable[WebImage], Iterable[ImageHash]]],
) -> Iterator[WebImage | Drop]:
    (image,), found = joined[1]
    better = min(found, key=lambda image_hash: image_hash.rank, default=None)
    if better is None:
        yield image
        return
    bits = (image.image_hash ^ better.value).bit_count()
    detail = f"{bits} bits from {better.sha256}"
    yield Drop("near duplicate", str(image.location), image.texts[0], images=1, texts=1, detail=detail)


def _firsts(lengths: Iterable[tuple[str, int]]) -> Mapping[str, int]:
    """File -> number of its first image in the whole split; _TOTAL -> number of all images."""
    firsts, total = {}, 0
    for file, length in sorted(lengths):
        firsts[file], total = total, total + length
    return firsts | {_TOTAL: total}


def _numbered(
    of_file: tuple[str, Iterable[WebImage]], firsts: Mapping[str, int], size: int
) -> Iterator[tuple[int, tuple[int, WebImage]]]:
    """The shard of each image of a file, with the image and its number in the whole split."""
    file, images = of_file
    for number, image in enumerate(sorted(images, key=lambda image: image.location), firsts[file]):
        yield number // size, (number, image)


def _write_tallies(tallies: Iterable[tuple[str, Tally]], path: Path) -> None:
    listed = [(stage, t.images, t.texts, dict(t.reasons), dict(t.examples)) for stage, t in sorted(tallies)]
    write_atomically(path, json.dumps(listed))
