"""The plan makes the reference's decisions: types, order of the tensors, metadata."""

import json

import pytest
from plan_models import StubImatrix, golden, header, llama, make, model, real_model, stub_type, tensor, types_with

from quantreg.errors import PlanError
from quantreg.recipes import parse_layers, parse_override, parse_tensor_type, plan_header

MODELS = list(golden()["plans"])
RUNS = [(name, run) for name in golden()["runs"] for run in golden()["runs"][name]["runs"]]


def types_of(planned):
    return {t.name: t.to_type for t in planned.tensors}


def reasons_of(planned):
    return {t.name: t.reason for t in planned.tensors}


def edits_of(planned):
    return [tuple(edit) for edit in planned.metadata]


# --- against the reference ---


@pytest.mark.parametrize("name", MODELS)
def test_every_file_type_gives_the_types_of_the_reference(name):
    found = model(name)
    sources = {t.name: t.type_name for t in found.header.tensors}
    for key, expected in found.data["plans"].items():
        file_type, _, with_imatrix = key.partition("+")
        imatrix = found.imatrix if with_imatrix else None
        if "error" in expected:
            with pytest.raises(PlanError, match=r"Q1_0 does not fit .* it has no fallback"):
                make(found.header, file_type, imatrix=imatrix, check=False)
            continue
        types = types_of(make(found.header, file_type, imatrix=imatrix, check=False))
        wanted = {name: expected["other"].get(name, expected["default"]) for name in sources}
        assert types == wanted, key


@pytest.mark.parametrize("name", MODELS)
def test_the_order_of_tensors_is_the_references(name):
    found = model(name)
    names = [t.name for t in found.header.tensors]
    planned = make(found.header, "Q8_0")
    assert [t.name for t in planned.tensors] == [names[i] for i in found.data["file_order"]]


def options_of(args, name):
    """The file type and the keywords that stand for a llama-quantize command line."""
    keywords, pairs = {"tensor_types": [], "override_kv": []}, list(args[:-1])
    while pairs:
        match pairs.pop(0):
            case "--imatrix":
                data = golden()["runs"][name]
                keywords["imatrix"] = StubImatrix(dict(data["imatrix"]), path=pairs.pop(0))
            case "--pure":
                keywords["pure"] = True
            case "--leave-output-tensor":
                keywords["leave_output_tensor"] = True
            case "--output-tensor-type":
                keywords["output_tensor_type"] = pairs.pop(0)
            case "--token-embedding-type":
                keywords["token_embedding_type"] = pairs.pop(0)
            case "--tensor-type":
                keywords["tensor_types"].append(parse_tensor_type(pairs.pop(0)))
            case "--override-kv":
                keywords["override_kv"].append(parse_override(pairs.pop(0)))
            case "--prune-layers":
                keywords["prune_layers"] = parse_layers(pairs.pop(0))
            case "--include-weights":
                keywords["include_weights"] = [pairs.pop(0)]
            case "--exclude-weights":
                keywords["exclude_weights"] = [pairs.pop(0)]
            case other:
                raise AssertionError(other)
    return args[-1], keywords


