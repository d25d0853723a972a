"""What goes wrong while a plugin's code runs: the error names the tensor, the row, and the plugin's own line."""

import re
import sys

import numpy as np
import pytest
import small_model
import toy
from entries import installed

import quantreg
from quantreg import CodecError

X = small_model.noise(1, (8, 256))
COLUMNS = np.ones(256, np.float32)


def deep(rows):
    return deep(rows)


def out_of_memory(rows):
    raise MemoryError("Unable to allocate 8 EiB")


def wordless(rows):
    raise AssertionError


def unspeakable(rows):
    class UnspeakableError(Exception):
        def __str__(self):
            raise ValueError

    raise UnspeakableError


FAILURES = {
    "ZeroDivisionError: division by zero": lambda rows: 1 / 0,
    "SystemExit: 3": lambda rows: sys.exit(3),
    "RecursionError: maximum recursion depth exceeded": deep,
    "MemoryError: Unable to allocate": out_of_memory,
    "IndexError: index 999 is out of bounds": lambda rows: np.take(rows, 999, axis=1),
    "ModuleNotFoundError: No module named 'frob'": lambda rows: __import__("frob"),
    "AssertionError (": wordless,
    "UnspeakableError (": unspeakable,
}


@pytest.mark.parametrize("message", FAILURES)
@pytest.mark.parametrize("which", ["encode", "decode", "score"])
def test_whatever_a_function_raises_names_tensor_row_and_the_plugins_own_line(which, message, tmp_path):
    def fails(rows, *more):
        return FAILURES[message](rows)

    def call():
        if which == "decode":
            return quantreg.dequantize(quantreg.quantize(X, toy.make()), toy.make(decode=fails))
        return quantreg.quantize(X, toy.make(**{which: fails}), COLUMNS, tensor="blk.0.attn_q.weight")

    with pytest.raises(CodecError) as raised:
        call()
    said = str(raised.value)
    row = " at row 0 of the 8 rows given" if which == "decode" else " at row 0"
    assert said.startswith(f"{'' if which == 'decode' else 'blk.0.attn_q.weight: '}{which} of TOY3 failed{row}: ")
    assert message in said
    assert re.search(r"\(\S*test_plugin_faults\.py:\d+\)$", said)
    assert isinstance(raised.value.__cause__, CodecError)  # whose cause is the plugin's error


def test_ctrl_c_in_a_codec_stays_ctrl_c():
    def interrupted(rows, importance):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantreg.quantize(X, toy.make(encode=interrupted), threads=1)


def test_a_codec_of_ones_own_that_raises_anything_names_tensor_and_type():
    class Odd(quantreg.PythonCodec):
        def encode_rows(self, x, out, importance=None, first_row=0):
            raise KeyError("scale")

        def decode_rows(self, data, out, stream=False):
            raise ValueError("no such block")

    qtype = toy.make(codec=Odd)
    with pytest.raises(CodecError, match=r"^t: encoding TOY3 failed: KeyError: 'scale' \(\S*test_plugin_faults.py:\d+"):
        quantreg.quantize(X, qtype, tensor="t")
    with pytest.raises(CodecError, match=r"^decoding TOY3 failed: ValueError: no such block \("):
        quantreg.dequantize(np.zeros((2, 112), np.uint8), qtype)


def test_rows_that_fail_only_together_are_told():
    def together(rows, importance):
        return toy.encode(rows, importance) if len(rows) == 1 else rows.reshape(-1, 7)

    with pytest.raises(CodecError, match="failed for 8 rows, though not for any of them alone: ValueError: cannot res"):
        quantreg.quantize(X, toy.make(encode=together))


def test_a_loader_that_exits_is_told():
    def load():
        raise SystemExit("no licence")

    qtype = quantreg.QuantType("X", type_id=4300, block_size=32, type_size=14, codec=load)
    with pytest.raises(CodecError, match=r"the codec of X cannot be loaded: SystemExit: no licence \(.*py:\d+\)"):
        quantreg.quantize(X, qtype)


def test_a_file_whose_rows_cannot_be_decoded_names_the_tensor(tmp_path):
    with installed(register_types=lambda register: register(toy.make())):
        quantreg.write(tmp_path / "in.gguf", {"general.architecture": "llama"}, {"blk.0.attn_q.weight": X})
        quantreg.quantize_file(tmp_path / "in.gguf", tmp_path / "toy.gguf", "TOY3")
    broken = toy.make(decode=lambda blocks: 1 / 0)
    with (
        installed(register_types=lambda register: register(broken)),
        pytest.raises(CodecError, match=r"^blk.0.attn_q.weight: decode of TOY3 failed at row 0 of the 8 rows given"),
    ):
        quantreg.quantize_file(tmp_path / "toy.gguf", tmp_path / "f16.gguf", "F16", allow_requantize=True)
