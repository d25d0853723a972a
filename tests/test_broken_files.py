"""Generated files with any keys and tensors, sound or with one to three broken fields: only our errors escape."""

import struct

import gguf_files as gf
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from structured import ELEMENTS, LAYOUTS, Key, Tensor, breakages, build

import quantreg
from quantreg import GGUFFormatError, QuantregError, UnknownTypeError, cli

NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20)
INTEGERS = {kind: form for kind, form in ELEMENTS.items() if form and form not in "fd?"}
OPAQUE = 999  # an unknown type


def values(kind):
    """A strategy for values of an element type."""
    if kind == gf.STRING:
        return st.text(st.characters(codec="utf-8"), max_size=9)
    if kind == gf.BOOL:
        return st.booleans()
    if kind in INTEGERS:
        bits = 8 * struct.calcsize(INTEGERS[kind])
        signed = INTEGERS[kind].islower()
        return st.integers(-(1 << bits - 1) if signed else 0, (1 << (bits - signed)) - 1)
    return st.floats(width=32 if kind == gf.F32 else 64, allow_nan=False)


@st.composite
def keys(draw):
    kind = draw(st.sampled_from(list(ELEMENTS)))
    return Key(f"k.{draw(NAMES)}", kind, draw(values(kind) | st.lists(values(kind), max_size=4)))


@st.composite
def tensors(draw):
    type_id = draw(st.sampled_from([*LAYOUTS, OPAQUE]))
    block, size = LAYOUTS.get(type_id, (1, 3))
    blocks, more = draw(st.integers(0, 2)), draw(st.lists(st.integers(0, 3), max_size=3))
    nbytes = blocks * size * int(np.prod(more))
    data = (
        draw(st.sampled_from([b"\0", b"\x3c"])) * nbytes
        if draw(st.booleans())
        else draw(st.randoms()).randbytes(nbytes)
    )
    return Tensor(draw(NAMES), (blocks * block, *more), type_id, data)


@st.composite
def structured_files(draw):
    """Draw (keys, tensors, Structured)."""
    alignment = draw(st.sampled_from([32, 32, 1, 8, 64, 4096]))
    found = [Key("general.architecture", gf.STRING, "llama")]
    found += [Key("general.alignment", gf.U32, alignment)] if alignment != 32 else []
    found += draw(st.lists(keys(), max_size=5, unique_by=lambda key: key.name))
    named = draw(st.lists(tensors(), max_size=4, unique_by=lambda tensor: tensor.name))
    return found, named, build(found, named, alignment=alignment, version=draw(st.sampled_from([2, 3])))


@st.composite
def broken_files(draw):
    """Draw a file with one to three broken fields. Sometimes its end is missing, or extra bytes follow."""
    _, _, (raw, fields) = draw(structured_files())
    raw = bytearray(raw)
    for offset, width in draw(st.lists(st.sampled_from(fields), min_size=1, max_size=3)):
        raw[offset : offset + width] = draw(st.sampled_from(breakages(width)))
    cut = draw(st.sampled_from([0, 0, 0, 1, 40, len(raw) // 2]))
    return bytes(raw[: len(raw) - cut]) + draw(st.sampled_from([b"", b"", b"tail"]))


@given(structured_files())
def test_a_sound_file_is_read_as_it_was_built(tmp_path_factory, file):
    keys, tensors, (raw, _) = file
    path = tmp_path_factory.mktemp("sound") / "in.gguf"
    path.write_bytes(raw)
    with quantreg.open(path) as model:
        assert list(model.metadata.items()) == [(key.name, key.value) for key in keys]
        assert [(name, t.shape, t.type_id) for name, t in model.items()] == [
            (name, dims[::-1], type_id) for name, dims, type_id, _ in tensors
        ]
        for tensor in tensors:
            data = model[tensor.name].data.tobytes()
            assert data == tensor.data or (tensor.type_id == OPAQUE and data.startswith(tensor.data))


def everything(path):
    """Read everything in a file. Raises GGUFFormatError."""
    with quantreg.open(path) as model:
        dict(model.metadata)
        for tensor in model.values():
            try:
                assert tensor.dequantize().shape == tensor.shape
            except UnknownTypeError:
                assert quantreg.gguf.layout_of(tensor.type_id) is None


@settings(max_examples=120)
@given(broken_files())
def test_broken_files_raise_only_format_errors(tmp_path_factory, raw):
    folder = tmp_path_factory.mktemp("broken")
    path, out = folder / "in.gguf", folder / "out.gguf"
    path.write_bytes(raw)
    try:
        everything(path)
    except GGUFFormatError:
        sound = False
    else:
        sound = True
    for action in (
        lambda: quantreg.plan(path, "Q4_K_M", allow_requantize=True),
        lambda: quantreg.quantize_file(path, out, "Q4_K_M", allow_requantize=True, threads=1),
        lambda: quantreg.validate(path, threads=1),
        lambda: quantreg.hash_tensors(path, threads=1),
        lambda: quantreg.export(path, folder / "out.safetensors", threads=1),
        lambda: quantreg.merge(path, folder / "merged.gguf"),
    ):
        try:
            action()
        except GGUFFormatError:
            assert not sound
        except QuantregError:
            assert sound
    if sound:
        with quantreg.open(path) as model:
            opaque = {info.name for header in model.headers for info in header.tensors if not info.known}
        same, found = (quantreg.hash_tensors(p, threads=1) for p in (path, folder / "merged.gguf"))
        # the bytes of an unknown type extend to the next tensor, so they include padding
        assert {name: same[name] for name in same if name not in opaque} == {
            name: found[name] for name in found if name not in opaque
        }


@settings(max_examples=20)
@given(broken_files())
def test_the_command_line_survives_broken_files(tmp_path_factory, raw):
    folder = tmp_path_factory.mktemp("broken")
    path = folder / "in.gguf"
    path.write_bytes(raw)
    for words in (["inspect"], ["validate"], ["hash"], ["metadata", "get"]):
        assert cli.main([*words, str(path)]) in (0, 1)
    assert cli.main(["quantize", "--threads", "1", str(path), str(folder / "out.gguf"), "Q8_0"]) in (0, 1)
