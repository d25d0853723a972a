"""Models and options that a plan refuses, and arguments of the command line that cannot be parsed."""

import pytest
from plan_models import StubImatrix, header, llama, make, tensor

from quantreg.errors import ImportanceError, PlanError, UnknownFileTypeError, UnknownTypeError
from quantreg.recipes import PlanOptions, parse_layers, parse_override, parse_tensor_type


def test_the_error_about_a_missing_imatrix_says_how_to_make_one():
    with pytest.raises(
        PlanError, match=r"IQ2_XS requires an importance matrix for blk.*attn_k.weight .*quantreg imatrix"
    ):
        make(llama(), "IQ2_XS")
    assert len(make(llama(), "IQ2_XS", check=False).problems) == 1
    with pytest.raises(PlanError, match="Q2_K_S requires an importance matrix"):
        make(llama(), "Q2_K_S")
    make(llama(), "Q2_K")


def test_the_error_about_a_missing_entry_names_the_tensor():
    with pytest.raises(PlanError, match=r"the imatrix has no entry for blk.0.attn_k.weight"):
        make(llama(), "IQ2_XS", imatrix=StubImatrix({"blk.0.attn_v.weight": 256}))
    planned = make(llama(), "Q4_0", imatrix=StubImatrix({"blk.0.attn_v.weight": 256}))
    assert planned.warnings[0] == (
        "the imatrix has no entry for blk.0.attn_k.weight (F16 to Q4_0) and 26 more: quantized without importance"
    )


def test_embeddings_need_no_importance_unless_the_encoder_does():
    full = StubImatrix({t.name: 256 for t in llama().tensors if t.name.startswith("blk")})
    planned = make(llama(), "IQ3_XXS", pure=True, imatrix=full)
    assert not planned.tensors[0].needs_importance
    with pytest.raises(PlanError, match=r"no entry for token_embd.weight"):
        make(llama(), "Q4_0", imatrix=full, token_embedding_type="IQ2_XS")


def test_an_imatrix_of_another_model_is_refused():
    with pytest.raises(ImportanceError, match=r"blk.0.attn_v.weight has 128 values, .* needs 256"):
        make(llama(), "Q4_0", imatrix=StubImatrix({"blk.0.attn_v.weight": 128}))
    with pytest.raises(ImportanceError, match="needs 1024"):
        make(llama(experts=4), "Q4_0", imatrix=StubImatrix({"blk.0.ffn_up_exps.weight": 256}))
    planned = make(llama(), "Q4_0", imatrix=StubImatrix({"token_embd.weight": 128, "blk.0.attn_v.weight": 256}))
    assert {t.importance for t in planned.tensors} == {None, "blk.0.attn_v.weight"}


def test_quantized_tensors_are_not_quantized_again_unless_allowed():
    with pytest.raises(PlanError, match=r"already quantized: .* \(Q8_0 to Q6_K\) .*allow_requantize"):
        make(llama(source="Q8_0"), "Q4_0")
    make(llama(source="Q8_0"), "Q4_0", allow_requantize=True)
    same = make(llama(source="Q8_0"), "Q8_0")
    assert not any(t.converted for t in same.tensors)


def test_a_tensor_of_an_unknown_type_can_only_be_copied():
    source = header([tensor("a.weight", (256, 4), "MYSTERY")])
    with pytest.raises(PlanError, match=r"no installed plugin reads a.weight \(MYSTERY to Q8_0\)"):
        make(source, "Q8_0")
    assert make(source, "COPY").tensors[0].to_id == 999


@pytest.mark.parametrize("option", ["output_tensor_type", "token_embedding_type"])
def test_a_type_given_for_one_tensor_must_fit(option):
    with pytest.raises(PlanError, match=rf"{option} Q5_K does not fit rows of 384 values, .*: choose Q5_1 or F16"):
        make(llama(width=384), "Q8_0", **{option: "q5_k"})


def test_ffn_of_a_mixture_of_experts_must_belong_to_a_layer():
    for name in ("ffn_up.weight", "v.blk.0.ffn_down.weight", "blk.9.ffn_gate.weight"):
        source = llama(experts=4)
        source.tensors += (tensor(name, (256, 256)),)
        with pytest.raises(PlanError, match=rf"{name}: cannot tell its layer"):
            make(source, "Q6_K")
        make(source, "Q6_K", pure=True)
        make(source, "MXFP4_MOE")


