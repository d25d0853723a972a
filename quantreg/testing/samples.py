"""The codec under test, and sample rows of weights for it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import quantreg
from quantreg.errors import CodecError
from quantreg.hookspecs import hookimpl
from quantreg.parameters import TensorContext
from quantreg.qtype import QuantType
from quantreg.registry import registry, types

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from quantreg.codec import RowCodec
    from quantreg.parameters import Fitted

__all__ = ["KINDS", "Subject", "bits_of", "make_rows"]

KINDS: tuple[str, ...] = (
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


def make_rows(kind: str, rows: int, cols: int, scale: float, seed: int) -> "NDArray[np.float32]":
    """Return float32 rows of shape (rows, cols) of one of KINDS.

    The values are about as large as ``scale``, except that "denormal" ones have a size of about 1e-39.
    """
    rng = np.random.default_rng(seed)
    shape = (rows, cols)
    makers: dict[str, Callable[[], NDArray[Any]]] = {
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
    }
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(makers[kind]() * scale, dtype=np.float32)


class Subject:
    """The codec under test: a QuantType, the name or id of a registered one, or a codec object.

    ``full`` asks the checks for more shapes, scales and seeds. ``golden`` is the path of the golden file, or None, and
    ``update_golden`` says whether to write it.
    """

    def __init__(
        self,
        codec_or_type: "QuantType | RowCodec | str | int",
        full: bool = False,
        golden: Path | None = None,
        update_golden: bool = False,
    ) -> None:
        self.qtype: QuantType = _type_of(codec_or_type)
        self.full: bool = full
        self.golden: Path | None = golden
        self.update_golden: bool = update_golden
        self.leaves_its_buffers: bool | None = None  # unknown until the check guard_pages has run
        self._parameters: Fitted | None = None
        self._codec: RowCodec | None = None

    @property
    def parameters(self) -> "Fitted | None":
        """The parameters of a type that cannot do without: those fitted to some normal rows, or set by `fitted`."""
        if self._parameters is None and self.qtype.parameters is not None and self.qtype.parameters.required:
            self._parameters = quantreg.fit(self.rows(rows=16, blocks=4), self.qtype)
        return self._parameters

    @property
    def codec(self) -> "RowCodec":
        """The codec of the type, which knows its parameters and a nameless tensor, if it wants to."""
        if self._codec is None:
            self._codec = self.qtype.codec_for(self.parameters, TensorContext(None, (4, self.cols(3)), expert=0))
        return self._codec

    @contextmanager
    def fitted(self, x: "NDArray[np.float32]") -> Iterator[None]:
        """Fit the parameters of a type that needs some to these rows, and use them inside a with statement."""
        before = self._parameters, self._codec
        if self.parameters is not None:
            self._parameters, self._codec = quantreg.fit(x, self.qtype), None
        try:
            yield
        finally:
            self._parameters, self._codec = before

    def cols(self, blocks: int) -> int:
        """Return the length of a row of this many blocks. Blocks of a single weight count as 32 weights each."""
        return blocks * self.qtype.block_size * (1 if self.qtype.block_size > 8 else 32)

    def rows(
        self, kind: str = "normal", rows: int = 4, blocks: int = 3, scale: float = 0.1, seed: int = 7
    ) -> "NDArray[np.float32]":
        """Return rows of weights (see `make_rows`) of this many blocks each."""
        return make_rows(kind, rows, self.cols(blocks), scale, seed)

    def columns(self, cols: int, seed: int = 8) -> "NDArray[np.float32]":
        """Return column statistics, float32 (cols,), as calibration gives them: positive, of very different size."""
        return (np.random.default_rng(seed).random(cols) ** 4 + 0.01).astype(np.float32)

    def importances(self, cols: int) -> "list[NDArray[np.float32] | None]":
        """Return the importance to test: None unless the type needs some, and columns if the type reads them."""
        found: list[NDArray[np.float32] | None] = [] if self.qtype.requires_importance else [None]
        return [*found, self.columns(cols)] if self.codec.has_scorer else found or [self.columns(cols)]

    def given(self, cols: int, importance: "NDArray[np.float32] | None" = None) -> "NDArray[np.float32] | None":
        """Return the importance to pass to the codec: ones instead of None if the type needs some."""
        if importance is None and self.qtype.requires_importance:
            return np.ones(cols, np.float32)
        return importance

    def encode(
        self,
        x: "NDArray[np.float32]",
        importance: "NDArray[np.float32] | None" = None,
        codec: "RowCodec | None" = None,
        fill: int = 0xAA,
    ) -> "NDArray[np.uint8]":
        """Encode x, float32 (rows, cols), and return uint8 (rows, bytes per row).

        ``codec`` replaces the codec under test. ``fill`` is in each byte of the output before the codec runs.
        """
        out = np.full((x.shape[0], self.qtype.row_bytes(x.shape[1])), fill, np.uint8)
        (codec or self.codec).encode_rows(x, out, self.given(x.shape[1], importance))
        return out

    def decode(
        self, data: "NDArray[np.uint8]", codec: "RowCodec | None" = None, fill: float = np.nan
    ) -> "NDArray[np.float32]":
        """Decode data, uint8 (rows, bytes per row), and return float32 (rows, cols). Arguments as in `encode`."""
        out = np.full((data.shape[0], self.qtype.row_weights(data.shape[1])), fill, np.float32)
        (codec or self.codec).decode_rows(data, out)
        return out

    def some_bytes(self, rows: int = 4, blocks: int = 3, seed: int = 9) -> "NDArray[np.uint8]":
        """Return uint8 (rows, bytes per row): encoded rows, or random bytes if the type cannot encode."""
        if self.codec.can_encode:
            return self.encode(self.rows("normal", rows, blocks))
        shape = (rows, self.qtype.row_bytes(self.cols(blocks)))
        return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)

    def levels(self) -> "dict[str, RowCodec]":
        """Return the codec for each CPU level that was built and that this machine supports, slowest level first."""
        from quantreg_kernels import usable_levels

        found: dict[str, RowCodec] = {}
        for level in usable_levels():
            with _environment("QUANTREG_CPU", level):
                try:
                    codec = self.qtype._load_codec()
                    bind = getattr(codec, "bind", None)
                    if bind is not None and self.parameters is not None:
                        codec = bind(self.parameters, TensorContext(None, (4, self.cols(3)), expert=0))
                except CodecError as error:
                    if "was not built" not in str(error):
                        raise
                    continue
            if codec.level == level:
                found[level] = codec
        return found

    @contextmanager
    def registered(self) -> Iterator[None]:
        """Register the type inside a with statement. Raise PluginError if another type has its name or id."""
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

    def __init__(self, qtype: QuantType) -> None:
        self.qtype = qtype

    @hookimpl
    def register_types(self, register: Callable[[QuantType], None]) -> None:
        register(self.qtype)


def _type_of(given: "QuantType | RowCodec | str | int") -> QuantType:
    """Return the QuantType of a name, an id, a QuantType or a codec object."""
    if isinstance(given, (QuantType, str, int)) or not hasattr(given, "encode_rows"):
        return types[given]
    known: QuantType | None = getattr(given, "qtype", None)
    if known is not None:
        return known
    layout = {key: getattr(given, key) for key in ("type_id", "block_size", "type_size", "row_header_size")}
    return QuantType(f"TYPE_{given.type_id}", codec=lambda: given, **layout)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable inside a with statement."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def bits_of(x: "ArrayLike") -> "NDArray[np.uint32]":
    """Return the bits of float32 values as uint32. They distinguish -0.0 from 0.0; every NaN has the same bits here."""
    x = np.ascontiguousarray(x, np.float32)
    return np.where(np.isnan(x), np.uint32(0x7FC00000), x.view(np.uint32))
