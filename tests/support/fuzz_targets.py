"""The targets of fuzz.py. Each is made once with its own folder, then called once per case with a random generator.

A call returns whether the input was accepted. A documented error is a refusal; any other error is a finding.
"""

import contextlib
import io
import json
import struct
from pathlib import Path

import gguf_files as gf
import numpy as np
from fuzz_folders import Folders
from mutations import damage, damage_json
from structured import ELEMENTS, LAYOUTS, Key, Tensor, build

import quantreg
from quantreg import GGUFFormatError, ImportanceError, ImportanceMatrix, OutputError, QuantregError, cli, types
from quantreg.events import TensorDone
from quantreg.gguf import read_header
from quantreg.jobs import slabs
from quantreg.registry import registry
from quantreg.testing.guards import GuardedArrays
from quantreg.testing.samples import Subject

__all__ = ["TARGETS"]


def random_file(random):
    """Build a sound file with up to six keys and four tensors of any types."""
    keys, alignment = [Key("general.architecture", gf.STRING, "llama")], 32
    if random.randrange(3) == 0:
        alignment = random.choice((1, 8, 64, 128))
        keys.append(Key("general.alignment", gf.U32, alignment))
    for i in range(random.randrange(5)):
        kind = random.choice(list(ELEMENTS))
        many = [random_value(random, kind) for _ in range(random.randrange(4))]
        keys.append(Key(f"key.{i}", kind, many if i % 2 else random_value(random, kind)))
    tensors = []
    for i in range(random.randrange(5)):
        type_id = random.choice([*LAYOUTS, 999])
        block, size = LAYOUTS.get(type_id, (1, 3))
        blocks, rows = random.randrange(1, 3), random.choice((1, 1, 2, 3))
        dims = (blocks * block, rows)[: 1 if rows == 1 else 2] + (1,) * random.randrange(2)
        tensors.append(Tensor(f"blk.{i}.attn_q.weight", dims, type_id, random.randbytes(blocks * size * rows)))
    return build(keys, tensors, alignment=alignment)


def random_value(random, kind):
    if kind == gf.STRING:
        return "wörd" * random.randrange(3)
    if kind == gf.BOOL:
        return bool(random.randrange(2))
    form = f"<{ELEMENTS[kind]}"
    return struct.unpack(form, random.randbytes(struct.calcsize(form)))[0]


class Header:
    """Reads a damaged header and decodes all its metadata."""

    def __init__(self, folder):
        from random import Random

        self.files = [random_file(Random(i)) for i in range(64)] + [build([], [])]
        self.others = [file.raw for file in self.files]

    def damaged(self, random):
        file = random.choice(self.files)
        return damage(random, file.raw, file.fields, self.others)

    def __call__(self, random):
        raw = self.damaged(random)
        try:
            header = read_header(raw)
        except GGUFFormatError as error:
            message = str(error)
        else:
            message = None
        if message is not None:
            assert "\n" not in message
            return False
        dict(header.metadata)
        for info in header.tensors:
            assert header.data_offset + info.offset + info.nbytes <= len(raw) or not info.nbytes
        return True


class File(Header):
    """Does the same with a file: opens it, decodes every tensor, validates, merges, exports, quantizes and shows it."""

    def __init__(self, folder):
        super().__init__(folder)
        self.path, self.out = folder / "in.gguf", folder / "out.gguf"

    def __call__(self, random):
        self.path.write_bytes(self.damaged(random))
        try:
            model = quantreg.open(self.path)
        except GGUFFormatError:
            for action in (self.quantize, lambda _: quantreg.plan(self.path, "Q8_0")):
                try:
                    action(random)
                except GGUFFormatError:
                    continue
                raise AssertionError("a file that `open` refuses was accepted") from None
            return False
        with model:
            dict(model.metadata)
            for tensor in model.values():
                with contextlib.suppress(quantreg.UnknownTypeError):
                    tensor.dequantize()
        for action in (
            lambda: quantreg.validate(self.path, threads=1),
            lambda: quantreg.merge(self.path, self.out, force=True),
            lambda: quantreg.export(self.path, self.out, threads=1, force=True),
            lambda: self.quantize(random),
        ):
            with contextlib.suppress(QuantregError):
                action()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert cli.main(["inspect", str(self.path)]) == 0
        return True

    def quantize(self, random):
        name = random.choice(("Q8_0", "Q4_K_M", "F16", "IQ4_XS"))
        quantreg.quantize_file(self.path, self.out, name, allow_requantize=True, threads=1, force=True)


