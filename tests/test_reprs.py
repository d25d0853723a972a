"""Results at a prompt: a repr is one line, whatever the size of the model, and what has a meaning elsewhere pickles."""

import pickle

import pytest
import small_model

import quantreg
from quantreg.gguf import HeaderEdit


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    source, out = folder / "small.gguf", folder / "out.gguf"
    small_model.write_model(source)
    small_model.write_imatrix(folder / "imatrix.gguf")
    first, second, *_, last = quantreg.quantize_events(source, out, "Q4_K_M")
    with quantreg.open(source) as model:
        header, metadata = model.headers[0], model.metadata
        tensor = model["output.weight"]
    plan = quantreg.plan(source, "Q4_K_M", imatrix=folder / "imatrix.gguf")
    return {
        "Plan": plan,
        "TensorPlan": plan.tensors[0],
        "PlanOptions": plan.options,
        "FileType": plan.file_type,
        "Header": header,
        "TensorInfo": header.tensors[0],
        "Metadata": metadata,
        "Value": metadata.value("general.architecture"),
        "QuantizedTensor": tensor,
        "Coverage": quantreg.coverage(source, folder / "imatrix.gguf"),
        "Comparison": quantreg.compare(source, out),
        "Validation": quantreg.validate(out),
        "Evaluation": quantreg.evaluate(source, ["Q4_K", "Q8_0"], sample=20),
        "QuantizeResult": last.result,
        "WriteResult": quantreg.split(source, folder / "part", split_max_tensors=3),
        "Started": first,
        "Advanced": second,
        "Finished": last,
        "ImportanceMatrix": quantreg.ImportanceMatrix.read(folder / "imatrix.gguf"),
        "HeaderEdit": HeaderEdit(metadata),
    }


NAMES = [
    "Plan", "TensorPlan", "PlanOptions", "FileType", "Header", "TensorInfo", "Metadata", "Value", "QuantizedTensor",
    "Coverage", "Comparison", "Validation", "Evaluation", "QuantizeResult", "WriteResult", "Started", "Advanced",
    "Finished", "ImportanceMatrix", "HeaderEdit",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_repr_is_short_and_says_what_it_is(results, name):
    text = repr(results[name])
    assert len(text) < 500, text
    assert "\n" not in text
    assert name in text
    assert " object at 0x" not in text


@pytest.mark.parametrize("name", NAMES)
def test_a_result_pickles(results, name):
    again = pickle.loads(pickle.dumps(results[name]))
    assert repr(again) == repr(results[name])
    if name in ("Plan", "Coverage", "Comparison", "Validation", "QuantizeResult", "WriteResult", "Value"):
        assert again == results[name]


def test_a_pickled_plan_quantizes_to_the_same_bytes(results, tmp_path):
    source = results["Validation"].paths[0].replace("out.gguf", "small.gguf")
    plan = quantreg.plan(source, "Q4_K_M")
    for path, used in (("a.gguf", plan), ("b.gguf", pickle.loads(pickle.dumps(plan)))):
        quantreg.quantize_file(source, tmp_path / path, used)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_pickled_metadata_is_the_same(results):
    again = pickle.loads(pickle.dumps(results["Metadata"]))
    assert again.raw_items() == results["Metadata"].raw_items()
    header = pickle.loads(pickle.dumps(results["Header"]))
    assert (header.tensors, header.path) == (results["Header"].tensors, results["Header"].path)
