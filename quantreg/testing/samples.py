"""The codec under test, and rows of weights to try it on."""

import os
from contextlib import contextmanager

import numpy as np

from quantreg.errors import CodecError
from quantreg.hookspecs import hookimpl
from quantreg.qtype import QuantType
from quantreg.registry import registry, types

__all__ = ["KINDS", "Subject", "bits_of", "make_rows"]

KINDS = (
    "normal",
    "heavy",
    "uniform",
    "positive",
    "negative",
    "sparse",
    "lattice",
    "constant",
    "zero",
    "denormal",
    "ramp",
)


def make_rows(kind, rows, cols, scale, seed):
    """float32 (rows, cols) of one of KINDS, about `scale` in size; "denormal" whatever the scale."""
    rng = np.random.default_rng(seed)
    shape = (rows, cols)
    x = {
        "normal": lambda: rng.standard_normal(shape),
        "heavy": lambda: rng.standard_t(2, shape),
        "uniform": lambda: rng.uniform(-1, 1, shape),
        "positive": lambda: np.abs(rng.standard_normal(shape)) + 0.1,
        "negative": lambda: -np.abs(rng.standard_normal(shape)) - 0.1,
        "sparse": lambda: rng.standard_normal(shape) * (rng.random(shape) < 0.03),
        "lattice": lambda: rng.integers(-8, 8, shape) / 8.0,
        "constant": lambda: np.broadcast_to(rng.standard_normal((rows, 1)), shape),
        "zero": lambda: np.zeros(shape),
        "denormal": lambda: rng.standard_normal(shape) * 1e-39 / scale,
        "ramp": lambda: np.broadcast_to(np.linspace(-1, 1, cols), shape),
    }[kind]()
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(x * scale, dtype=np.float32)


class Subject:
    """The codec under test. ``full`` says whether the checks are to be thorough."""

    def __init__(self, codec_or_type, full=False, golden=None, update_golden=False):
        self.qtype = _type_of(codec_or_type)
        self.full, self.golden, self.update_golden = full, golden, update_golden

    @property
    def codec(self):
        return self.qtype.codec

    def cols(self, blocks) -> int:
        """A row length of that many blocks; of 32 weights each where a block is a single weight."""
        return blocks * self.qtype.block_size * (1 if self.qtype.block_size > 8 else 32)

    def rows(self, kind="normal", rows=4, blocks=3, scale=0.1, seed=7):
        return make_rows(kind, rows, self.cols(blocks), scale, seed)

    def columns(self, cols, seed=8):
        """Column statistics as calibration gives them: positive, of very different size."""
        return (np.random.default_rng(seed).random(cols) ** 4 + 0.01).astype(np.float32)

    def importances(self, cols):
        """Every kind of importance to try: None where the type can do without, and columns where it reads them."""
        found = [] if self.qtype.requires_importance else [None]
        return [*found, self.columns(cols)] if self.codec.has_scorer else found or [self.columns(cols)]

    def given(self, cols, importance=None):
        """The importance to hand over: ones where the type needs one and there is none."""
        if importance is None and self.qtype.requires_importance:
            return np.ones(cols, np.float32)
        return importance

    def encode(self, x, importance=None, codec=None, fill=0xAA):
        """uint8 (rows, row_bytes), by the codec itself."""
        out = np.full((x.shape[0], self.qtype.row_bytes(x.shape[1])), fill, np.uint8)
        (codec or self.codec).encode_rows(x, out, self.given(x.shape[1], importance))
        return out

    def decode(self, data, codec=None, fill=np.nan):
        out = np.full((data.shape[0], self.qtype.row_weights(data.shape[1])), fill, np.float32)
        (codec or self.codec).decode_rows(data, out)
        return out

    def some_bytes(self, rows=4, blocks=3, seed=9):
        """uint8 (rows, row_bytes): encoded rows, or random bytes where the type cannot encode."""
        if self.codec.can_encode:
            return self.encode(self.rows("normal", rows, blocks))
        shape = (rows, self.qtype.row_bytes(self.cols(blocks)))
        return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)

    def levels(self):
        """CPU level -> codec, for each that was built and that this machine runs."""
        from quantreg_kernels import usable_levels

        found = {}
        for level in usable_levels():
            with _environment("QUANTREG_CPU", level):
                try:
                    codec = self.qtype._load_codec()
                except CodecError as error:
                    if "was not built" not in str(error):
                        raise
                    continue
            if codec.level == level:
                found[level] = codec
        return found

    @contextmanager
    def registered(self):
        """The type can be found by name and id inside; PluginError if another has them."""
        if types.get(self.qtype.name) is self.qtype:
            yield
            return
        plugin = _Plugin(self.qtype)
        registry.register_plugin(plugin)
        try:
            yield
        finally:
            registry.unregister_plugin(plugin)


class _Plugin:
    __distribution__ = "the codec under test"

    def __init__(self, qtype):
        self.qtype = qtype

    @hookimpl
    def register_types(self, register):
        register(self.qtype)


def _type_of(given):
    """The QuantType of a name, an id, a QuantType, or a codec object."""
    if not hasattr(given, "encode_rows"):
        return types[given]
    known = getattr(given, "qtype", None)
    if known is not None:
        return known
    layout = {key: getattr(given, key) for key in ("type_id", "block_size", "type_size", "row_header_size")}
    return QuantType(f"TYPE_{given.type_id}", codec=lambda: given, **layout)


@contextmanager
def _environment(name, value):
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def bits_of(x):
    """float32 as integers, so that -0.0 differs from 0.0; every NaN counts as the same."""
    x = np.ascontiguousarray(x, np.float32)
    return np.where(np.isnan(x), np.uint32(0x7FC00000), x.view(np.uint32))
