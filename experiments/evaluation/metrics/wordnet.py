"""Wu-Palmer similarity of words from a WordNet 3.0 folder."""

from collections.abc import Callable
from pathlib import Path

from data_pipelines.errors import DataError

# Suffixes that WordNet's `morphy` removes from a noun, and their replacements.
_ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)


class WordNet:
    """Nouns of WordNet and their hypernyms; a synset is the number of the byte at which its line starts.

    Gives the similarities of NLTK's `wup_similarity`, which the DAQUAR authors' script uses, with its choice among
    several lowest common hypernyms.
    """

    def __init__(self, folder: Path) -> None:
        """Read `index.noun`, `data.noun` and, where it is there, `noun.exc` (irregular plurals).

        Args:
          folder: the `dict/` of WordNet 3.0.

        Raises:
          DataError: a file is missing or damaged, or they do not belong together.
        """
        self._folder = folder
        self._synsets: dict[str, list[int]] = {}
        self._first_word: dict[int, str] = {}
        self._hypernyms: dict[int, list[int]] = {}
        self._irregular: dict[str, list[str]] = {}
        for name, parse in (("index.noun", self._parse_index), ("data.noun", self._parse_data)):
            _read(folder / name, parse)
        if (folder / "noun.exc").exists():
            _read(folder / "noun.exc", self._parse_exception)
        named = [synset for synsets in (*self._synsets.values(), *self._hypernyms.values()) for synset in synsets]
        missing = next((synset for synset in named if synset not in self._hypernyms), None)
        if missing is not None or not named:
            raise DataError(
                f"{folder}: data.noun has no synset {missing or 'at all'}, which other lines name; "
                "give the dict/ folder of one WordNet."
            )
        self._depths: dict[int, tuple[int, int] | None] = {}
        self._ancestors: dict[int, dict[int, int]] = {}
        self._similarities: dict[tuple[str, str], float] = {}

    def similarity(self, first: str, second: str) -> float:
        """Largest Wu-Palmer similarity in [0, 1] of any two noun senses; 0 if a word is not a noun in WordNet.

        Args:
          first, second: words, those of a compound joined by _; in the singular or in the plural.
        """
        pair = (first, second)
        if pair not in self._similarities:
            senses = [(x, y) for x in self.senses(first) for y in self.senses(second)]
            self._similarities[pair] = max((self._wu_palmer(x, y) for x, y in senses), default=0.0)
        return self._similarities[pair]

    def senses(self, word: str) -> list[int]:
        """Synsets of a noun and of the words of which it may be the plural, the most frequent sense first."""
        word = word.lower()
        bases = self._irregular.get(word)
        if bases is None:
            bases = [word.removesuffix(end) + base for end, base in _ENDINGS if word.endswith(end)]
        return [synset for form in dict.fromkeys([word, *bases]) for synset in self._synsets.get(form, ())]

    def _wu_palmer(self, first: int, second: int) -> float:
        above = self._distances(second)
        common = [synset for synset in self._distances(first) if synset in above]
        if not common:
            return 0.0
        lowest = max(self._depth(synset)[0] for synset in common)
        candidates = [synset for synset in common if self._depth(synset)[0] == lowest]
        subsumer = first if first in candidates else min(candidates, key=self._name)
        depth = self._depth(subsumer)[1] + 1
        steps = self._path(first, subsumer) + self._path(second, subsumer)
        return 2 * depth / (2 * depth + steps)

    def _path(self, synset: int, subsumer: int) -> int:
        # Seldom shorter by way of a hypernym of the subsumer, but NLTK looks there too.
        own, other = self._distances(synset), self._distances(subsumer)
        return min(own[common] + distance for common, distance in other.items() if common in own)

    def _distances(self, synset: int) -> dict[int, int]:
        """The synset and all above it, with the length of the shortest way up to each."""
        if synset not in self._ancestors:
            distances, level = {synset: 0}, [synset]
            while level:
                above = [hypernym for lower in level for hypernym in self._hypernyms[lower]]
                level = [hypernym for hypernym in dict.fromkeys(above) if hypernym not in distances]
                distances |= dict.fromkeys(level, max(distances.values()) + 1)
            self._ancestors[synset] = distances
        return self._ancestors[synset]

    def _depth(self, synset: int) -> tuple[int, int]:
        """Length of the shortest and of the longest way up to a synset without hypernyms."""
        if synset not in self._depths:
            self._depths[synset] = None
            above = [self._depth(hypernym) for hypernym in self._hypernyms[synset]] or [(-1, -1)]
            self._depths[synset] = (min(low for low, _ in above) + 1, max(high for _, high in above) + 1)
        depth = self._depths[synset]
        if depth is None:
            raise DataError(
                f"{self._folder}: synset {synset} of data.noun is its own hypernym; give the dict/ folder of a whole "
                "WordNet."
            )
        return depth

    def _name(self, synset: int) -> str:
        """NLTK's name of a synset, by which it sorts, such as dog.n.01."""
        word = self._first_word[synset].lower()
        synsets = self._synsets.get(word, [])
        return f"{word}.n.{synsets.index(synset) + 1 if synset in synsets else 0:02d}"

    def _parse_index(self, fields: list[str]) -> None:
        count, pointers = int(fields[2]), int(fields[3])
        synsets = [int(field) for field in fields[6 + pointers :]]
        if len(synsets) != count:
            raise ValueError
        self._synsets[fields[0]] = synsets

    def _parse_data(self, fields: list[str]) -> None:
        synset, words = int(fields[0]), int(fields[3], 16)
        start = 5 + 2 * words
        pointers = [fields[i : i + 4] for i in range(start, start + 4 * int(fields[start - 1]), 4)]
        self._first_word[synset] = fields[4]
        self._hypernyms[synset] = [
            int(target) for symbol, target, part, _ in pointers if symbol in ("@", "@i") and part == "n"
        ]

    def _parse_exception(self, fields: list[str]) -> None:
        self._irregular[fields[0]] = fields[1:]


def _read(path: Path, parse: Callable[[list[str]], None]) -> None:
    """Call `parse` with the fields of each line, except the licence on top, whose lines begin with a space."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); give the dict/ folder of WordNet 3.0.") from error
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith(" "):
            try:
                parse(line.split("|")[0].split())
            except (ValueError, IndexError) as error:
                raise DataError(f"{path}, line {number}: not a line of WordNet 3.0; download it again.") from error
