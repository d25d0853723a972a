"""A model that lost layers or tensors is noticed, and hybrid models whose layers differ on purpose are not."""

import pytest
from plan_models import golden, header, llama, make, model, real_model

from quantreg.recipes import plan_header
from quantreg.recipes.layers import incomplete_layers

ATTENTION = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm")
DENSE = ("ffn_gate", "ffn_up", "ffn_down")
MOE = ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
MAMBA = ("attn_norm", "ssm_in", "ssm_conv1d", "ssm_x", "ssm_dt", "ssm_out", "ffn_norm")
LINEAR = ("attn_norm", "attn_qkv", "attn_gate", "ssm_ba", "ssm_conv1d", "ssm_norm", "ssm_out", "ffn_norm")


def names_of(layers, group="blk"):
    """The names of the tensors of a model, given the roles of each layer."""
    roles = ([role if "." in role else f"{role}.weight" for role in layer] for layer in layers)
    return ["token_embd.weight", *(f"{group}.{i}.{role}" for i, layer in enumerate(roles) for role in layer)]


def uniform(n_layers=8):
    return names_of([ATTENTION + DENSE] * n_layers)


def facts(n_layers, arch="llama", **more):
    keys = {f"{arch}.{key.replace('__', '.')}": value for key, value in more.items()}
    return {"general.architecture": arch, f"{arch}.block_count": n_layers} | keys


# ---- what is wrong ----


def test_a_tensor_that_only_one_layer_lacks_is_named():
    names = [name for name in uniform() if name != "blk.2.ffn_down.weight"]
    assert incomplete_layers(names, facts(8)) == (
        "blk.2 lacks ffn_down.weight, which 7 other layers have: get the whole model (all of its files), or convert it "
        "again",
    )


@pytest.mark.parametrize("n_layers", [2, 3, 8])
@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("role", ["attn_q", "ffn_up", "ffn_norm"])
def test_the_first_and_the_last_layer_are_looked_at_too(n_layers, where, role):
    number = 0 if where == "first" else n_layers - 1
    names = [name for name in uniform(n_layers) if name != f"blk.{number}.{role}.weight"]
    (sentence,) = incomplete_layers(names, facts(n_layers))
    assert sentence.startswith(f"blk.{number} lacks {role}.weight, which ")


def test_layers_that_lack_the_same_are_told_in_one_sentence():
    names = [name for name in uniform(40) if name not in {f"blk.{i}.attn_v.weight" for i in (3, 4, 5, 9)}]
    (sentence,) = incomplete_layers(names, facts(40))
    assert sentence.startswith("blk.3 to blk.5, blk.9 lack attn_v.weight, which 36 other layers have")


def test_a_model_that_lost_its_second_half_is_noticed():
    names = [name for name in uniform(8) if not name.startswith(("blk.5", "blk.6", "blk.7", "blk.4.ffn"))]
    assert incomplete_layers(names, facts(8)) == (
        "the model lacks 3 of its 8 layers (blk.5 to blk.7), although llama.block_count is 8: engines refuse to load "
        "it: get the whole model (all of its files), or convert it again",
        "blk.4 lacks ffn_down.weight, ffn_gate.weight, ffn_norm.weight and ffn_up.weight, which 4 other layers have: "
        "get the whole model (all of its files), or convert it again",
    )


def test_a_hole_between_layers_is_noticed_without_a_block_count():
    names = [name for name in uniform(8) if not name.startswith(("blk.0.", "blk.3."))]
    (sentence,) = incomplete_layers(names, {})
    assert sentence.startswith("the model lacks 2 of its 8 layers (blk.0, blk.3): engines refuse")


def test_a_model_without_any_layer_is_noticed():
    (sentence,) = incomplete_layers(["token_embd.weight", "output.weight"], facts(32))
    assert sentence.startswith("the model has no layer, although llama.block_count is 32")


def test_a_damaged_layer_of_a_hybrid_model_is_noticed():
    layers = [[*MAMBA, *DENSE], [*MAMBA, *MOE]] * 8
    layers[6] = [*MAMBA[:-2], "ffn_norm", *DENSE]
    (sentence,) = incomplete_layers(names_of(layers), facts(16, "jamba"))
    assert sentence.startswith("blk.6 lacks ssm_out.weight, which 7 other layers have")


