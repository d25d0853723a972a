"""Builds valid and invalid GGUF files byte by byte, without any code of quantreg, so that the two can be compared."""

import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)


def string(text) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def key(name, type_id, payload: bytes) -> bytes:
    return string(name) + struct.pack("<I", type_id) + payload


def u32(name, value) -> bytes:
    return key(name, U32, struct.pack("<I", value))


def text(name, value) -> bytes:
    return key(name, STRING, string(value))


def array(name, element_type, count, payload: bytes) -> bytes:
    return key(name, ARRAY, struct.pack("<IQ", element_type, count) + payload)


def tensor(name, dims, type_id=0, offset=0) -> bytes:
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset)


def gguf(keys=(), tensors=(), data=b"", *, version=3, n_keys=None, n_tensors=None, alignment=32) -> bytes:
    """Build a file from encoded keys and tensors. `data` follows at the next multiple of `alignment`."""
    counts = len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys
    head = b"".join([b"GGUF", struct.pack("<IQQ", version, *counts), *keys, *tensors])
    return head.ljust(-(-len(head) // alignment) * alignment, b"\0") + data


def small_model() -> bytes:
    """Build a file with keys of many types and two tensors: F32 of shape (2, 3) and Q8_0 of shape (32,)."""
    floats = struct.pack("<6f", *range(6)).ljust(32, b"\0")
    q8_0 = (struct.pack("<e", 0.5) + bytes(range(32))).ljust(64, b"\0")
    return gguf(
        [
            text("general.architecture", "llama"),
            u32("llama.block_count", 1),
            key("flag", BOOL, b"\1"),
            key("half", F32, struct.pack("<f", 0.5)),
            key("big", I64, struct.pack("<q", -(1 << 40))),
            array("tokenizer.ggml.tokens", STRING, 3, string("a") + string("") + string("é")),
            array("tokenizer.ggml.scores", F32, 3, struct.pack("<3f", 0, -1, 2)),
            array("flags", BOOL, 2, b"\0\1"),
            array("nothing", U16, 0, b""),
        ],
        [tensor("a.weight", (3, 2)), tensor("b.weight", (32,), 8, 32)],
        floats + q8_0,
    )


def shard(number, count=3, total=3, name=None, keys=()) -> bytes:
    """Build shard `number` (from 0) of `count`, with one F32 tensor. `total` counts the tensors of all shards."""
    split = [
        key("split.no", U16, struct.pack("<H", number)),
        key("split.count", U16, struct.pack("<H", count)),
        key("split.tensors.count", I32, struct.pack("<i", total)),
    ]
    return gguf([*keys, *split], [tensor(name or f"t{number}", (1,))], bytes(32))
