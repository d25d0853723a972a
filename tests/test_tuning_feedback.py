"""Error feedback: it lowers the loss on H for every type, and H may be as bad as it likes."""

from functools import cache

import numpy as np
import pytest
import toy
from tuning_inputs import ENCODED, inputs, weights

import quantreg
from quantreg import types
from quantreg.products import one_blas_thread
from quantreg.tuning import encoding, feedback
from quantreg.tuning.encoding import encode_matrix
from quantreg.tuning.feedback import factor, loss

every_type = pytest.mark.parametrize("name", ENCODED)
COLS = 512
SIZE = {"rows": 24, "cols": COLS}
# What is left of the loss of the ordinary bytes. Types of two levels have little to choose.
LEFT = {"Q1_0": 0.85, "Q2_0": 0.8, "TQ1_0": 0.8, "TQ2_0": 0.8, "Q8_1": 1.0}


@cache
def given(cols=COLS):
    return inputs(cols)


def encoded(qtype, h=None, w=None, **options):
    own, importance, held_out = given()
    h = own if h is None else h
    w = weights(**SIZE) if w is None else w
    if h is not own:
        importance = np.ascontiguousarray(np.diagonal(h)) / np.float32(2048)
    with one_blas_thread():
        return encode_matrix(w, qtype, "w", factor(h), importance, held_out, **options)


def decoded(qtype, data, cols=COLS):
    return encoding._decoded(qtype, qtype.codec, data, cols)


@every_type
def test_feedback_lowers_the_loss_on_h_and_on_other_tokens(name):
    qtype, w = types[name], weights(**SIZE)
    h, importance, _ = given()
    plain = encoding._plain(w, qtype, qtype.codec, importance, name)
    found = encoded(qtype)
    assert found.kept
    assert found.reason is None
    assert found.tuned < found.plain
    before, after = (loss(w, decoded(qtype, data), h) for data in (plain, found.data))
    assert after < LEFT.get(name, 0.7) * before


@every_type
def test_the_error_that_is_reported_is_that_of_the_bytes(name):
    qtype, w = types[name], weights(**SIZE)
    found = encoded(qtype)
    x = given()[2].astype(np.float64)
    right = x @ w.T.astype(np.float64)
    wrong = x @ (w - decoded(qtype, found.data)).T.astype(np.float64)
    assert found.tuned == pytest.approx(np.square(wrong).sum() / np.square(right).sum(), rel=1e-3)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q3_K", "IQ2_XS", "IQ3_S", "TQ1_0"])
def test_each_sweep_lowers_the_loss(name, monkeypatch):
    """Both kinds: units given all others, and blocks that are encoded again."""
    qtype, w = types[name], weights(**SIZE)
    h = given()[0]
    for again in ((), (0, 1, 2, 3)):
        monkeypatch.setattr(feedback, "ENCODED_AGAIN", again)
        losses = [loss(w, decoded(qtype, encoded(qtype, sweeps=n).data), h) for n in range(4)]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 0.99 * losses[0]


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "IQ2_XS"])
def test_a_sweep_never_raises_the_loss_of_any_row(name):
    qtype, w = types[name], weights(**SIZE)
    h = given()[0].astype(np.float64)
    h += 0.01 * np.diagonal(h).mean() * np.eye(len(h))  # the damping of `factor`, with which the sweeps compute
    losses = []
    for sweeps in range(4):
        e = (w - decoded(qtype, encoded(qtype, sweeps=sweeps).data)).astype(np.float64)
        losses.append(np.einsum("ri,ij,rj->r", e, h, e))
    assert (np.diff(losses, axis=0) <= 1e-5 * losses[0]).all()


def test_feedback_without_any_is_the_ordinary_encoding():
    """With H = I no column can make up for another: the codes are the nearest, so those of the encoder, or better."""
    qtype, w = types["Q4_K"], weights(**SIZE)
    h = np.eye(COLS, dtype=np.float32)
    plain = decoded(qtype, encoding._plain(w, qtype, qtype.codec, np.ones(COLS, np.float32), "w"))
    codes = encoding._common_chooser(qtype)
    encode = encoding._encoder(w, qtype, qtype.codec, np.ones(COLS, np.float32), "w")
    data = feedback.feedback(w, factor(h), encode, codes.decode, codes, 256, sweeps=0)
    assert np.allclose(decoded(qtype, data.reshape(len(w), -1)), plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "IQ2_XS", "TQ1_0"])
def test_bytes_do_not_depend_on_threads_nor_on_other_rows(name, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(encoding, "ROWS", 8)

    def on_threads(work, items):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(work, items))

    def backwards(work, items):
        for item in reversed(items):
            work(item)

    alone = encoded(types[name])
    assert alone.kept
    for workers in (on_threads, backwards):
        assert (encoded(types[name], workers=workers).data == alone.data).all()


def test_wide_matrices_are_encoded_in_parts_of_fewer_rows():
    assert encoding.row_spans(2000, 2048) == [(0, 1024), (1024, 2000)]
    assert encoding.row_spans(1024, 5632) == [(0, 512), (512, 1024)]
    assert encoding.row_spans(600, 28672) == [(0, 256), (256, 512), (512, 600)]
    assert encoding.row_spans(3, 64) == [(0, 3)]


def rank_one():
    x = np.random.default_rng(7).standard_normal(COLS).astype(np.float32)
    return 1000 * np.outer(x, x)


def with_dead_columns():
    h = given()[0].copy()
    h[:, 40:300] = h[40:300] = 0
    return h


