"""Headers, types and importance for planning without files, and the reference's plans for them."""

import json
import lzma
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from pathlib import Path
from types import SimpleNamespace

from quantreg import QuantType, hookimpl
from quantreg.recipes import PlanOptions, plan_header
from quantreg.registry import Registry, Types

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "plans" / "plans.json.xz"

# name, id, weights per block, bytes per block, fallback
ROWS = """
F32 0 1 4 -; F16 1 1 2 -; BF16 30 1 2 -
Q4_0 2 32 18 -; Q4_1 3 32 20 -; Q5_0 6 32 22 -; Q5_1 7 32 24 -; Q8_0 8 32 34 -
Q2_K 10 256 84 Q4_0; Q3_K 11 256 110 Q4_0; Q4_K 12 256 144 Q5_0; Q5_K 13 256 176 Q5_1; Q6_K 14 256 210 Q8_0
IQ2_XXS 16 256 66 IQ4_NL; IQ2_XS 17 256 74 IQ4_NL; IQ3_XXS 18 256 98 IQ4_NL; IQ1_S 19 256 50 IQ4_NL
IQ4_NL 20 32 18 -; IQ3_S 21 256 110 IQ4_NL; IQ2_S 22 256 82 IQ4_NL; IQ4_XS 23 256 136 IQ4_NL; IQ1_M 29 256 56 IQ4_NL
TQ1_0 34 256 54 Q4_0; TQ2_0 35 256 66 Q4_0; MXFP4 39 32 17 -; NVFP4 40 64 36 -; Q1_0 41 128 18 -; Q2_0 42 64 18 Q4_0
"""


class StubPlugin:
    """A plugin that registers the given types."""

    def __init__(self, found):
        self.found = found

    @hookimpl
    def register_types(self, register):
        for qtype in self.found:
            register(qtype)


def stub_type(name, type_id, block_size, type_size, fallback=None, **keywords):
    """A type without a codec, which is enough for planning."""
    return QuantType(
        name,
        type_id=type_id,
        block_size=block_size,
        type_size=type_size,
        fallback=fallback,
        codec=lambda: None,
        **keywords,
    )


def types_with(*more):
    """A registry with the types of ROWS and the given ones."""
    rows = [row.split() for row in ROWS.replace("\n", ";").split(";") if row.strip()]
    found = [stub_type(n, *map(int, numbers), None if f == "-" else f) for n, *numbers, f in rows]
    registry = Registry(find=list)
    registry.register_plugin(StubPlugin([*found, *more]))
    return Types(registry)


TYPES = types_with()


@dataclass(frozen=True)
class StubTensor:
    """The attributes of a TensorInfo that planning reads."""

    name: str
    dims: tuple[int, ...]
    type_name: str
    type_id: int

    @property
    def shape(self):
        return self.dims[::-1]

    @property
    def n_elements(self):
        return prod(self.dims)

    @property
    def nbytes(self):
        qtype = TYPES.get(self.type_name)
        return self.n_elements // qtype.block_size * qtype.type_size if qtype else 4 * self.n_elements


def tensor(name, dims, type_name="F16"):
    return StubTensor(name, tuple(dims), type_name, TYPES[type_name].type_id if type_name in TYPES else 999)


def header(tensors, metadata=None):
    return SimpleNamespace(metadata=dict(metadata or {}), tensors=tuple(tensors))


class StubImatrix:
    """An importance matrix without values: only the lengths of its entries are known."""

    def __init__(self, entries, path="some.imatrix", dataset=None, chunk_count=0):
        self.entries, self.path, self.dataset, self.chunk_count = dict(entries), path, dataset, chunk_count

    def n_values(self, name):
        return self.entries[name]


class Model:
    """A model in the golden data."""

    def __init__(self, data, metadata=None):
        self.data = data
        self.header = header([tensor(*row) for row in data["tensors"]], metadata or data["metadata"])

    @cached_property
    def imatrix(self):
        """An importance matrix that covers every tensor."""
        lengths = {t.name: prod(t.dims[:1] + t.dims[2:3]) for t in self.header.tensors}
        return StubImatrix(lengths)


@cache
def golden():
    return json.loads(lzma.decompress(GOLDEN.read_bytes()))


@cache
def model(name):
    data = golden()["plans"][name]
    return Model(data, {"general.architecture": data["architecture"], **data["metadata"]})


@cache
def real_model(name):
    return Model(golden()["runs"][name])


def llama(n_layers=4, width=256, *, experts=0, arch="llama", heads=8, heads_kv=2, tied=False, source="F16", **metadata):
    """The header of a small model with the usual tensors."""
    stack = (experts,) if experts else ()
    tensors = [tensor("token_embd.weight", (width, 1000), source), tensor("output_norm.weight", (width,), "F32")]
    if not tied:
        tensors.append(tensor("output.weight", (width, 1000), source))
    for i in range(n_layers):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors.append(tensor(f"blk.{i}.{part}.weight", (width, width), source))
        for part in ("ffn_gate", "ffn_up", "ffn_down"):
            name = f"blk.{i}.{part}{'_exps' if experts else ''}.weight"
            tensors.append(tensor(name, (width, width, *stack), source))
        tensors.append(tensor(f"blk.{i}.attn_norm.weight", (width,), "F32"))
    facts = {
        "general.architecture": arch,
        f"{arch}.block_count": n_layers,
        f"{arch}.attention.head_count": heads,
        f"{arch}.attention.head_count_kv": heads_kv,
        **({f"{arch}.expert_count": experts} if experts else {}),
        **metadata,
    }
    return header(tensors, facts)


def make(source, file_type, **keywords):
    """The plan with TYPES. The keywords are those of plan_header and the fields of PlanOptions."""
    own = {name: keywords.pop(name) for name in ("imatrix", "check") if name in keywords}
    return plan_header(source, file_type, types=TYPES, options=PlanOptions(**keywords), **own)
