"""What is predicted has to belong to what is asked."""

from collections.abc import Collection, Hashable

from data_pipelines.errors import DataError


def reject_unknown(predicted: Collection[Hashable], asked: Collection[Hashable], what: str) -> None:
    """Raise DataError if there is nothing to predict, or something is predicted that nobody asked for.

    Args:
      predicted, asked: identifiers; those in `asked` are looked up, so give a set or a mapping.
      what: they are, in the singular, such as question.
    """
    if not asked:
        raise DataError(f"There is no labelled {what} to score; choose a split with labels.")
    unknown = next((identifier for identifier in predicted if identifier not in asked), None)
    if unknown is not None:
        raise DataError(
            f"{what.capitalize()} {unknown!r} has a prediction but is not in this split; give its own split."
        )