def uneven():
    size = np.logspace(-6, 6, COLS, dtype=np.float32)
    return given()[0] * size * size[:, None]


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q2_K", "IQ2_XS", "IQ3_S", "IQ4_XS"])
@pytest.mark.parametrize("make", [rank_one, with_dead_columns, uneven, lambda: np.zeros((COLS, COLS), np.float32)])
def test_an_h_that_says_little_gives_finite_weights_near_the_right_ones(name, make):
    """One token repeated, inputs that are always zero, inputs of very different sizes, no inputs."""
    h, qtype, w = make(), types[name], weights(**SIZE)
    with np.errstate(divide="raise", invalid="raise"):
        found = encoded(qtype, h)
    plain = encoding._plain(w, qtype, qtype.codec, np.ones(COLS, np.float32), name)
    after, before = (np.square(w - decoded(qtype, data)).mean() for data in (found.data, plain))
    assert after < 4 * before
    q = decoded(qtype, found.data)
    if h.any():
        assert loss(w, q, h) <= loss(w, decoded(qtype, plain), h)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_h_that_overflowed_keeps_the_ordinary_bytes_and_says_so(value):
    h = given()[0].copy()
    h[3, 3] = value
    found = encode_matrix(weights(**SIZE), types["Q4_K"], "w", factor(h), given()[1], given()[2])
    assert (found.tuned, found.kept) == (None, False)
    assert found.reason == "inputs are so large that their squares overflow"


def test_an_h_that_is_no_covariance_keeps_the_ordinary_bytes_and_says_so():
    h = -given()[0]
    h[np.diag_indices(COLS)] *= -1
    found = encode_matrix(weights(**SIZE), types["Q4_K"], "w", factor(-100 * h), given()[1], given()[2])
    assert not found.kept


def test_a_type_without_codes_gets_feedback_from_block_to_block(monkeypatch):
    monkeypatch.setattr(encoding, "chooser_of", lambda *args: None)
    found = encoded(types["Q4_0"])
    assert found.kept
    assert found.tuned < 0.95 * found.plain


def test_a_type_with_a_row_header_keeps_the_ordinary_bytes_and_says_so():
    qtype = toy.make_with_header()
    found = encoded(qtype)
    assert (found.data == quantreg.quantize(weights(**SIZE), qtype, given()[1])).all()
    assert (found.tuned, found.kept, found.reason) == (None, False, "the rows of TOY3R have a header")


def test_a_type_that_encodes_whole_rows_keeps_the_ordinary_bytes_and_says_so():
    class Whole(quantreg.PythonCodec):
        whole_rows = True

    qtype = toy.make(codec=Whole)
    found = encoded(qtype)
    assert (found.data == quantreg.quantize(weights(**SIZE), qtype, given()[1])).all()
    assert (found.tuned, found.kept, found.reason) == (None, False, "TOY3 encodes whole rows")


def test_a_numpy_type_of_a_plugin_gets_feedback():
    found = encoded(toy.make())
    assert found.kept
    assert found.tuned < 0.7 * found.plain


@every_type
def test_errors_that_are_sent_to_the_right_lower_the_loss_without_any_sweep(name):
    """The sweeps would hide a pass that sends nothing."""
    qtype, w = types[name], weights(**SIZE)
    h, importance, _ = given()
    plain = encoding._plain(w, qtype, qtype.codec, importance, name)
    found = encoded(qtype, sweeps=0)
    before, after = (loss(w, decoded(qtype, data), h) for data in (plain, found.data))
    assert after < max(0.8, LEFT.get(name, 0.0)) * before


def test_bytes_that_are_worse_on_other_tokens_are_not_kept():
    """H is that of other inputs than the tokens that decide: nothing can be learnt from it."""
    rng = np.random.default_rng(11)
    basis = np.linalg.qr(rng.standard_normal((COLS, COLS)))[0]
    seen, other = basis[: COLS // 2].astype(np.float32), basis[COLS // 2 :].astype(np.float32)
    h = 1000 * seen.T @ seen
    w, qtype = weights(**SIZE), types["Q4_K"]
    found = encode_matrix(w, qtype, "w", factor(h), np.ascontiguousarray(np.diagonal(h)), other)
    assert found.tuned > found.plain
    assert (found.kept, found.reason) == (False, "feedback did not help on other tokens")
    plain = encoding._plain(w, qtype, qtype.codec, np.ascontiguousarray(np.diagonal(h)), "w")
    assert (found.data == plain).all()


class Levels:
    """The nearest of 256 levels, which are the parameter of the tensor."""

    can_encode, has_scorer, whole_rows, built = True, False, False, ("python",)

    def __init__(self, levels=None):
        self.levels = levels

    def bind(self, parameters, context):
        return Levels(None if parameters is None else parameters["levels"])

    def encode_rows(self, x, out, importance=None, first_row=0):
        out[...] = np.abs(x[..., None] - self.levels).argmin(axis=-1)

    def decode_rows(self, data, out, stream=False):
        out[...] = self.levels[data]


def test_a_type_that_fits_its_levels_gets_feedback_on_them():
    qtype = quantreg.QuantType(
        "LEVELS", type_id=4300, block_size=32, type_size=32, codec=Levels,
        parameters=quantreg.Parameters({"levels": (256,)}, lambda samples, context: {}),
    )  # fmt: skip
    w = weights(**SIZE)
    # Uneven levels, so that another type's points would not do.
    levels = (np.sign(np.linspace(-1, 1, 256)) * np.linspace(-1, 1, 256) ** 2 * abs(w).max()).astype(np.float32)
    found = encoded(qtype, parameters={"levels": levels})
    assert found.kept
    assert found.tuned < 0.8 * found.plain
    q = levels[found.data]
    x = given()[2]
    assert found.tuned == pytest.approx(np.square(x @ (w - q).T).sum() / np.square(x @ w.T).sum(), rel=1e-3)
