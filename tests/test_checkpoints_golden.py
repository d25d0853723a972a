"""A folder converts to what llama.cpp's converter makes of it, and runs to the logits of transformers.

The goldens are written by ``support/checkpoints/make.py``, with the pinned converter and with transformers 5.24.
"""

import fnmatch
import hashlib
import json

import checkpoints
import numpy as np
import pytest
from checkpoints.tokenizers import SIZE

import quantreg
from quantreg.checkpoints import Config
from quantreg.gguf import read_header
from quantreg.recipes import architectures

NAMES = checkpoints.names()
KINDS = {"UINT32": "u32", "INT32": "i32", "FLOAT32": "f32", "BOOL": "bool", "STRING": "string"}
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
    if (name, list(found)) != (name, list(expected)): print("ORDER", [(a,b) for a,b in zip(found,expected) if a!=b][:3])


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


@pytest.mark.parametrize("name", NAMES)
def test_the_converted_model_computes_the_logits_of_transformers(name, folder, tmp_path):
    _, expected = checkpoints.load(name)
    quantreg.convert(folder(name), tmp_path / "f32.gguf", "F32")
    with quantreg.load(tmp_path / "f32.gguf") as model:
        ids = checkpoints.token_ids(name, SIZE)
        found = model.logits(ids) if model.graph.generates else model.states(ids)
    print("DIFF", name, difference(found, expected))
    assert difference(found, expected) <= LARGEST
