"""Every reader, with damage to the structure of its files and to their bytes."""

import pytest

from tests.hostile.checking import Case
from tests.hostile.readers import READERS

QUICK_EXAMPLES = 30
LONG_EXAMPLES = 1500


@pytest.fixture(scope="module")
def case_of(tmp_path_factory):
    """A function that makes the valid input of a reader once."""
    made = {}

    def case(name: str) -> Case:
        if name not in made:
            made[name] = Case(READERS[name], tmp_path_factory.mktemp(name))
        return made[name]

    return case


@pytest.mark.parametrize("name", READERS)
def test_valid_input_is_read(name: str, case_of) -> None:
    assert case_of(name).outcome({}) == ""


@pytest.mark.parametrize("structural", [True, False], ids=["structure", "bytes"])
@pytest.mark.parametrize("name", READERS)
def test_damage(name: str, structural: bool, case_of) -> None:
    examples = max(5, int(QUICK_EXAMPLES / max(1, READERS[name].cost)))
    case_of(name).property(structural, max_examples=examples)()


@pytest.mark.slow
@pytest.mark.parametrize("structural", [True, False], ids=["structure", "bytes"])
@pytest.mark.parametrize("name", READERS)
def test_much_damage(name: str, structural: bool, case_of) -> None:
    examples = int(LONG_EXAMPLES / max(1, READERS[name].cost))
    case_of(name).property(structural, max_examples=examples, derandomize=False)()
