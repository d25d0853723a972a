"""quantreg estimate: sizes of types, of file types and of a model's own tensors."""

import json
from itertools import pairwise

import pytest
import small_model

import quantreg
from quantreg.recipes import FileType, file_types
from quantreg.recipes.estimates import estimate
from quantreg.recipes.shapes import SHAPES
from quantreg.sizes import parse_count, parse_params

# Bits per weight that the documentation of llama-quantize states for Llama 3.1 8B.
LLAMA_8B = {
    "IQ1_S": 2.0042, "IQ1_M": 2.1460, "IQ2_XXS": 2.3824, "IQ2_XS": 2.5882, "IQ2_S": 2.7403, "IQ2_M": 2.9294,
    "IQ3_XS": 3.4977, "IQ3_S": 3.6606, "IQ3_M": 3.7628, "IQ4_XS": 4.4597, "IQ4_NL": 4.6818,
    "Q2_K_S": 2.9697, "Q2_K": 3.1593, "Q3_K_S": 3.6429, "Q3_K_M": 3.9960, "Q3_K_L": 4.2979, "Q4_K_S": 4.6672,
    "Q4_K_M": 4.8944, "Q5_K_S": 5.5704, "Q5_K_M": 5.7036, "Q6_K": 6.5633, "Q8_0": 8.5008, "F16": 16.0005,
}  # fmt: skip


@pytest.mark.parametrize("name", LLAMA_8B)
def test_file_types_take_as_many_bits_as_is_published_for_an_8b_model(name):
    assert estimate(8e9, file_types[name]).bits_per_weight == pytest.approx(LLAMA_8B[name], abs=6e-5)


@pytest.mark.parametrize(
    ("params", "name", "gigabytes"),
    [  # sizes of the files that are offered for Llama 3.2, Llama 2, Mistral 7B and Llama 3.1
        ("1B", "Q4_K_M", 0.81), ("1B", "Q5_K_M", 0.91), ("1B", "Q6_K", 1.02), ("3B", "Q4_K_M", 2.02),
        ("7B", "Q4_K_M", 4.08), ("7B", "Q4_K_M", 4.37), ("8B", "Q4_K_M", 4.92), ("13B", "Q4_K_M", 7.87),
        ("13B", "Q4_K_S", 7.37), ("70B", "Q4_K_M", 42.52), ("405B", "Q4_K_M", 243.0),
    ],
)  # fmt: skip
def test_estimates_are_within_a_few_percent_of_published_files(params, name, gigabytes):
    assert estimate(parse_params(params), file_types[name]).bytes / 1e9 == pytest.approx(gigabytes, rel=0.04)


def test_the_table_of_shapes_has_as_many_weights_as_the_models():
    millions = [round(shape.weights / 1e6) for shape in SHAPES]
    assert millions == [135, 362, 1100, 1236, 1711, 3213, 6738, 7242, 8030, 13016, 23572, 32529, 70554, 405853]
    assert millions == sorted(millions)


def test_estimates_grow_with_the_number_of_weights():
    sizes = [estimate(10 ** (n / 4), "Q4_K_M").bytes for n in range(20, 52, 2)]
    ratios = [b / a for a, b in pairwise(sizes)]
    assert min(ratios) > 2  # a step is 3.16 times as many weights
    assert sizes[0] > 0


def test_a_name_that_is_both_means_the_type_and_a_file_type_object_the_file_type():
    assert estimate(7e9, "Q4_0").bytes == 7e9 * 4.5 / 8
    assert estimate(7e9, "Q4_0").assumed == ""
    assert estimate(7e9, file_types["Q4_0"]).bytes > 7e9 * 4.5 / 8
    assert quantreg.estimate_memory_gb(8.0, "Q4_K_M") == pytest.approx(4.913, abs=1e-3)
    assert quantreg.estimate_memory_gb(7.0, "Q4_K") == 3.9375


def test_a_file_type_of_a_plugin_is_planned_by_its_own_rules():
    recipe = FileType("MINE", None, "Q8_0", "a test")
    assert estimate(8e9, recipe).bits_per_weight == pytest.approx(8.5, abs=0.01)