class Blocks:
    """Decodes arbitrary bytes at every CPU level, between forbidden pages: all levels must return the same floats."""

    ROWS, BLOCKS = 3, 3

    def __init__(self, folder):
        subjects = map(Subject, self.names())
        self.subjects = [(subject, list(subject.levels().values())) for subject in subjects]
        self.memory = {}

    def names(self):
        return [name for name in types if registry.owner(types[name]).distribution == "quantreg"]

    def buffers(self, subject, random):
        """Return buffers for bytes and floats of a random shape, next to a forbidden page on a random side."""
        shape = random.randrange(1, self.ROWS + 1), random.randrange(1, self.BLOCKS + 1)
        key = subject.qtype.name, random.choice(("front", "back")), *shape
        if key not in self.memory:
            arrays = GuardedArrays(key[1])
            cols = subject.cols(shape[1])
            data = arrays.empty((shape[0], subject.qtype.row_bytes(cols)), np.uint8)
            self.memory[key] = data, arrays.empty((shape[0], cols), np.float32), arrays
        return self.memory[key]

    def __call__(self, random):
        subject, codecs = random.choice(self.subjects)
        qtype = subject.qtype
        data, floats, arrays = self.buffers(subject, random)
        raw = random.randbytes(data.size)
        if random.randrange(3) == 0:
            raw = damage(random, bytes([random.choice((0, 1, 0x7F, 0x80, 0xFF))]) * data.size, others=[raw])
            raw = raw.ljust(data.size, b"\xff")[: data.size]
        data.reshape(-1)[:] = np.frombuffer(raw, np.uint8)
        first = None
        for codec in codecs:
            floats.view(np.uint32)[...] = 0xA5A5A5A5
            codec.decode_rows(data, floats, bool(random.randrange(2)))  # through the caches or around them
            found = floats.tobytes()
            if first is None:
                first = found
            assert same_floats(first, found), (
                f"{qtype.name}: {codec.level} and {codecs[0].level} decode to different floats"
            )
        assert data.tobytes() == raw, f"{qtype.name}: decoding changed its input"
        arrays.check()
        return True


def same_floats(a, b):
    """Whether all floats have equal bits or are both NaN."""
    if a == b:
        return True
    x, y = np.frombuffer(a, np.float32), np.frombuffer(b, np.float32)
    return bool(((x.view(np.uint32) == y.view(np.uint32)) | (np.isnan(x) & np.isnan(y))).all())


class Weights(Blocks):
    """Encodes arbitrary floats at every CPU level, between forbidden pages: all must give the same bytes or refusal."""

    ROWS, BLOCKS = 2, 2
    CHANGES = (0, 0x80000000, 1, 0x007FFFFF, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F800000, 0x7F800000, 0x7FC00000, 0x477FE000)

    def names(self):
        return [name for name in super().names() if types[name].codec.can_encode]

    def __call__(self, random):
        subject, codecs = random.choice(self.subjects)
        qtype = subject.qtype
        data, floats, arrays = self.buffers(subject, random)
        bits = np.frombuffer(random.randbytes(floats.nbytes), np.uint32).copy()
        low = random.randrange(256)  # limit the range of exponents, so that many rows are finite
        exponent = low + (bits >> 23) % random.choice((1, 4, 16, 64))
        bits = (bits & 0x807FFFFF) | (np.minimum(exponent, 254).astype(np.uint32) << 23)
        for _ in range(random.randrange(4)):
            at = random.randrange(bits.size)
            bits[at : at + random.choice((1, 16, 256))] = random.choice(self.CHANGES)
        floats.reshape(-1).view(np.uint32)[:] = bits
        given = None
        if qtype.requires_importance or random.randrange(2):
            given = np.abs(np.frombuffer(random.randbytes(4 * floats.shape[1]), np.int32).astype(np.float32))
            given *= np.float32(10.0) ** random.randrange(-40, 20)
        first = None
        for codec in codecs:
            data[...] = 0xA5
            try:
                codec.encode_rows(floats, data, given)
                found = data.tobytes()
            except ValueError as error:
                found = error.row, error.column
            if first is None:
                first = found
            assert found == first, f"{qtype.name}: {codec.level} and {codecs[0].level} encode differently"
        assert (floats.reshape(-1).view(np.uint32) == bits).all(), f"{qtype.name}: encoding changed its input"
        arrays.check()
        return isinstance(first, bytes)


