"""Cells of tab-separated region files."""

import binascii

import numpy as np

from data_pipelines.regions.rows import MAX_BOXES, BadRowError


def number_of_boxes(cell: bytes) -> int:
    """Parse the number of boxes; raises BadRowError if it is not a number, or out of range."""
    try:
        number = int(cell)
    except ValueError as error:
        raise BadRowError("num_boxes is not a number") from error
    if number < 1:
        raise BadRowError("no boxes")
    if number > MAX_BOXES:
        raise BadRowError(f"over {MAX_BOXES:,} boxes")
    return number


def decode_array(cell: bytes, dtype: np.dtype, length: int | None = None) -> np.ndarray:
    """Decode an array from base64; raises BadRowError if it does not have `length` numbers, if that is given."""
    if length is not None and abs(len(cell) * 3 // 4 - length * dtype.itemsize) > 4:
        raise BadRowError("base64 of a wrong length")
    try:
        content = binascii.a2b_base64(cell, strict_mode=True)
    except binascii.Error as error:
        raise BadRowError("base64 that does not decode") from error
    if len(content) % dtype.itemsize or length not in (None, len(content) // dtype.itemsize):
        raise BadRowError("base64 of a wrong length")
    return np.frombuffer(content, dtype)