def test_the_command_says_what_it_assumed(run):
    code, out, err = run("estimate", "8B", "--type", "Q4_K_M")
    assert (code, out) == (0, "4.91 GB\n")
    assert err.startswith("assumed the shape of Llama 3.1 8B (8.03 billion weights: 32 layers of width 4096")
    assert "between Llama 2 7B" in run("estimate", "7B", "--type", "Q4_K_M")[2]
    assert "as many bits per weight as in SmolLM2 135M" in run("estimate", "100M", "--type", "Q4_K_M")[2]


def test_json_holds_the_size_and_the_assumption(run):
    data = json.loads(run("estimate", "8B", "--type", "Q4_K_M", "--type", "Q8_0", "--json")[1])
    assert data["params"] == "8B"
    mixed, plain = data["types"]
    assert mixed["assumed"].startswith("assumed the shape of Llama 3.1 8B")
    assert mixed["gigabytes"] == mixed["bytes"] / 1e9
    assert plain == {
        "type": "Q8_0", "weights": 8 * 10**9, "bytes": 85 * 10**8, "gigabytes": 8.5, "bits_per_weight": 8.5,
        "assumed": None,
    }  # fmt: skip


def test_without_a_type_all_file_types_are_listed_by_size(run):
    code, out, _ = run("estimate", "8B")
    rows = [line.split() for line in out.splitlines()[1:]]
    assert code == 0
    assert {row[0] for row in rows} == {name for name in file_types if name != "COPY"}
    bits = [float(row[-1]) for row in rows]
    assert bits == sorted(bits)


@pytest.mark.parametrize("command", [("estimate", "7", "--type", "Q4_K"), ("types", "--params", "7")])
def test_a_small_number_without_a_unit_is_asked_about(run, command):
    code, _, err = run(*command)
    assert code == 2
    assert "'7': 7 weights, or 7 billion? Add the unit: 7B for billions, 7M for millions, 0.007K for exactly 7" in err


def test_sizes_are_numbers_with_a_unit():
    assert parse_params("7B") == parse_params(" 7b ") == parse_params("7000000000") == 7e9
    assert parse_params("0.007K") == 7
    assert parse_count("20000") == 20000
    for text in ("", "B", "nan", "-3B", "inf", "1e30", "7Q"):
        with pytest.raises(ValueError, match="expected a number of weights such as 7B"):
            parse_params(text)
        with pytest.raises(ValueError, match="expected a number of weights such as 500k"):
            parse_count(text)
    with pytest.raises(ValueError, match=r"46\.7B for Mixtral 8x7B"):
        parse_params("8x7B")


def test_names_that_nothing_has_are_refused_with_a_suggestion(run):
    code, _, err = run("estimate", "7B", "--type", "Q4_K_N")
    assert code == 1
    assert "unknown type or file type 'Q4_K_N': did you mean Q4_K_" in err
    assert "give the model's file" in run("estimate", "7B", "--type", "COPY")[2]


def test_the_size_of_a_model_is_that_of_the_tensors_that_quantize_writes(run, tmp_path):
    model = tmp_path / "small.gguf"
    small_model.write_model(model)
    data = json.loads(run("estimate", model, "--type", "Q4_K_M", "--type", "Q8_0", "--json")[1])
    assert data["file"] == str(model)
    for found in data["types"]:
        result = quantreg.quantize_file(model, tmp_path / "out.gguf", found["type"], force=True)
        assert found["bytes"] == result.plan.bytes
        assert found["weights"] == result.plan.n_elements
    code, out, _ = run("estimate", model, "--type", "Q4_K_M")
    assert (code, out) == (0, f"{data['types'][0]['gigabytes']:.10g} GB\n")
    code, out, _ = run("estimate", model)
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert "needs an imatrix" in lines["IQ2_XXS"]
    assert "in a larger type" in lines["Q4_K_M"]
    code, _, err = run("estimate", tmp_path / "none.gguf")
    assert code == 1
    assert "none.gguf" in err
