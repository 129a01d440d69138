"""Files of a tokenizer: the lines of vocab.txt, and the settings for upper case and accents."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.storage.bucket_errors import reason
from data_pipelines.storage.paths import AnyPath

FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_CASE_FILES = ("tokenizer_config.json", "tokenizer.json")  # the first has priority, as in transformers


def split_vocabulary(text: str) -> tuple[str, ...]:
    r"""Tokens of a vocab.txt. Lines end in \n, or all of them in \r\n. Line i is the token with id i, even if empty.

    The last line may have no line break.
    """
    *lines, last = text.split("\n")
    if lines and all(line.endswith("\r") for line in lines):
        lines = [line[:-1] for line in lines]
    return (*lines, last) if last else tuple(lines)


def check_case(folder: AnyPath, lowercase: bool) -> None:
    """Check that the tokenizer files in a folder treat upper case and accents as `data.lowercase` does.

    A folder whose files have no such setting passes.

    Raises:
      DataError: the settings differ, or a file is damaged.
    """
    settings: dict[str, tuple[bool, AnyPath]] = {}
    for file in (folder / name for name in _CASE_FILES):
        if file.is_file():
            for field, value in _case_settings(file).items():
                settings.setdefault(field, (value, file))
    do_lower_case, file = settings.get("do_lower_case", (lowercase, folder))
    if do_lower_case != lowercase:
        raise DataError(
            f"{file}: do_lower_case is {json.dumps(do_lower_case)}, but data.lowercase={lowercase} would read its "
            f"words in another case; set data.lowercase={do_lower_case}, or take another vocabulary."
        )
    strips, file = settings.get("strip_accents", (lowercase, folder))
    if strips != lowercase:
        raise DataError(
            f"{file}: strip_accents is {json.dumps(strips)}, but accents are stripped here where data.lowercase is "
            f"true and only there (it is {lowercase}); take another vocabulary."
        )


def cased_pieces(vocabulary: Sequence[str]) -> int:
    """Number of tokens with upper-case letters, which never match lower-cased text; tokens like [CLS] do not count."""
    return sum(piece != piece.lower() for piece in vocabulary if not (piece[:1] == "[" and piece[-1:] == "]"))


def _case_settings(file: AnyPath) -> dict[str, bool]:
    """The fields `do_lower_case` and `strip_accents` of a file, without those that it does not have."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file} cannot be read ({reason(error)}); check the file.") from None
    except (ValueError, RecursionError):
        raise DataError(f"{file}: not JSON; download it again.") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: not a JSON object; download it again.")
    fields = content if file.name == "tokenizer_config.json" else _normalizer_settings(content)
    found = {name: fields[name] for name in ("do_lower_case", "strip_accents") if fields.get(name) is not None}
    if odd := [name for name, value in found.items() if not isinstance(value, bool)]:
        raise DataError(f"{file}: {odd[0]} is neither true nor false; download it again.")
    return found


def _normalizer_settings(content: dict[str, Any]) -> dict[str, Any]:
    """The same fields from the content of a tokenizer.json; its normalizer may be a sequence of normalizers."""
    if "normalizer" not in content:
        return {}
    parts = list(_parts(content["normalizer"]))
    whole = next((part for part in parts if part.get("type") == "BertNormalizer"), None)
    if whole is not None:
        return {"do_lower_case": whole.get("lowercase"), "strip_accents": whole.get("strip_accents")}
    kinds = {str(part.get("type")) for part in parts}
    return {"do_lower_case": "Lowercase" in kinds, "strip_accents": "StripAccents" in kinds}


def _parts(normalizer: Any) -> Iterator[dict[str, Any]]:
    """A normalizer and all normalizers in it, depth first."""
    if isinstance(normalizer, dict):
        yield normalizer
        inner = normalizer.get("normalizers")
        for part in inner if isinstance(inner, list) else ():
            if isinstance(part, dict):
                yield part
