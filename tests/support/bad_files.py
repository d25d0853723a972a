"""One or more files for every refusal: the number of the rule, the error code, and a function that writes the file.

The rules are numbered as in docs/bad-input.md. The files are built byte by byte, without any code of quantreg.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gguf_files as gf
from gguf_files import shard

__all__ = ["BAD_FILES", "BadFile"]

U64_MAX = (1 << 64) - 1


class BadFile(NamedTuple):
    """``write(folder)`` writes the file, and the shards that belong to it, and returns its path."""

    number: int
    code: str
    name: str
    write: Callable[[Path], Path]

    def __str__(self):
        return f"{self.number:02d} {self.code}: {self.name}"


BAD_FILES: list[BadFile] = []


def bad(number, code, name, data, size=None):
    """Add a file of these bytes. A hole, which takes no disk space, extends it to ``size`` bytes."""

    def write(folder):
        path = folder / "bad.gguf"
        with path.open("wb") as file:
            file.write(data)
            if size is not None:
                file.truncate(size)
        return path

    BAD_FILES.append(BadFile(number, code, name, write))


def bad_key(number, code, name, *keys, **options):
    bad(number, code, name, gf.gguf(keys), **options)


def bad_tensors(number, code, name, *tensors, data=bytes(1024), **options):
    infos = [t if isinstance(t, bytes) else gf.tensor(*t) for t in tensors]
    bad(number, code, name, gf.gguf((), infos, data), **options)


def bad_shards(number, code, name, shards, given=0):
    """Add a model of three shards. `shards` replaces some: number -> bytes, or None for a missing shard."""

    def write(folder):
        whole = {i: shard(i) for i in range(3)} | shards
        for i, data in whole.items():
            if data is not None:
                (folder / f"bad-{i + 1:05d}-of-00003.gguf").write_bytes(data)
        return folder / f"bad-{given + 1:05d}-of-00003.gguf"

    BAD_FILES.append(BadFile(number, code, name, write))


def u64(value):
    return struct.pack("<Q", value)


for length in (0, 3, 5, 23):
    bad(1, "too-short", f"{length} bytes", gf.gguf()[:length])

bad(2, "bad-magic", "a ZIP file", b"PK\3\4" + bytes(40))
bad(2, "bad-magic", "the magic of GGML", b"lmgg" + gf.gguf()[4:])
bad(2, "bad-magic", "a terabyte of zeros", b"", size=1 << 40)

for version in (0, 1, 4, 0xFFFFFFFF):
    bad(3, "bad-version", f"version {version}", gf.gguf(version=version))

for version in (2, 3):
    bad(4, "byte-swapped", f"big-endian version {version}", b"GGUF" + struct.pack(">IQQ", version, 0, 0))

for count in (10, 1 << 32, 1 << 63, U64_MAX):
    bad(5, "bad-count", f"{count} keys", gf.gguf(n_keys=count))
    bad(5, "bad-count", f"{count} tensors", gf.gguf(n_tensors=count))
bad(
    5,
    "bad-count",
    "more keys than the limit, in a file with room for them",
    gf.gguf(n_keys=(1 << 20) + 1),
    size=1 << 26,
)
bad(
    5,
    "bad-count",
    "more tensors than the limit, in a file with room for them",
    gf.gguf(n_tensors=(1 << 20) + 1),
    size=1 << 26,
)

for length in (100, 1 << 31, (1 << 63) - 8, 1 << 63, U64_MAX - 7, U64_MAX):
    bad_key(6, "truncated", f"a string of {length}", gf.key("k", gf.STRING, u64(length)))
    bad_key(6, "truncated", f"an array of {length} strings", gf.array("k", gf.STRING, length, b""))
    bad_key(6, "truncated", f"an array of a string of {length}", gf.array("k", gf.STRING, 1, u64(length)))
    bad_key(6, "truncated", f"an array of {length} f64", gf.array("k", gf.F64, length, b""))
    bad_key(6, "truncated", f"an array of {length} u8", gf.array("k", gf.U8, length, b""))
bad_key(6, "truncated", "a key of 100", u64(100) + bytes(20))
bad(6, "truncated", "the last key cut off", gf.gguf([gf.u32("k", 1)])[:39])
bad_key(6, "too-long", "a string of 2 GiB in a file that large", gf.key("k", gf.STRING, u64(1 << 31)), size=3 << 30)
bad_key(6, "too-long", "an array of 2 GiB in a file that large", gf.array("k", gf.U8, 1 << 31, b""), size=3 << 30)

for kind in (13, 255, 0xFFFFFFFF):
    bad_key(7, "bad-value-type", f"a value of type {kind}", gf.key("k", kind, bytes(16)))
    bad_key(7, "bad-value-type", f"an array of type {kind}", gf.array("k", kind, 1, bytes(16)))

bad_key(8, "nested-array", "an array of an array", gf.array("k", gf.ARRAY, 1, bytes(16)))
deep = b"".join(struct.pack("<IQ", gf.ARRAY, 1) for _ in range(100_000))
bad_key(8, "nested-array", "arrays 100,000 deep", gf.key("k", gf.ARRAY, deep))

bad_key(9, "bad-bool", "a bool of 2", gf.key("k", gf.BOOL, b"\2"))
bad_key(9, "bad-bool", "an array of bools with 255", gf.array("k", gf.BOOL, 4, b"\0\1\1\xff"))

bad_key(10, "empty-key", "an empty key", gf.u32("", 1))
bad(10, "empty-key", "a million empty keys", gf.gguf(n_keys=1 << 20), size=1 << 26)
bad_key(10, "name-too-long", "a key of 65,536 bytes", gf.u32("k" * 65536, 1))
bad_key(10, "name-too-long", "a key as long as the memory", u64(U64_MAX) + bytes(20))
bad_key(10, "duplicate-key", "a key twice", gf.u32("k", 1), gf.u32("k", 1))
bad(10, "duplicate-key", "a key 50,000 times", gf.gguf([gf.key("k", gf.U8, b"\1")] * 50_000))

for raw, code in ((b"a\xff", "bad-utf8"), (b"\xed\xa0\x80", "bad-utf8"), (b"a\0b", "nul-byte")):
    bad_key(11, code, f"the key {raw}", gf.u32(raw, 1))
    bad_tensors(11, code, f"the tensor {raw}", (raw, (1,)))

for value in (0, 3, 48, 1 << 21, 0xFFFFFFFF):
    bad_key(12, "bad-alignment", f"alignment {value}", gf.u32("general.alignment", value))
bad_key(12, "bad-alignment", "alignment as u64", gf.key("general.alignment", gf.U64, u64(32)))
bad_key(12, "bad-alignment", "alignment as string", gf.text("general.alignment", "32"))

bad_tensors(13, "empty-tensor-name", "an empty tensor name", ("", (1,)))
bad(13, "empty-tensor-name", "a million empty tensor names", gf.gguf(n_tensors=1 << 20), size=1 << 26)
bad_tensors(13, "duplicate-tensor", "a tensor twice", ("a", (1,)), ("a", (1,), 0, 32))
many = [gf.tensor("a", (1,))] * 50_000
bad_tensors(13, "duplicate-tensor", "a tensor 50,000 times", *many)
bad_tensors(13, "name-too-long", "a tensor name of 65,536 bytes", ("a" * 65536, (1,)))

bad_tensors(14, "too-many-dims", "9 dimensions", ("a", (1,) * 9))
bad_tensors(14, "too-many-dims", "4,294,967,295 dimensions", gf.string("a") + b"\xff" * 4 + bytes(64))

for dims, type_id, name in (
    ((1 << 63,), 0, "a dimension of 2^63"),
    ((U64_MAX,), 0, "a dimension of 2^64 - 1"),
    ((1 << 32, 1 << 32), 0, "elements that wrap to 0"),
    ((1 << 62, 1 << 62, 0), 0, "elements hidden by a zero"),
    ((1 << 61,), 0, "bytes"),
    ((1 << 60, 8), 24, "bytes of I8"),
    (((1 << 63) - 1,), 24, "the padding"),
):
    bad_tensors(15, "size-overflow", name, ("a", dims, type_id))

for type_id in (4, 5, 31, 32, 33, 36, 37, 38):
    bad_tensors(16, "removed-type", f"type {type_id}", ("a", (32,), type_id))

for type_id in (1 << 31, (1 << 32) - 1):
    bad_tensors(16, "bad-type", f"type {type_id - (1 << 32)}", ("a", (32,), type_id))

bad_tensors(17, "partial-block", "33 columns of Q8_0", ("a", (33,), 8))
bad_tensors(17, "partial-block", "a scalar of Q4_K", ("a", (), 12))

bad_tensors(18, "tensor-misaligned", "offset 4", ("a", (1,), 0, 4))
for offset in (1024, 1 << 62, 1 << 63, U64_MAX - 31):
    bad_tensors(18, "tensor-past-end", f"offset {offset}", ("a", (1,), 0, offset))
bad_tensors(18, "tensor-past-end", "an end that wraps", ("o", (1,), 999), ("a", (0,), 0, U64_MAX - 31))
bad_tensors(18, "tensor-past-end", "a tensor of unknown type at the end of 64 bits", ("o", (1,), 999, U64_MAX - 31))
bad_tensors(18, "tensor-past-end", "4 bytes more than the file", ("a", (257,)))
bad_tensors(18, "tensor-past-end", "a terabyte in a kilobyte", ("a", (1 << 38,)))
bad_tensors(18, "tensor-overlap", "a tensor that overlaps another", ("a", (9,)), ("b", (1,), 0, 32))
overlapping = (("o", (1,), 999), ("b", (1,), 0, 64), ("c", (1,), 0, 32))
bad_tensors(18, "tensor-overlap", "a tensor that overlaps one of unknown type", *overlapping)

bad_tensors(19, "tensor-gap", "a gap before the first", ("a", (1,), 0, 32))
bad_tensors(19, "tensor-gap", "a gap between two", ("a", (1,)), ("b", (1,), 0, 64))
bad_tensors(19, "tensor-order", "the second before the first", ("a", (1,), 0, 32), ("b", (1,), 0, 0))

bad_shards(21, "split-missing", "the second shard is missing", {1: None})
bad_shards(21, "split-missing", "the first shard is missing", {0: None}, given=2)
bad_shards(21, "split-numbers", "a number twice", {1: shard(2)})
bad_shards(21, "split-numbers", "another count", {1: shard(1, count=4)})
bad_shards(21, "split-numbers", "no numbers", {1: gf.gguf([], [gf.tensor("t1", (1,))], bytes(32))})
bad_shards(21, "split-numbers", "a count that is a string", {0: gf.gguf([gf.text("split.count", "3")])})
bad_shards(21, "split-numbers", "shard 3 of 3, counted from 0", {0: shard(3)})
bad(21, "split-numbers", "a file name without numbers", shard(0))
bad_shards(21, "split-foreign", "another architecture", {1: shard(1, keys=[gf.text("general.architecture", "x")])})
bad_shards(21, "split-foreign", "another total", {1: shard(1, total=4)})
bad_shards(21, "split-foreign", "a tensor in two shards", {2: shard(2, name="t0")})
bad_shards(21, "split-foreign", "fewer tensors than the total", {i: shard(i, total=9) for i in range(3)})

for array in ("tokens", "scores", "merges"):
    bad_key(22, "bad-array-type", f"{array} of u32", gf.array(f"tokenizer.ggml.{array}", gf.U32, 1, bytes(4)))
    bad_key(22, "bad-array-type", f"{array} that is a string", gf.text(f"tokenizer.ggml.{array}", "a"))

# These files can be opened, but `validate` reports them and quantizing refuses them.
for value in (float("nan"), float("inf"), float("-inf")):
    block = struct.pack("<e", value).ljust(64, b"\1")
    bad_tensors(23, "non-finite", f"a scale of {value}", ("a", (32,), 8), data=block)