@pytest.mark.parametrize(("name", "run"), RUNS, ids=[f"{name} {' '.join(run['args'])}" for name, run in RUNS])
def test_a_run_of_llama_quantize_has_the_same_plan(name, run):
    file_type, keywords = options_of(run["args"], name)
    source = real_model(name).header
    if not run["ok"]:
        with pytest.raises(PlanError, match=r"importance matrix|does not fit"):
            make(source, file_type, **keywords)
        return
    planned = make(source, file_type, **keywords)
    assert [t.name for t in planned.tensors] == run["order"]
    assert [t.to_type for t in planned.tensors] == run["types"]
    padded = sum((t.bytes + 31) // 32 * 32 for t in planned.tensors)
    assert 0 < run["size"] - padded < 2_000_000  # the header


# --- metadata ---


def test_metadata_edits_are_in_the_order_of_the_reference():
    imatrix = StubImatrix({"blk.0.attn_v.weight": 256, "blk.1.attn_v.weight": 256}, "calib/i.dat", "wiki.txt", 37)
    overrides = [("general.name", "renamed"), ("a.flag", True), ("a.n", -7), ("a.x", 0.5)]
    planned = make(llama(), "Q4_K_M", imatrix=imatrix, override_kv=overrides, prune_layers=[2])
    assert edits_of(planned) == [
        ("general.quantization_version", "u32", 2),
        ("general.file_type", "u32", 15),
        ("split.no", None, None),
        ("split.count", None, None),
        ("split.tensors.count", None, None),
        ("general.name", "string", "renamed"),
        ("a.flag", "bool", True),
        ("a.n", "u32", 7),
        ("a.x", "f32", 0.5),
        ("quantize.imatrix.file", "string", "calib/i.dat"),
        ("quantize.imatrix.dataset", "string", "wiki.txt"),
        ("quantize.imatrix.entries_count", "u32", 2),
        ("quantize.imatrix.chunks_count", "u32", 37),
        ("llama.block_count", "u32", 3),
    ]


def test_unknown_facts_about_the_imatrix_are_left_out_of_the_metadata():
    planned = make(llama(), "Q4_0", imatrix=StubImatrix({"blk.0.attn_v.weight": 256}, path="x" * 200))
    assert edits_of(planned)[5:] == [
        ("quantize.imatrix.file", "string", "x" * 127),
        ("quantize.imatrix.entries_count", "u32", 1),
    ]


def test_an_imatrix_path_that_is_cut_keeps_its_bytes():
    planned = make(llama(), "Q4_0", imatrix=StubImatrix({"blk.0.attn_v.weight": 256}, path="x" * 126 + "é"))
    value = planned.metadata[5].value
    assert value.encode("utf-8", "surrogateescape") == b"x" * 126 + "é".encode()[:1]


def test_an_imatrix_without_usable_entries_counts_as_none():
    imatrix = StubImatrix({"blk.0.attn_v.weight": 256})
    planned = make(llama(8), "Q4_0", imatrix=imatrix, include_weights=["ffn"])
    assert len(planned.metadata) == 5
    assert types_of(planned)["blk.0.ffn_down.weight"] == "Q4_0"
    assert types_of(make(llama(8), "Q4_0", imatrix=imatrix))["blk.0.ffn_down.weight"] == "Q4_1"


@pytest.mark.parametrize(
    ("metadata", "number"), [({"general.file_type": 7}, 7), ({}, 1024 + 1), ({"general.file_type": 2}, 2)]
)
def test_a_copy_keeps_or_guesses_the_file_type(metadata, number):
    planned = make(llama(**metadata), "COPY")
    assert edits_of(planned)[1] == ("general.file_type", "u32", number)
    assert all(not t.converted for t in planned.tensors)


def test_the_uniform_recipe_of_a_type_has_no_number():
    x9_k = stub_type("X9_K", 1009, 256, 290, "Q8_0", row_header_size=4)
    planned = plan_header(llama(), "x9_k", types=types_with(x9_k))
    assert edits_of(planned)[1] == ("general.file_type", None, None)
    assert set(types_of(planned).values()) == {"X9_K", "F32"}
    assert planned.tensors[0].bytes == 1000 * (4 + 290)


# --- single decisions ---


def test_reasons_are_in_plain_words():
    reasons = reasons_of(make(llama(), "Q4_K_M"))
    assert reasons["blk.3.ffn_down.weight"] == (
        "ffn_down, in the first or last eighth of the layers or every third layer between: Q6_K"
    )
    assert reasons["blk.0.attn_norm.weight"] == "norm: kept"
    assert reasons["blk.0.attn_q.weight"] == "default of Q4_K_M: Q4_K"
    assert reasons["output.weight"] == "output: Q6_K"
    narrow = make(llama(width=384, tied=True), "Q4_K_M")
    assert reasons_of(narrow)["blk.0.attn_q.weight"] == (
        "384 is not a multiple of 256: Q5_0 instead (default of Q4_K_M: Q4_K)"
    )
    assert reasons_of(narrow)["token_embd.weight"] == (
        "token_embd, tied to the output, row length not a multiple of the block size: Q8_0"
    )


def test_fallbacks_are_listed_with_their_cost():
    planned = make(llama(1, width=384), "Q4_K_M", pure=True)
    assert len(planned.fallbacks) == 9
    assert {t.wanted for t in planned.fallbacks} == {"Q4_K"}
    weights = sum(t.n_elements for t in planned.fallbacks)
    assert planned.fallback_cost == pytest.approx(weights * (5.5 - 4.5) / planned.n_elements)
    assert make(llama(1), "Q4_K_M").fallback_cost == 0


def test_no_fallback_refuses_rows_that_do_not_divide():
    with pytest.raises(PlanError, match=r"token_embd.weight: Q6_K does not fit .* no_fallback is set: give this"):
        make(llama(width=384), "Q6_K", no_fallback=True)


def test_rows_that_no_block_divides_fall_back_to_f16():
    planned = make(llama(width=100), "Q4_K_M")
    assert types_of(planned)["blk.0.attn_q.weight"] == "F16"
    assert reasons_of(planned)["blk.0.attn_q.weight"].startswith("100 is not a multiple of 32: F16")


def test_a_plan_knows_its_bytes_and_bits_per_weight():
    planned = make(llama(1), "Q8_0")
    assert planned.bytes == sum(t.bytes for t in planned.tensors)
    quantized = 256 * 2000 + 7 * 256 * 256
    assert planned.bytes == quantized // 32 * 34 + 2 * 256 * 4
    assert planned.bits_per_weight == planned.bytes * 8 / (quantized + 512)


def test_to_dict_returns_data_for_json():
    data = json.loads(json.dumps(make(llama(1), "Q8_0").to_dict()))
    assert set(data) == {"tensors", "bytes", "bits_per_weight", "warnings", "problems"}
    assert data["tensors"][0] == {
        "name": "output.weight",
        "shape": [1000, 256],
        "from": "F16",
        "to": "Q8_0",
        "reason": "output: Q8_0",
        "bytes": 272000,
    }


def test_dimensions_do_not_count_trailing_ones():
    tensors = [tensor("a.weight", (256, 4, 1, 1)), tensor("b.weight", (256, 1)), tensor("c.weight", ())]
    planned = make(header(tensors), "Q8_0")
    assert [(t.dims, t.to_type) for t in planned.tensors] == [((256, 4), "Q8_0"), ((256,), "F16"), ((1,), "F16")]


def test_a_tensor_with_four_dimensions_is_encoded_whole():
    planned = make(header([tensor("a.weight", (256, 4, 3, 2))]), "Q8_0")
    assert planned.tensors[0].bytes == 24 * 8 * 34
    assert planned.tensors[0].n_experts == 3


def test_the_first_tensor_type_that_matches_decides():
    source = llama(2)
    planned = make(source, "Q4_K_M", tensor_types=[("attn_[qk]", "q8_0"), ("attn", "Q5_K"), ("output", "F16")])
    types = types_of(planned)
    found = [types[name] for name in ("blk.0.attn_q.weight", "blk.1.attn_v.weight", "output.weight")]
    assert found == ["Q8_0", "Q5_K", "F16"]
    # Patterns have no effect on an F16 file, but the option for the output does.
    types = types_of(make(source, "F16", tensor_types=[("attn", "Q5_K")], output_tensor_type="q8_0"))
    assert (types["blk.0.attn_q.weight"], types["output.weight"]) == ("F16", "Q8_0")


def test_tensors_with_a_given_type_do_not_advance_the_counters():
    # The first of 8 layers gets more bits. With a type given for blk.0, the rules see blk.1 as the first.
    types = types_of(make(llama(8), "Q4_K_M", tensor_types=[(r"blk\.0\.ffn_down", "Q8_0")]))
    assert [types[f"blk.{i}.ffn_down.weight"] for i in range(4)] == ["Q8_0", "Q6_K", "Q4_K", "Q4_K"]


def test_token_embedding_type_yields_to_a_pattern_for_per_layer_embeddings():
    source = header([tensor("token_embd.weight", (256, 8)), tensor("per_layer_token_embd.weight", (256, 8))])
    types = types_of(make(source, "Q4_0", token_embedding_type="Q8_0", tensor_types=[("token_embd", "Q5_0")]))
    assert types == {"token_embd.weight": "Q8_0", "per_layer_token_embd.weight": "Q5_0"}


def test_output_type_reaches_tied_embeddings_only_through_the_mixture():
    assert types_of(make(llama(tied=True), "Q4_K_M", output_tensor_type="q8_0"))["token_embd.weight"] == "Q8_0"
    pure = make(llama(tied=True), "Q4_K_M", output_tensor_type="q8_0", pure=True)
    assert types_of(pure)["token_embd.weight"] == "Q4_K"


def test_rules_see_the_overrides():
    key = "llama.attention.head_count_kv"
    assert types_of(make(llama(), "Q2_K"))["blk.0.attn_v.weight"] == "Q4_K"
    types = types_of(make(llama(), "Q2_K", override_kv=[(key, 8)]))
    assert types["blk.0.attn_v.weight"] == "Q3_K"


def test_of_head_counts_per_layer_the_first_one_counts():
    source = llama(**{"llama.attention.head_count_kv": [0, 2, 2, 2]})
    assert types_of(make(source, "Q2_K"))["blk.0.attn_v.weight"] == "Q3_K"


@pytest.mark.parametrize(
    ("arch", "layers", "kv", "extra", "wanted"),
    [
        ("llama", 80, 1, {}, "Q5_K"),
        ("llama", 80, 8, {}, "Q4_K"),
        ("llama", 79, 1, {}, "Q4_K"),
        ("qwen2", 80, 8, {}, "Q5_K"),
        ("jais2", 68, 8, {}, "Q5_K"),
        ("llama", 81, 1, {"llama.nextn_predict_layers": 1}, "Q5_K"),
    ],
)
def test_v_of_a_70b_model_gets_more_bits(arch, layers, kv, extra, wanted):
    types = types_of(make(llama(layers, arch=arch, heads_kv=kv, **extra), "Q4_K_S"))
    assert types["blk.40.attn_v.weight"] == wanted


def test_falcon_has_rules_of_its_own():
    types = types_of(make(llama(16, arch="falcon"), "Q4_K_M"))
    assert types["output.weight"] == "Q8_0"
    assert [types[f"blk.{i}.ffn_down.weight"] for i in range(6)] == ["Q6_K", "Q5_K", "Q4_K", "Q4_K", "Q5_K", "Q4_K"]
    types = types_of(make(llama(16, arch="falcon"), "Q3_K_M"))
    assert [types[f"blk.{i}.ffn_down.weight"] for i in range(6)] == ["Q5_K", "Q4_K", "Q3_K", "Q3_K", "Q4_K", "Q3_K"]
    assert types["blk.0.attn_output.weight"] == "Q3_K"


def test_glm5_keeps_its_sensitive_tensors():
    source = llama(arch="glm5-next")
    source.tensors += (tensor("blk.0.attn_q_a.weight", (256, 8)), tensor("blk.0.attn_k_b.weight", (256, 8)))
    types = types_of(make(source, "Q4_K_M"))
    assert (types["blk.0.attn_q_a.weight"], types["blk.0.attn_k_b.weight"]) == ("Q8_0", "F16")
    assert types_of(make(source, "MXFP4_MOE"))["blk.0.attn_q_a.weight"] == "Q8_0"


def test_mxfp4_moe_is_for_experts_only():
    types = types_of(make(llama(experts=4), "MXFP4_MOE"))
    assert (types["blk.0.ffn_up_exps.weight"], types["blk.0.attn_q.weight"]) == ("MXFP4", "Q8_0")
    source = llama(experts=4, arch="bailingmoe3")
    source.tensors += (tensor("blk.0.attn_k_b.weight", (256, 8, 4)),)
    types = types_of(make(source, "MXFP4_MOE"))
    assert (types["blk.0.ffn_up_exps.weight"], types["blk.0.attn_k_b.weight"]) == ("MXFP4", "Q8_0")


@pytest.mark.parametrize("file_type", ["MXFP4", "NVFP4"])
def test_mxfp4_and_nvfp4_have_recipes_for_dense_models(file_type):
    planned = make(llama(), file_type)
    types = types_of(planned)
    assert (types["output.weight"], types["blk.0.attn_q.weight"]) == ("Q6_K", file_type)
    assert planned.file_type.number == {"MXFP4": 38, "NVFP4": 39}[file_type]
    with_tied = make(llama(width=320, tied=True), file_type)
    assert types_of(with_tied)["token_embd.weight"] == "Q8_0"


def test_nvfp4_has_no_fallback():
    with pytest.raises(PlanError, match=r"NVFP4 does not fit rows of 96 values .* it has no fallback"):
        make(llama(width=96), "NVFP4")


def test_pruned_layers_are_renumbered_and_keep_their_importance():
    imatrix = StubImatrix({f"blk.{i}.attn_v.weight": 256 for i in range(4)})
    planned = make(llama(), "Q4_K_S", imatrix=imatrix, prune_layers=[1])
    found = {t.name: (t.source.name, t.importance) for t in planned.tensors if "attn_v" in t.name}
    assert found == {
        "blk.0.attn_v.weight": ("blk.0.attn_v.weight",) * 2,
        "blk.1.attn_v.weight": ("blk.2.attn_v.weight",) * 2,
        "blk.2.attn_v.weight": ("blk.3.attn_v.weight",) * 2,
    }
    with pytest.raises(PlanError, match="cannot prune layer 4: the layers of the model are 0 to 3"):
        make(llama(), "Q4_K_S", prune_layers=[4])


# --- the plan as a mapping ---


def test_a_plan_maps_names_to_tensor_plans():
    planned = make(llama(1), "Q4_K_M")
    assert planned["blk.0.attn_q.weight"].to_type == "Q4_K"
    assert planned.get("blk.0.attn_q.weight") is planned["blk.0.attn_q.weight"]
    assert "blk.0.attn_q.weight" in planned
    assert "blk.1.attn_q.weight" not in planned
    assert planned.get("blk.1.attn_q.weight") is None
    with pytest.raises(KeyError, match=r"blk\.1\.attn_q\.weight"):
        planned["blk.1.attn_q.weight"]
    assert list(planned) == [t.name for t in planned.tensors]
    assert list(planned.values()) == list(planned.tensors)
    assert len(planned) == 11


def test_the_html_of_a_plan_has_one_row_per_tensor():
    planned = make(llama(1), "Q4_K_M")
    html = planned._repr_html_()
    assert f"<caption>Q4_K_M: 11 tensors, {planned.bytes:,} bytes" in html
    assert html.count("<tr>") == 1 + len(planned)
    for t in planned.tensors:
        assert f">{t.name}<" in html
        assert f">{t.reason}<" in html


def test_the_html_of_a_plan_escapes_names_and_reasons():
    hostile = "<script>alert('1')</script> & \"x\".weight"
    planned = make(header([tensor(hostile, (256, 4))]), "Q8_0", tensor_types=[("<script>", "Q4_0")])
    html = planned._repr_html_()
    assert hostile in planned
    assert "<script>" not in html
    assert "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt; &amp; &quot;x&quot;.weight" in html
    assert "tensor type &lt;script&gt;: Q4_0" in html
