"""A folder converts to what llama.cpp's converter makes of it, and runs to the logits of transformers.

The goldens are written by ``support/checkpoints/make.py``, with the pinned converter and with transformers 5.24.
"""

import dataclasses
import fnmatch
import hashlib
import json
import math
import re
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from checkpoints.tokenizers import SIZE

import quantreg
from quantreg.checkpoints import Config
from quantreg.checkpoints.folder import find
from quantreg.checkpoints.matching import further_layers, match
from quantreg.gguf import read_header
from quantreg.inference import rope
from quantreg.inference.feed_forward import ACTIVATIONS
from quantreg.recipes import architectures

NAMES = checkpoints.names()
KINDS = {"UINT8": "u8", "UINT32": "u32", "INT32": "i32", "FLOAT32": "f32", "BOOL": "bool", "STRING": "string"}
# The largest difference of a logit, as a share of their deviation. Both sides compute in float32, in another order.
LARGEST = 2e-5
TABLES = [(known, table) for known in architectures.values() for table in known.checkpoints]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A function that returns the folder of a golden, which is written once."""

    def find(name):
        found = tmp_path_factory.getbasetemp() / name / "checkpoint"
        if not found.exists():
            checkpoints.write_folder(name, checkpoints.load(name)[0], found)
        return found

    return find


def tensors_of(path):
    """{name: [type, dims, sha256 of the bytes]} of a GGUF file."""
    header, data = read_header(path), path.read_bytes()
    starts = {info.name: header.data_offset + info.offset for info in header.tensors}
    return {
        info.name: [
            info.type_name,
            list(info.dims),
            hashlib.sha256(data[starts[info.name] : starts[info.name] + info.nbytes]).hexdigest(),
        ]
        for info in header.tensors
    }


def metadata_of(path):
    """{key: [type, value]} of a GGUF file, as the golden spells them; an array of more than 16 values is a hash."""
    found = {}
    for key, value in read_header(path).metadata.raw_items():
        data = value.data
        if isinstance(data, list) and len(data) > 16:
            data = {"n": len(data), "sha256": hashlib.sha256(json.dumps(data).encode()).hexdigest()}
        found[key] = [value.type, data]
    return found


def expected_metadata(golden):
    found = {}
    for key, (kinds, data) in golden["metadata"].items():
        first, _, element = kinds.partition(" ")
        found[key] = [f"array[{KINDS[element]}]" if first == "ARRAY" else KINDS[first], data]
    return found


def digest(tensors):
    """One hash of all tensors, as make.py computes it."""
    lines = "".join(f"{name} {' '.join(map(str, entry))}\n" for name, entry in sorted(tensors.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_becomes_the_tensors_and_the_metadata_of_the_reference(name, folder, tmp_path):
    golden, _ = checkpoints.load(name)
    quantreg.convert(folder(name), tmp_path / "f32.gguf", "F32")
    assert tensors_of(tmp_path / "f32.gguf") == golden["tensors"]
    found, expected = metadata_of(tmp_path / "f32.gguf"), expected_metadata(golden)
    expected.setdefault("general.file_type", ["u32", 0])  # the reference forgets it for GPT-NeoX
    assert found == expected
    if name != "phi3-long":  # there the reference begins with a key that it writes together with a tensor
        last = ("general.file_type", "general.quantization_version")  # quantize rewrites these
        assert [key for key in found if key not in last] == [key for key in expected if key not in last]


@pytest.mark.parametrize("name", NAMES)
def test_each_type_gives_the_bytes_of_the_reference(name, folder, tmp_path):
    golden, _ = checkpoints.load(name)
    for kind in ("f16", "bf16", "q8_0", "auto"):
        path = tmp_path / f"{kind}.gguf"
        quantreg.convert(folder(name), path, kind.upper() if kind != "auto" else kind)
        file_type, expected = golden["types"][kind]
        assert digest(tensors_of(path)) == expected, kind
        assert read_header(path).metadata["general.file_type"] == file_type or file_type is None, kind


def difference(found, expected):
    """The largest difference, as a share of the deviation of what is expected."""
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / expected.std())


def exact_gelu(x):
    """GELU with the error function, in place."""
    x *= 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))).astype(np.float32)
    return x


def exact_ramp(dims, context, base, fast, slow, half):
    """The ramp of YaRN between two places that are not rounded to whole pairs."""
    low, high = (dims * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (fast, slow))
    return 1 - np.clip((np.arange(half) - max(low, 0)) / (min(high, dims - 1) - max(low, 0)), 0, 1)


# Where GGUF cannot say what the published model does, so that llama.cpp and quantreg compute something else: how far
# off that is, and what makes the difference. See docs/checkpoints.md.
GELU, RAMP = (1e-3, ACTIVATIONS, "gelu", exact_gelu), (1.0, vars(rope), "_ramp", exact_ramp)
DIFFERENT = {
    **dict.fromkeys(
        ("bert", "bert-masked", "xlm-roberta", "falcon-7b", "falcon-40b", "gptneox", "gptneox-sequential"), GELU
    ),
    **dict.fromkeys(("gpt-oss", "gpt-oss-decoded"), RAMP),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_converted_model_computes_the_logits_of_transformers(name, folder, tmp_path, monkeypatch):
    _, expected = checkpoints.load(name)
    quantreg.convert(folder(name), tmp_path / "f32.gguf", "F32")

    def off():
        ids = checkpoints.token_ids(name, SIZE)
        with quantreg.load(tmp_path / "f32.gguf") as model:
            return difference(model.logits(ids) if model.graph.generates else model.states(ids), expected)

    if name in DIFFERENT:
        largest, where, what, exact = DIFFERENT[name]
        assert LARGEST < off() <= largest
        monkeypatch.setitem(where, what, exact)
    assert off() <= LARGEST


@pytest.mark.parametrize("name", ["qwen2", "phi3-long", "gpt-oss", "bert"])
def test_a_folder_runs_as_the_file_that_it_becomes(name, folder, tmp_path):
    quantreg.convert(folder(name), tmp_path / "auto.gguf")
    ids = checkpoints.token_ids(name, SIZE)
    with quantreg.load(folder(name)) as stored, quantreg.load(tmp_path / "auto.gguf") as converted:
        found, expected = (
            model.logits(ids) if model.graph.generates else model.states(ids) for model in (stored, converted)
        )
    assert difference(found, expected) <= (1e-2 if name == "bert" else 1e-6)  # F32 becomes F16


def goldens_of(table):
    """(name, what the golden says, its Config) of each golden that this table reads."""
    for name in NAMES:
        golden, _ = checkpoints.load(name)
        config = Config(golden["config"])
        if find(config)[1] == table:
            yield name, golden, config


def made(names, table, config):
    config.further = further_layers(names, table, config)
    try:
        return match(names, table, config, "a folder")
    except quantreg.CheckpointError:
        return None


def test_each_row_of_each_table_is_needed_by_a_golden():
    rows, needed = set(), set()
    for _, table in TABLES:
        rows |= set(table.rows)
        for _, golden, config in goldens_of(table):
            names, config = sorted(checkpoints.stated(golden["checkpoint"])), config.filled(table.defaults)
            whole = made(names, table, config)
            for row in set(table.rows) - needed:
                others = dataclasses.replace(table, rows=tuple(each for each in table.rows if each != row))
                if made(names, others, config) != whole:
                    needed.add(row)
    assert not {(row.new, row.old) for row in rows - needed}


def named(key, known):
    """The name of a key in a file."""
    return key.new[1:] if key.new.startswith("=") else f"{known.name}.{key.new}"


def test_each_key_of_each_table_has_a_value_in_a_golden():
    keys, written = set(), set()
    for known, table in TABLES:
        keys |= {(key.new, key.old) for key in table.keys}
        for _, golden, _ in goldens_of(table):
            written |= {(key.new, key.old) for key in table.keys if named(key, known) in golden["metadata"]}
    assert not {new for new, _ in keys - written if new != "=general.file_type"}


@pytest.mark.parametrize("table", [table for _, table in TABLES], ids=lambda table: table.classes[0])
def test_each_default_and_each_spelling_of_each_table_matters_to_a_golden(table):
    defaults = {name for name, _ in table.defaults}
    starts, ignored = {old for old, _ in table.starts}, set(table.ignored) - {"lm_head.weight"}
    for _, golden, config in goldens_of(table):
        names = sorted(checkpoints.stated(golden["checkpoint"]))
        defaults &= set(config)
        starts -= {old for old in starts if any(name.startswith(old) for name in names)}
        ignored -= {
            old
            for old in ignored
            if any(fnmatch.fnmatch(name.removeprefix("bert."), old.format(layers=2)) for name in names)
        }
    assert not defaults, "each golden sets these in config.json"
    assert not starts
    assert not ignored


def test_each_class_that_is_known_has_a_golden():
    """A class without one is another spelling of one that has."""
    for _, table in TABLES:
        assert any(True for _ in goldens_of(table)), table.classes


def classes_table():
    """The classes that convert, as docs/checkpoints.md shows them."""
    rows = ["| `general.architecture` | classes |", "|---|---|"]
    for known in sorted({known.name: known for known, _ in TABLES}.values(), key=lambda known: known.name):
        names = ", ".join(f"`{name}`" for table in known.checkpoints for name in table.classes)
        rows.append(f"| `{known.name}` | {names} |")
    return "\n".join(rows)


def test_the_table_of_classes_is_the_registrys():
    page = (Path(__file__).parents[1] / "docs" / "checkpoints.md").read_text()
    shown = re.search(r"<!-- classes: begin -->\n(.*?)\n?<!-- classes: end -->", page, re.DOTALL)[1]
    assert shown == classes_table(), f"put this into docs/checkpoints.md:\n{classes_table()}"
