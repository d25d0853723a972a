import quantreg
from quantreg.evaluation.demo import make_model


def test_the_rules_decide(tmp_path):
    model = tmp_path / "model-f16.gguf"
    make_model(model, n_layer=2, n_vocab=64)
    mine, base = quantreg.plan(model, "MY_PROJECT"), quantreg.plan(model, "Q4_K_M")
    assert {name: mine[name].to_type for name in mine if mine[name].to_type != base[name].to_type} == {
        "token_embd.weight": "Q6_K",
        "blk.1.ffn_down.weight": "Q8_0",
    }