class Imatrix:
    """Reads a damaged importance matrix, legacy or GGUF, and all its rows."""

    def __init__(self, folder):
        self.path = folder / "imatrix"
        entries = [("blk.0.attn_q.weight", 2, 64), ("blk.0.ffn_gate_exps.weight", 8, 128), ("output.weight", 1, 32)]
        legacy, fields = bytearray(struct.pack("<i", len(entries))), [(0, 4)]
        for name, calls, n in entries:
            for number in (len(name), None, calls, n):
                if number is None:
                    legacy += name.encode()
                else:
                    fields.append((len(legacy), 4))
                    legacy += struct.pack("<i", number)
            legacy += np.arange(n, dtype="<f4").tobytes()
        fields += [(len(legacy), 4), (len(legacy) + 4, 4)]
        legacy += struct.pack("<ii", 5, 4) + b"text"
        keys = [
            Key("general.type", gf.STRING, "imatrix"), Key("imatrix.datasets", gf.STRING, ["text"]),
            Key("imatrix.chunk_count", gf.U32, 5), Key("imatrix.chunk_size", gf.U32, 512),
        ]  # fmt: skip
        tensors = []
        for name, experts, n in entries:
            sums, counts = np.arange(n, dtype="<f4").tobytes(), np.ones(experts, "<f4").tobytes()
            tensors.append(Tensor(f"{name}.in_sum2", (n // experts, experts), 0, sums))
            tensors.append(Tensor(f"{name}.counts", (1, experts), 0, counts))
        whole = build(keys, tensors)
        floats = [(i, 4) for i in range(len(whole.raw) - 200, len(whole.raw) - 4, 4)]
        self.files = [(bytes(legacy), fields), (whole.raw, whole.fields), (whole.raw, floats)]

    def __call__(self, random):
        self.path.write_bytes(damage(random, *random.choice(self.files)))
        try:
            matrix = ImportanceMatrix.read(self.path)
            for name in matrix.entries:
                row = matrix.row(name, matrix.n_values(name))
                assert np.isfinite(row).all()
                assert (row >= 0).all()
        except ImportanceError:
            return False
        return True


MODEL = [
    Tensor(name, dims, 1, (np.arange(np.prod(dims)) % 97 / 97 - 0.5).astype("<f2").tobytes())
    for name, dims in (("a.weight", (256, 3)), ("blk.0.attn_q.weight", (256, 5)), ("blk.0.ffn_up.weight", (64, 9)))
]


def write_small(path):
    path.write_bytes(build([Key("general.architecture", gf.STRING, "llama")], MODEL).raw)


class Plan:
    """Reads a damaged plan file and, if it is accepted, carries it out."""

    def __init__(self, folder):
        self.model, self.path, self.out = folder / "in.gguf", folder / "plan.json", folder / "out.gguf"
        write_small(self.model)
        quantreg.write_plan(quantreg.plan(self.model, "Q4_K_M"), self.path)
        self.data = json.loads(self.path.read_text())

    def __call__(self, random):
        self.path.write_bytes(damage_json(random, self.data))
        try:
            plan = quantreg.read_plan(self.path, self.model)
            quantreg.quantize_file(self.model, self.out, plan, threads=1, force=True)
        except (QuantregError, OSError):  # OSError: the plan may name an imatrix that does not exist
            return False
        with quantreg.open(self.out):
            return True


class Safetensors:
    """Quantizes a damaged safetensors file or index, or one with damaged names."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "out.gguf"
        self.head, self.data = {"__metadata__": {"format": "pt"}}, b""
        for name, dims, _, data in MODEL:
            place = [len(self.data), len(self.data) + len(data)]
            self.head[name] = {"dtype": "F16", "shape": list(dims[::-1]), "data_offsets": place}
            self.data += data
        self.index = {"metadata": {}, "weight_map": {name: "m.safetensors" for name, *_ in MODEL}}
        self.names = {name: f"new.{name}" for name, *_ in MODEL} | {"left": None}

    def __call__(self, random):
        which = random.randrange(4)
        head = damage_json(random, self.head) if which < 2 else json.dumps(self.head).encode()
        raw = len(head).to_bytes(8, "little") + head + self.data
        if which == 1:
            raw = damage(random, raw, [(0, 8)])
        (self.folder / "m.safetensors").write_bytes(raw)
        index, names = self.folder / "m.safetensors.index.json", self.folder / "names.json"
        index.write_bytes(damage_json(random, self.index) if which == 2 else json.dumps(self.index).encode())
        names.write_bytes(damage_json(random, self.names) if which == 3 else json.dumps(self.names).encode())
        source = self.folder / "m.safetensors" if which < 2 else index
        try:
            quantreg.quantize_file(
                source, self.out, "Q8_0", names=names if which == 3 else None, threads=1, force=True,
                override_kv=[("general.architecture", "llama")],
            )  # fmt: skip
        except QuantregError:
            return False
        with quantreg.open(self.out):
            return True


class Journal:
    """Resumes from a damaged journal or partial file: the run is refused, or its result equals an undisturbed run's."""

    def __init__(self, folder):
        slabs.SLAB_WEIGHTS = 512
        self.model, self.out, whole = folder / "in.gguf", folder / "out.gguf", folder / "whole.gguf"
        write_small(self.model)
        quantreg.quantize_file(self.model, whole, "Q4_K_M", threads=1)
        self.whole = whole.read_bytes()
        self.partial, self.journal = Path(f"{self.out}.partial"), Path(f"{self.out}.partial.journal")

        def stop(event):
            if isinstance(event, TensorDone) and event.index == 2:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            quantreg.quantize_file(self.model, self.out, "Q4_K_M", resumable=True, progress=stop, threads=1)
        self.before = self.partial.read_bytes(), self.journal.read_bytes()

    def __call__(self, random):
        partial, journal = self.before
        which = random.randrange(5)
        if which < 3:
            lines = [json.loads(line) for line in journal.splitlines()]
            at = random.randrange(len(lines))
            if which == 0:
                journal = damage(random, journal)
            elif which == 1:
                texts = [json.dumps(line).encode() for line in lines]
                texts[at] = damage_json(random, lines[at])
                journal = b"\n".join(texts) + b"\n"
            else:
                random.shuffle(lines)
                journal = b"".join(
                    json.dumps(line).encode() + b"\n" for line in lines[: random.randrange(len(lines) + 1)]
                )
        if which > 2 or random.randrange(4) == 0:
            partial = damage(random, partial)
        for path, data in ((self.partial, partial), (self.journal, journal)):
            path.write_bytes(data)
        self.out.unlink(missing_ok=True)
        try:
            quantreg.quantize_file(self.model, self.out, "Q4_K_M", resume=True, threads=1)
        except OutputError:
            assert not self.out.exists()
            return False
        assert self.out.read_bytes() == self.whole, "the file differs from that of an undisturbed run"
        assert not self.partial.exists()
        assert not self.journal.exists()
        return True


TARGETS = {
    "header": Header, "file": File, "blocks": Blocks, "weights": Weights, "imatrix": Imatrix, "plan": Plan,
    "safetensors": Safetensors, "journal": Journal, "folders": Folders,
}  # fmt: skip
