"""Languages of pages."""

import pytest

from data_pipelines.web_collection.languages import primary_tag, refuse_language


@pytest.mark.parametrize("language", ["en", "EN", " en-GB ", "en_US.UTF-8", "en-Latn-US"])
def test_ways_to_write_a_language(language: str) -> None:
    assert primary_tag(language) == "en"
    assert refuse_language(language, ("en",), "drop") is None


@pytest.mark.parametrize("language", [None, "", "  ", "und", "Unknown", 3, ["en"], "x" * 1000])
def test_pages_without_a_language(language: object) -> None:
    assert refuse_language(language, ("en",), "drop") == "language not given"
    assert refuse_language(language, ("en",), "keep") is None
    assert refuse_language(language, (), "drop") is None


def test_other_languages() -> None:
    assert refuse_language("de-AT", ("en",), "keep") == "de"
    assert refuse_language("de-AT", ("en", "de"), "drop") is None
    assert refuse_language("de-AT", (), "drop") is None
    assert refuse_language("eng", ("en",), "keep") == "eng"
