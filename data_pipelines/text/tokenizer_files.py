"""What lies beside a vocabulary: its lines, and what a tokenizer's files say of upper case and accents."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError

FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_SAYS_CASE = ("tokenizer_config.json", "tokenizer.json")  # the first counts over the second, as in transformers


def split_vocabulary(text: str) -> tuple[str, ...]:
    r"""Word pieces of a vocab.txt: a line ends in \n, or in \r\n where all do; line i is id i, blank or not."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    if lines and all(line.endswith("\r") for line in lines):
        lines = [line[:-1] for line in lines]
    return tuple(lines)


def check_case(folder: Path, lowercase: bool) -> None:
    """Refuse a tokenizer that treats upper case or accents otherwise than `data.lowercase` would.

    A folder whose files say nothing of them passes.

    Raises:
      DataError: they differ, or a file is damaged.
    """
    said: dict[str, tuple[bool, Path]] = {}
    for file in (folder / name for name in _SAYS_CASE):
        if file.is_file():
            for field, value in _said(file).items():
                said.setdefault(field, (value, file))
    theirs, file = said.get("do_lower_case", (lowercase, folder))
    if theirs != lowercase:
        raise DataError(
            f"{file}: do_lower_case is {json.dumps(theirs)}, but data.lowercase={lowercase} would read its words in "
            f"another case; set data.lowercase={theirs}, or take another vocabulary."
        )
    strips, file = said.get("strip_accents", (lowercase, folder))
    if strips != lowercase:
        raise DataError(
            f"{file}: strip_accents is {json.dumps(strips)}, but accents are stripped here where data.lowercase is "
            f"true and only there (it is {lowercase}); take another vocabulary."
        )


def cased_pieces(vocabulary: Sequence[str]) -> int:
    """How many tokens have upper-case letters, which no text has once it is lower-cased; [NAMES] do not count."""
    return sum(piece != piece.lower() for piece in vocabulary if not (piece[:1] == "[" and piece[-1:] == "]"))


def _said(file: Path) -> dict[str, bool]:
    """The fields `do_lower_case` and `strip_accents`, as far as the file has them."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); check the file.") from None
    except (ValueError, RecursionError):
        raise DataError(f"{file}: not JSON; download it again.") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: not a JSON object; download it again.")
    fields = content if file.name == "tokenizer_config.json" else _of_normalizer(content)
    found = {name: fields[name] for name in ("do_lower_case", "strip_accents") if fields.get(name) is not None}
    if odd := [name for name, value in found.items() if not isinstance(value, bool)]:
        raise DataError(f"{file}: {odd[0]} is neither true nor false; download it again.")
    return found


def _of_normalizer(content: dict[str, Any]) -> dict[str, Any]:
    """The same fields from a tokenizer.json, whose normalizer may be a sequence."""
    if "normalizer" not in content:
        return {}
    parts = list(_parts(content["normalizer"]))
    whole = next((part for part in parts if part.get("type") == "BertNormalizer"), None)
    if whole is not None:
        return {"do_lower_case": whole.get("lowercase"), "strip_accents": whole.get("strip_accents")}
    kinds = {str(part.get("type")) for part in parts}
    return {"do_lower_case": "Lowercase" in kinds, "strip_accents": "StripAccents" in kinds}


def _parts(normalizer: Any) -> Iterator[dict[str, Any]]:
    if isinstance(normalizer, dict):
        yield normalizer
        inner = normalizer.get("normalizers")
        for part in inner if isinstance(inner, list) else ():
            if isinstance(part, dict):
                yield part
