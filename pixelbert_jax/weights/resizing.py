"""Embedding tables of other sizes: tokens keep their vectors by their string, positions by their index."""

from collections.abc import Mapping, Sequence

import numpy as np

from pixelbert_jax.weights.conversion import Loaded

TOKEN_TABLES = ("model.text_embedding.word", "mlm_head.bias")
POSITION_TABLES = ("model.text_embedding.position", "model.pixel_embedding.row", "model.pixel_embedding.column")


def resized(
    arrays: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
    vocabularies: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Loaded:
    """Fit tables into a model that has other sizes.

    Args:
      arrays: arrays by dotted name; those that are not tables stay as they are.
      sizes: name of a table -> number of rows in the model.
      vocabularies: tokens of the arrays and tokens of the model, by id; None: the leading rows are the same tokens.

    Returns:
      The arrays, with the rows that they fill (`partial`) and the number of rows that the model lacks (`cut`).
    """
    arrays, partial, cut = dict(arrays), {}, {}
    tokens = None
    if vocabularies and tuple(vocabularies[0]) != tuple(vocabularies[1]):
        tokens = common_tokens(*vocabularies)
    for name in arrays.keys() & sizes.keys():
        table, size = arrays[name], sizes[name]
        theirs = ours = np.arange(min(len(table), size))
        if tokens and name in TOKEN_TABLES:
            theirs, ours = tokens
        arrays[name] = table[theirs]
        if len(ours) < size:
            partial[name] = ours
        if len(theirs) < len(table):
            cut[name] = len(table) - len(theirs)
    return Loaded(arrays, partial, cut=cut)


def common_tokens(theirs: Sequence[str], ours: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the tokens that two vocabularies share, in the first and in the second; ascending in the second."""
    ids = {token: i for i, token in enumerate(theirs) if token}
    pairs = [(ids[token], i) for i, token in enumerate(ours) if token in ids]
    theirs_N, ours_N = np.array(pairs, np.int64).reshape(-1, 2).T
    return theirs_N, ours_N
