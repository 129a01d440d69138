"""Predictions must belong to examples of the split."""

from collections.abc import Collection, Hashable

from data_pipelines.errors import DataError


def reject_unknown(predicted: Collection[Hashable], expected: Collection[Hashable], what: str) -> None:
    """Raise DataError if no prediction is expected, or if a prediction has no example.

    Args:
      predicted, expected: identifiers; those in `expected` are looked up, so give a set or a mapping.
      what: the kind of example, in the singular, such as question.
    """
    if not expected:
        raise DataError(f"There is no labelled {what} to score; choose a split with labels.")
    unknown = next((identifier for identifier in predicted if identifier not in expected), None)
    if unknown is not None:
        raise DataError(
            f"{what.capitalize()} {unknown!r} has a prediction but is not in this split; give its own split."
        )
