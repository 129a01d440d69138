"""The exceptions for bad input from outside."""


class DataError(Exception):
    """Bad outside input: a missing file, a damaged record, a wrong layout.

    Its message is one clear sentence that names the thing, the place and the remedy. Programs print
    it as `error: ...` without a traceback.
    """


class BadRecordError(DataError):
    """One record of a prepared data set is damaged; the others may serve."""
