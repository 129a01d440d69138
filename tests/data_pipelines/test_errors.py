"""Messages of other libraries inside an error message."""

import pytest

from data_pipelines import errors as data_errors
from pixelbert_jax import errors


@pytest.mark.parametrize("in_short", [data_errors.in_short, errors.in_short])
def test_messages_are_cut_between_words(in_short):
    assert in_short("a\n  b\tc") == "a b c"
    assert in_short("one two three", 13) == "one two three"
    assert in_short("one two three", 12) == "one two ..."
    assert in_short("one two three", 7) == "one ..."
    assert in_short("x" * 20, 5) == "xxxxx ..."
    assert in_short(ValueError("bad\nthing")) == "bad thing"
