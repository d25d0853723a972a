"""my-project: importance scores for Q4_K."""

import numpy as np

import quantreg


@quantreg.hookimpl
def score_importance(qtype, tensor, weights, columns):
    """Return the error weight of each weight of some rows, or None to leave that to the encoder.

    ``qtype`` is the QuantType about to encode, ``tensor`` the tensor's name or None, ``weights`` float32 (rows, cols),
    and ``columns`` the row of the imatrix, float32 (cols,), or None without an imatrix. The result has the shape of
    ``weights`` or of ``columns``. All its values have to be finite and not negative.
    """
    if qtype.name != "Q4_K" or columns is None:
        return None
    return columns * np.abs(weights)