def test_a_damaged_encoder_or_decoder_is_noticed():
    encoder = names_of([ATTENTION + DENSE] * 4, "enc.blk")
    decoder = names_of([ATTENTION + DENSE] * 3, "dec.blk")
    found = incomplete_layers(encoder + decoder, facts(4, "t5", decoder_block_count=4))
    assert [text.partition(", although")[0] for text in found] == ["the model lacks 1 of its 4 layers (dec.blk.3)"]


def test_an_override_of_the_block_count_is_what_counts():
    assert incomplete_layers(uniform(8), facts(16), given={"llama.block_count": 8}) == ()


def test_a_block_count_that_no_model_has_is_not_believed():
    assert incomplete_layers(uniform(2), facts(2**62)) == ()


# ---- what is right ----


def alternating(*kinds, repeat):
    return [layer for _ in range(repeat) for layer in kinds]


FAMILIES = {
    "llama": ([ATTENTION + DENSE] * 32, {}),
    "deepseek2 with one dense layer": ([ATTENTION + DENSE, *[ATTENTION + MOE] * 26], {}),
    "deepseek2 with three dense layers": (
        [*[ATTENTION + DENSE] * 3, *[(*ATTENTION, *MOE, "exp_probs_b.bias")] * 58],
        {},
    ),
    "glm4moe, a dense layer and one that predicts further tokens": (
        [ATTENTION + DENSE, *[ATTENTION + MOE] * 45, (*ATTENTION, *MOE, "nextn.eh_proj", "nextn.enorm", "nextn.hnorm")],
        {"nextn_predict_layers": 1},
    ),
    "glm4moe that does not count its further layer": (
        [ATTENTION + DENSE, *[ATTENTION + MOE] * 45, (*ATTENTION, *MOE, "nextn.eh_proj", "nextn.enorm", "nextn.hnorm")],
        {},
    ),
    "jamba": (
        [(*(ATTENTION if i % 8 == 4 else MAMBA), *(MOE if i % 2 else DENSE)) for i in range(32)],
        {"attention__head_count_kv": [8 if i % 8 == 4 else 0 for i in range(32)]},
    ),
    "jamba with one attention layer": ([(*(ATTENTION if i == 4 else MAMBA), *DENSE) for i in range(8)], {}),
    "granitehybrid": ([(*(ATTENTION if i in (5, 15, 25, 35) else MAMBA), *MOE) for i in range(40)], {}),
    "nemotron_h": (
        [("attn_norm", *part) for part in alternating(("ssm_in", "ssm_out"), ("ffn_up", "ffn_down"), repeat=20)]
        + [("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output")],
        {},
    ),
    "qwen3next": (alternating(*[LINEAR + MOE] * 3, ATTENTION + MOE, repeat=12), {}),
    "lfm2": (
        [
            (*(ATTENTION if i in (2, 5, 8, 10) else ("attn_norm", "shortconv.conv", "ffn_norm")), *DENSE)
            for i in range(16)
        ],
        {},
    ),
    "gemma3n": (
        [(*ATTENTION, *DENSE, "altup_router", "laurel_l", "per_layer_inp_gate")] * 30,
        {"activation_sparsity_scale": [1.6] * 10 + [0.0] * 20},
    ),
    "gemma4, whose global layers have no V": (
        [(*(r for r in ATTENTION if i % 6 != 5 or r != "attn_v"), *DENSE) for i in range(30)],
        {"attention__sliding_window_pattern": [i % 6 != 5 for i in range(30)]},
    ),
    "gemma4, whose last layers share keys and values": (
        [ATTENTION + DENSE] * 15 + [tuple(r for r in ATTENTION if r not in ("attn_k", "attn_v")) + DENSE] * 20,
        {},
    ),
    "hunyuan with shared keys and values": (
        alternating(ATTENTION + MOE, tuple(r for r in ATTENTION if r not in ("attn_k", "attn_v")) + MOE, repeat=16),
        {},
    ),
    "deci, some layers without attention, one without FFN, one empty": (
        [
            (
                *(ATTENTION[:-1] if i not in (3, 4, 11, 20) else ()),
                *(("ffn_norm", *DENSE) if i not in (7, 20) else ()),
            )
            for i in range(32)
        ],
        {
            "attention__head_count": [0 if i in (3, 4, 11, 20) else 8 for i in range(32)],
            "feed_forward_length": [0 if i in (7, 20) else 512 + i for i in range(32)],
        },
    ),
    "modern-bert, whose first layer has no norm": (
        [("attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down")]
        + [("attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down")] * 21,
        {},
    ),
    "rwkv7": (
        [("attn_norm", "time_mix_key")]
        + [("attn_norm", "time_mix_key", "time_mix_v0", "time_mix_v1", "time_mix_v2")] * 11,
        {},
    ),
    "deepseek4, with compressors of two kinds": (
        [
            (*ATTENTION, *MOE, *(() if i < 2 else ("attn_compressor_kv",)), *(("indexer.proj",) if i % 2 else ()))
            for i in range(20)
        ],
        {},
    ),
    "nomic-bert-moe": (alternating(("attn_qkv", "ffn_up", "ffn_down"), ("attn_qkv", *MOE), repeat=6), {}),
    "a model with scales of NVFP4 in some layers": (
        [(*ATTENTION, *DENSE, *(f"{r}.scale" for r in DENSE if i % 9)) for i in range(27)],
        {},
    ),
    "one layer": ([ATTENTION + DENSE], {}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_model_of_each_family_raises_no_alarm(family):
    layers, more = FAMILIES[family]
    arch = family.partition(" ")[0].strip(",")
    n_layers = len(layers) - (family == "glm4moe that does not count its further layer")
    assert incomplete_layers(names_of(layers), facts(n_layers, arch, **more)) == ()


def test_a_damaged_model_of_each_family_is_noticed():
    missed = []
    for family, (layers, more) in FAMILIES.items():
        counts = [sum(other == layer for other in layers) for layer in layers]
        place = max(range(1, len(layers) + 1), key=lambda i: (counts[i - 1], i)) - 1
        if counts[place] < 3 or any("nextn" in role for role in layers[place]):
            continue
        damaged = list(layers)
        damaged[place] = [role for role in layers[place] if role != layers[place][-1]]
        if "." not in layers[place][-1] and not incomplete_layers(
            names_of(damaged), facts(len(layers), family.partition(" ")[0].strip(","), **more)
        ):
            missed.append(family)
    assert missed == []


def test_t5_has_its_relative_positions_in_the_first_layer_only():
    encoder = [(*ATTENTION, *DENSE, *(["attn_rel_b"] if i == 0 else [])) for i in range(6)]
    names = names_of(encoder, "enc.blk") + names_of(encoder, "dec.blk")
    assert incomplete_layers(names, facts(6, "t5")) == ()


def test_a_file_with_only_the_layers_for_further_tokens_is_whole():
    names = [name for name in names_of([ATTENTION + DENSE] * 47) if name.startswith("blk.46.")]
    assert incomplete_layers(names, facts(47, "glm4moe", nextn_predict_layers=1)) == ()


def test_an_image_encoder_has_its_own_counts():
    names = names_of([ATTENTION + DENSE] * 23, "v.blk")
    assert incomplete_layers(names, {"general.architecture": "clip", "clip.vision.block_count": 24}) == ()


@pytest.mark.parametrize("name", [*golden()["plans"], *golden()["runs"]])
def test_the_models_of_the_goldens_are_whole(name):
    found = (model if name in golden()["plans"] else real_model)(name).header
    assert incomplete_layers([tensor.name for tensor in found.tensors], found.metadata) == ()


# ---- in a plan ----


def without(found, *parts):
    return header([t for t in found.tensors if not any(part in t.name for part in parts)], found.metadata)


def test_a_plan_warns_about_half_a_model():
    assert make(llama(), "Q4_K_M").warnings == ()
    assert make(without(llama(), "blk.1.ffn_up"), "Q4_K_M").warnings[0].startswith("blk.1 lacks ffn_up.weight")
    assert make(without(llama(), "blk.3"), "Q4_K_M").warnings[0].startswith("the model lacks 1 of its 4 layers (blk.3)")


def test_pruning_layers_is_no_damage():
    assert make(llama(), "Q4_K_M", prune_layers=[1, 3]).warnings == ()
    assert make(without(llama(), "blk.1.ffn_up"), "Q4_K_M", prune_layers=[1]).warnings == ()
    assert make(without(llama(), "blk.1.ffn_up"), "Q4_K_M", prune_layers=[2]).warnings != ()


def test_copying_half_a_model_is_told_too():
    assert plan_header(without(llama(), "blk.3"), "COPY").warnings[0].startswith("the model lacks 1 of its 4 layers")
