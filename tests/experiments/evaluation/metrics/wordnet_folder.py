"""Writes small WordNet folders, in the layout of WordNet 3.0's dict/."""

from collections.abc import Mapping, Sequence
from pathlib import Path

LICENCE = "  1 This line stands for the licence on top of each file.  \n"


def write_wordnet(folder: Path, synsets: Sequence[tuple[str, Sequence[int], str]], irregular: Mapping = {}) -> None:
    """Write index.noun, data.noun and noun.exc.

    Args:
      folder: it must exist.
      synsets: for each its words, the indices of its hypernyms, and the pointer to them: @ or @i.
      irregular: plural -> its singulars.
    """
    starts = [0] * len(synsets)
    for _ in range(2):  # the second time with the offsets of the lines of the first time
        lines, offset = [], len(LICENCE)
        for i, (words, hypernyms, symbol) in enumerate(synsets):
            pointers = [f"{symbol} {starts[hypernym]:08d} n 0000" for hypernym in hypernyms]
            pointers += [f"~ {starts[i]:08d} n 0000", f"+ {starts[i]:08d} v 0102"]
            named = " ".join(f"{word} 0" for word in words.split())
            head = f"{starts[i]:08d} 03 n {len(words.split()):02x} {named} {len(pointers):03d}"
            lines.append(f'{head} {" ".join(pointers)} | what it means; "@ 1 | 2"  \n')
            starts[i], offset = offset, offset + len(lines[-1])
    (folder / "data.noun").write_text(LICENCE + "".join(lines))
    senses: dict[str, list[int]] = {}
    for start, (words, _, _) in zip(starts, synsets, strict=True):
        for word in words.lower().split():
            senses.setdefault(word, []).append(start)
    index = [
        f"{word} n {len(own)} 2 @ ~ {len(own)} 0 {' '.join(f'{start:08d}' for start in own)}  \n"
        for word, own in sorted(senses.items())
    ]
    (folder / "index.noun").write_text(LICENCE + "".join(index))
    (folder / "noun.exc").write_text("".join(f"{plural} {' '.join(own)}\n" for plural, own in irregular.items()))
