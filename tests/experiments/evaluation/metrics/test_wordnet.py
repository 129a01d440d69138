"""Wu-Palmer similarity on small WordNet folders."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from experiments.evaluation.metrics.wordnet import WordNet
from tests.experiments.evaluation.metrics.wordnet_folder import write_wordnet

THINGS = [
    ("entity", (), "@"),
    ("object thing", (0,), "@"),
    ("animal", (1,), "@"),
    ("furniture", (1,), "@"),
    ("dog domestic_dog", (2,), "@"),
    ("cat", (2,), "@"),
    ("chair", (3,), "@"),
    ("leader", (1,), "@"),
    ("chair chairman", (7,), "@"),
    ("Rex", (4,), "@i"),
    ("ox", (2,), "@"),
    ("box", (1,), "@"),
    ("church", (1,), "@"),
    ("shelf", (3,), "@"),
    ("baby", (2,), "@"),
    ("gas", (1,), "@"),
    ("dish", (1,), "@"),
    ("buzz", (1,), "@"),
]


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory) -> WordNet:
    folder = tmp_path_factory.mktemp("dict")
    write_wordnet(folder, THINGS, {"oxen": ("ox",), "feet": ("foot",)})
    return WordNet(folder)


@pytest.mark.parametrize(
    ("first", "second", "similarity"),
    [
        ("dog", "dog", 1),
        ("dog", "domestic_dog", 1),
        ("Dog", "DOGS", 1),
        ("dog", "cat", 2 * 3 / (2 * 3 + 2)),
        ("dog", "animal", 2 * 3 / (2 * 3 + 1)),
        ("dog", "furniture", 2 * 2 / (2 * 2 + 3)),
        ("dog", "entity", 2 * 1 / (2 * 1 + 3)),
        ("rex", "cat", 2 * 3 / (2 * 3 + 3)),  # an instance is below its class
        ("chair", "furniture", 2 * 3 / (2 * 3 + 1)),  # the nearest senses
        ("chair", "leader", 2 * 3 / (2 * 3 + 1)),
        ("unicorn", "dog", 0),
        ("dog domestic", "dog", 0),
        ("", "dog", 0),
    ],
)
def test_similarity(wordnet, first, second, similarity):
    assert wordnet.similarity(first, second) == pytest.approx(similarity)
    assert wordnet.similarity(second, first) == pytest.approx(similarity)


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("dogs", "dog"),
        ("boxes", "box"),
        ("churches", "church"),
        ("dishes", "dish"),
        ("buzzes", "buzz"),
        ("gases", "gas"),
        ("shelves", "shelf"),
        ("babies", "baby"),
        ("chairmen", "chairman"),
        ("oxen", "ox"),
    ],
)
def test_plurals(wordnet, plural, singular):
    assert wordnet.senses(plural) == wordnet.senses(singular) != []


def test_senses_of_the_word_come_before_those_of_its_singular(tmp_path):
    write_wordnet(tmp_path, [("entity", (), "@"), ("glass", (0,), "@"), ("glasses", (0,), "@"), ("glass", (0,), "@")])
    wordnet = WordNet(tmp_path)
    assert wordnet.senses("glasses") == wordnet._synsets["glasses"] + wordnet._synsets["glass"]
    assert len(wordnet.senses("glasses")) == 3
    (tmp_path / "noun.exc").unlink()
    assert WordNet(tmp_path).senses("Glass") == wordnet.senses("glass")


@st.composite
def hierarchies(draw):
    """Synsets with several hypernyms and several roots; the words are in any order of the alphabet."""
    words = draw(st.permutations("abcdefghij"))
    synsets = []
    for i, word in enumerate(words[: draw(st.integers(1, 10))]):
        above = draw(st.sets(st.integers(0, i - 1), min_size=i > 1, max_size=3)) if i else set()
        synsets.append((f"{word}x", tuple(sorted(above)), "@"))
    return synsets


def slow_similarity(synsets, first, second):
    """From all ways up, each written out."""

    def ways(i):
        return [[i, *way] for above in synsets[i][1] for way in ways(above)] or [[i]]

    def steps(low, high):
        return min((way.index(high) for way in ways(low) if high in way), default=None)

    above = [{node for way in ways(i) for node in way} for i in (first, second)]
    common = above[0] & above[1]
    if not common:
        return 0
    lowest = max(min(len(way) for way in ways(node)) for node in common)
    candidates = [node for node in common if min(len(way) for way in ways(node)) == lowest]
    subsumer = first if first in candidates else min(candidates, key=lambda node: synsets[node][0])
    depth = max(len(way) for way in ways(subsumer))

    def apart(low):
        through = {node for way in ways(subsumer) for node in way} & {node for way in ways(low) for node in way}
        return min(steps(low, node) + steps(subsumer, node) for node in through)

    return 2 * depth / (2 * depth + apart(first) + apart(second))


@given(hierarchies())
def test_equals_writing_out_all_ways_up(synsets):
    with tempfile.TemporaryDirectory() as folder:
        write_wordnet(Path(folder), synsets)
        wordnet = WordNet(Path(folder))
    for first in range(len(synsets)):
        for second in range(len(synsets)):
            expected = slow_similarity(synsets, first, second)
            assert wordnet.similarity(synsets[first][0], synsets[second][0]) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["index.noun", "data.noun"])
def test_missing_files(tmp_path, name):
    write_wordnet(tmp_path, THINGS)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"{name} cannot be read"):
        WordNet(tmp_path)


@pytest.mark.parametrize("name", ["index.noun", "data.noun"])
@pytest.mark.parametrize("line", ["dog", "dog n", "dog n 2 0 2 0 00000001", "00000001 03 n zz dog 0 000 | x"])
def test_damaged_lines(tmp_path, name, line):
    write_wordnet(tmp_path, THINGS)
    number = len((tmp_path / name).read_text().splitlines()) + 1
    with (tmp_path / name).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=f"{name}, line {number}: not a line"):
        WordNet(tmp_path)


def test_files_that_do_not_belong_together(tmp_path):
    write_wordnet(tmp_path, THINGS)
    with (tmp_path / "index.noun").open("a") as file:
        file.write("unicorn n 1 1 @ 1 0 09999999\n")
    with pytest.raises(DataError, match="no synset 9999999"):
        WordNet(tmp_path)
    for name in ("index.noun", "data.noun"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match="no synset at all"):
        WordNet(tmp_path)


def test_a_synset_above_itself(tmp_path):
    write_wordnet(tmp_path, [("egg", (1,), "@"), ("hen", (0,), "@")])
    with pytest.raises(DataError, match="its own hypernym"):
        WordNet(tmp_path).similarity("egg", "hen")
