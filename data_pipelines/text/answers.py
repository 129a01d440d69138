"""Answers to questions: the official normalisation, and the answer vocabulary that a model chooses from."""

import collections
import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from data_pipelines.errors import DataError, short_repr
from data_pipelines.storage.bucket_errors import reason
from data_pipelines.storage.paths import as_path

ANNOTATORS = 10  # of each question of VQA

# As in `processPunctuation`: without the apostrophe and the colon, so that don't and 10:30 are kept.
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
# The official script passes re.UNICODE, whose value is 32, as the parameter `count`.
_MAX_FULL_STOPS = 32
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
# Keys are the contractions with one apostrophe missing. The table of the official script has somebody'd the wrong way
# round. Its keys I'm, I've and I'd've never match, because the words are already lower case.
_CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word
    for word in _CONTRACTED.split()
    for i, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}


def clean_answer(text: str) -> str:
    """Replace line breaks and tabs by spaces and strip the ends, as the official script does with every answer."""
    return text.replace("\n", " ").replace("\t", " ").strip()


@functools.lru_cache(maxsize=1 << 16)
def normalize_answer(text: str) -> str:
    """The form in which the official VQA evaluation compares an answer.

    These are the rules of `processPunctuation` and `processDigitArticle` in vqaEval.py, including their oddities:

    - A punctuation sign is removed if the answer has it next to a space, or has a comma between digits anywhere.
      Otherwise the sign becomes a space.
    - At most 32 full stops are removed; one before a digit stays.
    - The text becomes lower case, number words up to ten (and "none") become digits, and articles are removed.
    - Contractions get their missing apostrophe.
    """
    text = clean_answer(text)
    has_comma_in_number = _NUMBER_WITH_COMMA.search(text) is not None
    spaced = text
    for sign in _PUNCTUATION:
        beside_space = f"{sign} " in text or f" {sign}" in text
        spaced = spaced.replace(sign, "" if beside_space or has_comma_in_number else " ")
    spaced = _FULL_STOP.sub("", spaced, count=_MAX_FULL_STOPS)
    words = (_NUMBERS.get(word, word) for word in spaced.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@dataclasses.dataclass(frozen=True)
class AnswerVocabulary:
    """The answers that a model chooses from; the position of an answer is its class index.

    Raises:
      DataError: an answer occurs twice.
    """

    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self._indices) != len(self.answers):
            twice = next(a for i, a in enumerate(self.answers) if self._indices[a] != i)
            raise DataError(f"The answer {short_repr(twice)} stands twice in the list of answers; remove one of them.")

    def __len__(self) -> int:
        return len(self.answers)

    @functools.cached_property
    def _indices(self) -> dict[str, int]:
        return {answer: i for i, answer in enumerate(self.answers)}

    def index(self, answer: str) -> int | None:
        """Index of an answer, or of its normal form if the answer itself is unknown; None if both are unknown."""
        index = self._indices.get(answer)
        return self._indices.get(normalize_answer(answer)) if index is None else index

    def soft_targets(
        self, answers: Sequence[str], size: int | None = None, *, votes: bool | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Training targets of one question: known answers with their scores; unknown answers are skipped.

        Args:
          answers: answers of one question: those of its ten annotators, or the one or more right answers.
          size: S, the number of slots, filled up with zeros; None: the number of known answers.
          votes: True: the score of an answer follows from the number of annotators that gave it: 1: 0.3, 2: 0.6,
            3: 0.9, 4 or more: 1. This is the official accuracy with ten annotators. False: each answer is right.
            None: the answers are votes if there are at least ten.

        Returns:
          index_S: int32, class indices in the order of the answers.
          score_S: float32, their scores.

        Raises:
          DataError: there are more than `size` different known answers.
        """
        found = (self.index(answer) for answer in answers)
        counts = collections.Counter(index for index in found if index is not None)
        votes = len(answers) >= ANNOTATORS if votes is None else votes
        slots = len(counts) if size is None else size
        if len(counts) > slots:
            raise DataError(
                f"A question has {len(counts)} different known answers but {slots} slots; give it more slots."
            )
        index_S, score_S = np.zeros(slots, np.int32), np.zeros(slots, np.float32)
        index_S[: len(counts)] = list(counts)
        score_S[: len(counts)] = [min(10, 3 * count) / 10 if votes else 1 for count in counts.values()]
        return index_S, score_S


def build_vocabulary(
    answer_lists: Iterable[Sequence[str]], minimum: int = 9, *, normalize: bool = True
) -> AnswerVocabulary:
    """Collect the answers that are the most common answer of at least `minimum` questions.

    Args:
      answer_lists: the answers of each question; a question without answers is skipped. If several answers of a
        question are equally common, the first one counts. For sets of right answers, pass each answer as its own list.
      minimum: minimum number of questions; 9 gives the usual list for VQA 2.0.
      normalize: count normal forms; False for answers that are fixed names, such as garbage_bin.

    Returns:
      The answers by descending count, then in alphabetical order.

    Raises:
      DataError: no answer is frequent enough.
    """
    form = normalize_answer if normalize else clean_answer
    counts: collections.Counter[str] = collections.Counter()
    for answers in answer_lists:
        majority = collections.Counter(map(form, answers)).most_common(1)
        counts.update(answer for answer, _ in majority)
    frequent = [answer for answer, count in counts.items() if count >= minimum]
    if not frequent:
        raise DataError(
            f"None of {len(counts)} different answers is that of {minimum} questions; lower the minimum or give a list."
        )
    return AnswerVocabulary(tuple(sorted(frequent, key=lambda answer: (-counts[answer], answer))))


def read_vocabulary_list(path: epath.PathLike) -> AnswerVocabulary:
    """Read a list of answers from a file in one of the published formats.

    The formats are: a JSON list; a JSON object that maps answers to indices (`trainval_ans2label.json`); a JSON object
    with such a map as `ans2label`, a list as `label2ans`, or both; or text with one answer per line.

    Raises:
      DataError: the file cannot be read, has another format, or contradicts itself.
    """
    path = as_path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason(error)}); give a list of answers that exists.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}); give a JSON list of answers.") from error
    try:
        if path.suffix == ".json" or (path.suffix != ".txt" and text.lstrip()[:1] in ("[", "{")):
            answers = _from_json(json.loads(text, object_pairs_hook=_unique_keys))
        else:
            answers = _from_lines(text)
        if not answers:
            raise ValueError("It is empty.")
        return AnswerVocabulary(answers)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}); download the file again.") from error
    except RecursionError as error:
        raise DataError(f"{path}: no list of answers, but deeply nested JSON; download the file again.") from error
    except (ValueError, DataError) as error:
        raise DataError(f"{path}: no list of answers. {str(error).removesuffix('.')}.") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its pairs; raises ValueError if a key occurs twice."""
    content = dict(pairs)
    if len(content) != len(pairs):
        twice = next(key for key, count in collections.Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"The answer {short_repr(twice)} stands twice; remove one of them.")
    return content


def _from_json(content: object) -> tuple[str, ...]:
    if isinstance(content, list):
        return _strings(content)
    if not isinstance(content, dict):
        raise ValueError("The JSON is neither a list nor an object.")
    # An answer may itself be the text "label2ans", but then its value is a number.
    by_label, by_answer = content.get("label2ans"), content.get("ans2label")
    if not isinstance(by_label, list) and not isinstance(by_answer, dict):
        return _ordered(content)
    forms = [_strings(by_label)] if isinstance(by_label, list) else []
    forms += [_ordered(by_answer)] if isinstance(by_answer, dict) else []
    if forms[0] != forms[-1]:
        raise ValueError("label2ans and ans2label differ; keep the one that the model was trained with.")
    return forms[0]


def _ordered(indices: dict[str, Any]) -> tuple[str, ...]:
    if not all(type(index) is int for index in indices.values()) or set(indices.values()) != set(range(len(indices))):
        raise ValueError(f"The indices of the {len(indices)} answers are not the numbers from 0, each once.")
    return tuple(sorted(indices, key=indices.__getitem__))


def _strings(answers: list[Any]) -> tuple[str, ...]:
    wrong = next((answer for answer in answers if not isinstance(answer, str)), None)
    if wrong is not None or None in answers:
        raise ValueError(f"The entry {short_repr(wrong)} is not a text.")
    return tuple(answers)


def _from_lines(text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
    if "" in lines:
        raise ValueError(f"Line {lines.index('') + 1} is blank; remove it, or give a JSON list if an answer is empty.")
    return tuple(lines)