def test_the_error_about_an_unknown_type_suggests_similar_names():
    with pytest.raises(UnknownFileTypeError, match=r"did you mean Q4_K_S or Q4_K_M or Q4_K\?"):
        make(llama(), "Q4_K_N")
    with pytest.raises(UnknownTypeError, match="did you mean Q8_0"):
        make(llama(), "Q4_0", output_tensor_type="Q8_O")
    with pytest.raises(UnknownTypeError, match="unknown quant type 'zz'"):
        make(llama(), "Q4_0", tensor_types=[("a", "zz")])


@pytest.mark.parametrize("pattern", ["attn_(", "[[:digits:]]", "*"])
def test_a_pattern_that_is_not_a_regular_expression_is_refused(pattern):
    with pytest.raises(PlanError, match="tensor type pattern"):
        make(llama(), "Q4_0", tensor_types=[(pattern, "Q8_0")])


def test_an_override_that_metadata_cannot_hold_is_refused():
    with pytest.raises(PlanError, match="does not fit into 32 bits"):
        make(llama(), "Q4_0", override_kv=[("a", 2**32)])
    with pytest.raises(PlanError, match="expected a bool"):
        make(llama(), "Q4_0", override_kv=[("a", [1])])


def test_options_that_exclude_each_other_or_are_given_twice_are_refused():
    with pytest.raises(PlanError, match="cannot be used together"):
        PlanOptions(include_weights="a", exclude_weights="b")
    with pytest.raises(TypeError):
        make(llama(), "Q4_0", options=PlanOptions(), pure=True)
    assert PlanOptions(tensor_types={"a": "b"}).tensor_types == (("a", "b"),)


@pytest.mark.parametrize("text", ["attn", "=Q4_0", "attn=", ""])
def test_a_malformed_tensor_type_argument_is_refused(text):
    with pytest.raises(PlanError, match="expected PATTERN=TYPE"):
        parse_tensor_type(text)


def test_the_pattern_of_a_tensor_type_argument_becomes_lower_case():
    assert parse_tensor_type("ATTN_V=Q8_0") == ("attn_v", "Q8_0")


@pytest.mark.parametrize(
    "text", ["a", "a=int", "a=int:x", "a=bool:yes", "a=u9:1", "a=u8:x", "a=f64:1e400", "=int:1", "a=str:" + "x" * 128]
)
def test_a_malformed_override_argument_is_refused(text):
    with pytest.raises(PlanError, match="override"):
        parse_override(text)


def test_an_override_argument_is_a_key_and_a_typed_value():
    assert [parse_override(f"k={text}") for text in ("int:-3", "float:.5", "bool:true", "str:a=b:c")] == [
        ("k", -3),
        ("k", 0.5),
        ("k", True),
        ("k", "a=b:c"),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("u8:5", ("u8", 5)), ("i32:-3", ("i32", -3)), ("u64:18446744073709551615", ("u64", 2**64 - 1)),
        ("f64:1e300", ("f64", 1e300)), ("string:a=b:c", ("string", "a=b:c")), ("uint:7", ("u32", 7)),
        ("array[u32]:[1,2]", ("array[u32]", [1, 2])), ("array[str]:[]", ("array[string]", [])),
        ("string:" + "x" * 200, ("string", "x" * 200)),
    ],
)  # fmt: skip
def test_an_override_may_name_a_type_of_gguf(text, value):
    assert parse_override(f"k={text}") == ("k", value)
    planned = make(llama(), "Q4_0", override_kv=[parse_override(f"k={text}")])
    assert ("k", *value) in planned.metadata


def test_a_negative_int_says_how_it_is_stored():
    (text,) = make(llama(), "Q4_0", override_kv=[("a.b", -3)]).warnings
    assert text == "override a.b: -3 is stored as 3, as in llama-quantize: a.b=i32:-3 stores the negative number"


@pytest.mark.parametrize("text", ["", "a", "1,,2", "-1"])
def test_layers_that_are_not_numbers_are_refused(text):
    with pytest.raises(PlanError, match="expected numbers"):
        parse_layers(text)
