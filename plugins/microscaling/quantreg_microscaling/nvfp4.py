"""The NVFP4 plugin."""

import re

import quantreg
from quantreg_kernels import load_codec

LARGEST = 6 * 448  # the largest e2m1 times the largest e4m3, which is the type of the block scales

# The architectures for which llama.cpp (0c1e57098) multiplies by the tensor ``NAME.scale``: it loads one for every
# architecture, but many of its graphs ignore it. Without it the block scales alone must span the range of the weights.
# Read from src/models/*.cpp: the products that pass ``wq_s``, ``ffn_up_s`` and so on.
_ATTENTION = """
    afmoe apertus arcee arctic baichuan bailingmoe bailingmoe2 bert bitnet bloom chameleon chatglm codeshell cohere2
    cohere2moe command-r dbrx deepseek deepseek2 deepseek2-ocr deepseek4 dflash dots1 dream ernie4_5 ernie4_5-moe
    eurobert exaone exaone-moe exaone4 falcon falcon-h1 gemma gemma-embedding gemma2 gemma3 gemma4 glm4 glm4moe
    gpt-oss gpt2 gptneox granite granite_swa granitehybrid granitemoe grok grovemoe hrm_text hunyuan-dense
    hunyuan-moe hunyuan_vl hy_v3 internlm2 jais jais2 jamba jina-bert-v2 jina-bert-v3 laguna lfm2 lfm2moe llada
    llada-moe llama llama-embed llama4 maincoder maple mellum minicpm minimax-m2 minimax-m3 mistral3 mistral4
    modern-bert mpt muse-glimmer nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert nomic-bert-moe olmo
    olmo2 olmoe orion paddleocr pangu-embedded phi2 phi3 phimoe plamo pockettts qwen qwen2 qwen2moe qwen2vl qwen3
    qwen35 qwen35moe qwen3moe qwen3next qwen3tts qwen3vl qwen3vlmoe qwen4exp refact rnd1 seed_oss smallthinker
    smollm3 spark2_5 stablelm starcoder starcoder2 step35 t5 t5encoder talkie xverse
"""
_FEED_FORWARD = """
    bitnet cohere2 cohere2moe deepseek32 dflash dots3note gemma4 glm-dsa hy_v3 llama llama-embed mistral3 nanbeige
    nemotron_h nemotron_h_moe qwen3 qwen35
"""
_EXPERTS = """
    cohere2moe deepseek32 dots3note gemma4 glm-dsa hy_v3 llama llama-embed mellum mistral3 nemotron_h nemotron_h_moe
    qwen35moe qwen3moe qwen3next qwen4exp
"""
_SHARED_EXPERTS = """
    cohere2moe deepseek32 dots3note glm-dsa hy_v3 nemotron_h nemotron_h_moe qwen35moe qwen3next qwen4exp
"""
_NO_OUTPUT = """
    bert bitnet cohere2moe deepseek2 deepseek2-ocr deepseek4 dflash eurobert gemma-embedding jina-bert-v2
    jina-bert-v3 laguna mistral4 modern-bert neo-bert nomic-bert nomic-bert-moe spark2_5 talkie
"""
_SCALED = (
    (r"blk\.\d+\.attn_(q|k|v|qkv|output)\.weight", _ATTENTION),
    (r"blk\.\d+\.ffn_(up|gate|down)\.weight", _FEED_FORWARD),
    (r"blk\.\d+\.ffn_(up|gate|down)_exps\.weight", _EXPERTS),
    (r"blk\.\d+\.ffn_(up|gate|down)_shexp\.weight", _SHARED_EXPERTS),
)


def scale_is_read(context, names):
    """Say whether llama.cpp applies a scale to this tensor. It refuses one for a feed-forward tensor with a bias."""
    architecture = context.metadata.get("general.architecture")
    if context.name == "output.weight":
        return architecture in set(_ATTENTION.split()) - set(_NO_OUTPUT.split())
    if ".ffn_" in context.name and context.name.removesuffix(".weight") + ".bias" in names:
        return False
    return any(re.fullmatch(name, context.name) and architecture in known.split() for name, known in _SCALED)


NVFP4 = quantreg.QuantType(
    "NVFP4",
    type_id=40,
    block_size=64,
    type_size=36,
    # The machines disagree. Times the reference's speed at avx2 / avx512: 37 / 23 on a Zen 4, 20 / 28 on a Sapphire
    # Rapids. The choice that costs the other machine less is avx2.
    codec=lambda: quantreg.ScaledCodec(load_codec(__name__, "_nvfp4", faster_at={"plain": "avx2"}), LARGEST),
    parameters=quantreg.scale_parameters(LARGEST, applies=scale_is_read),
)


@quantreg.hookimpl
def register_types(register):
    register(NVFP4)
