"""The image and video models: one `quantreg.Architecture` each.

Where the facts come from:

- C: city96/ComfyUI-GGUF at 795e451, tools/convert.py (signatures, prefixes, names that need F32, rows of 256) and
  tools/lcpp.patch (layers that are not quantized, types by file type). These are the files that most people use.
- D: leejet/stable-diffusion.cpp at 97d2990, src/model_loader.cpp, `tensor_should_be_converted`.
- Q: silveroxides/convert_to_quant at 0c70dd9, convert_to_quant/constants.py: layers that lose most at 8 bits.
- Qwen-Image's signature and its better first and last blocks: city96/ComfyUI-GGUF, issue 347 and pull request 370.
"""

import math

import quantreg
from quantreg.recipes import Keep, condition
from quantreg_images.mixture import better_edges, image_mixture


@condition("one dimension")
def vector(t):
    return len(t.dims) < 2


@condition("at most 1024 weights")
def small(t):
    return math.prod(t.dims) <= 1024


@condition("not a layer's weight")
def bare(t):
    return not t.name.endswith("weight")


@condition("more than two dimensions")
def convolution(t):
    return len(t.dims) > 2


IN_OUT = "input or output layer"
CONDITION = "time, guidance or text embedding"
MODULATION = "modulation"

# Every architecture has these rows. ComfyUI loads bare parameters only from F32 or F16 (C), and small tensors take no
# space. C and D leave convolutions alone; those of SD1 and SDXL become matrices before they get here.
EVERYWHERE = (
    Keep((), "bias or norm", "F32", vector),
    Keep((), "small", "F32", small),
    Keep((), "parameter that is not a layer", "F32", bare),
    Keep((), "convolution", None, convolution),
)

# The first three are those of C. The others are what PyTorch's wrappers and the pipelines of diffusers add.
PREFIXES = ("model.diffusion_model.", "model.", "net.", "module.", "_orig_mod.", "transformer.", "unet.")


def image_model(name, description, *signatures, keep, rules=(), **fields):
    """An Architecture with the rows that all image models share."""
    return quantreg.Architecture(
        name,
        description,
        signatures=signatures,
        prefixes=PREFIXES,
        keep=(*EVERYWHERE, *keep),
        rules=(image_mixture, *rules),
        roles=(),
        **fields,
    )


FLUX = image_model(
    "flux", "FLUX.1, FLUX.2, Chroma",
    ("double_blocks.0.img_attn.proj.weight",),  # C
    foreign=(("transformer_blocks.0.attn.norm_added_k.weight",),),  # C
    keep=(
        Keep(("img_in", "txt_in.", "final_layer."), IN_OUT),  # C, D
        Keep(("time_in.", "vector_in.", "guidance_in."), CONDITION),  # C, D
        Keep(("distilled_guidance_layer.",), CONDITION),  # Q: Chroma
        Keep(("nerf_image_embedder.", "nerf_blocks.", "nerf_final_layer"), IN_OUT),  # Q: Chroma Radiance
        Keep(("stream_modulation",), MODULATION),  # Q: FLUX.2, in which all blocks share it
    ),
)  # fmt: skip

SD3 = image_model(
    "sd3", "Stable Diffusion 3 and 3.5",
    ("joint_blocks.0.x_block.attn.qkv.weight",),  # C
    foreign=(("transformer_blocks.0.attn.add_q_proj.weight",),),  # C
    keep=(
        Keep(("x_embedder.", "final_layer.", "=proj_out.weight"), IN_OUT),  # C, D
        Keep(("t_embedder.", "y_embedder.", "context_embedder.", "time_text_embed."), CONDITION),  # C, D
        Keep(("=pos_embed",), "position embeddings", "F32"),  # C, D
    ),
)  # fmt: skip

AURA = image_model(
    "aura", "AuraFlow",
    ("double_layers.3.modX.1.weight",),  # C
    foreign=(("joint_transformer_blocks.3.ff_context.out_projection.weight",),),  # C
    keep=(
        Keep(("init_x_linear.", "=final_linear.weight"), IN_OUT),  # C
        Keep(("t_embedder.", "=cond_seq_linear.weight"), CONDITION),  # C
        Keep(("=modF.1.weight",), MODULATION),  # C
    ),
)  # fmt: skip

HIDREAM = image_model(
    "hidream", "HiDream-I1",
    ("caption_projection.0.linear.weight", "double_stream_blocks.0.block.ff_i.shared_experts.w3.weight"),  # C
    keep=(
        Keep((".ff_i.gate.weight",), "expert router", "F32"),  # C
        Keep(("x_embedder.", "final_layer."), IN_OUT),  # C
        Keep(("p_embedder.", "t_embedder.", "caption_projection."), CONDITION),  # C
    ),
)  # fmt: skip

COSMOS = image_model(
    "cosmos", "Cosmos Predict 2",
    ("blocks.0.mlp.layer1.weight", "blocks.0.adaln_modulation_cross_attn.1.weight"),  # C
    ignored=("_extra_state", "accum_"),  # C: left over from training
    keep=(
        Keep(("pos_embedder",), "position embeddings", "F32"),  # C
        Keep(("x_embedder.", "final_layer."), IN_OUT),  # C
        Keep(("p_embedder.", "t_embedder.", "t_embedding_norm."), CONDITION),  # C
    ),
)  # fmt: skip

LTXV = image_model(
    "ltxv", "LTX-Video",
    (
        "adaln_single.emb.timestep_embedder.linear_2.weight", "transformer_blocks.27.scale_shift_table",
        "caption_projection.linear_2.weight",
    ),  # C
    keep=(
        Keep(("patchify_proj.", "proj_out."), IN_OUT),  # C; Q: also of the audio
        Keep(("adaln_single.", "caption_projection.", "embeddings_connector."), CONDITION),  # C; Q: LTX-2
        Keep(("scale_shift_table",), MODULATION, "F32"),  # C
        Keep(("to_gate_logits",), "attention gate"),  # Q: LTX-2
    ),
    blocks=("transformer_blocks",),
    rules=(better_edges(2),),  # Q: LTX-2
)  # fmt: skip

HYVID = image_model(
    "hyvid", "HunyuanVideo",
    ("double_blocks.0.img_attn_proj.weight", "txt_in.individual_token_refiner.blocks.1.self_attn_qkv.weight"),  # C
    keep=(
        Keep(("img_in.", "txt_in.", "final_layer."), IN_OUT),  # C, D
        Keep(("time_in.", "vector_in.", "guidance_in."), CONDITION),  # C, D
        Keep(("vision_in.", "cond_type_embedding"), CONDITION),  # Q: HunyuanVideo 1.5
    ),
)  # fmt: skip

WAN = image_model(
    "wan", "Wan 2.1 and 2.2",
    ("blocks.0.self_attn.norm_q.weight", "text_embedding.2.weight", "head.modulation"),  # C
    keep=(
        Keep((".modulation",), MODULATION, "F32"),  # C
        Keep(("patch_embedding.", "=head.head.weight", "ref_conv"), IN_OUT),  # C, D; Q: ref_conv
        Keep(("text_embedding.", "time_embedding.", "time_projection.", "img_emb."), CONDITION),  # C, D
        Keep(("cond_encoder.", "casual_audio_encoder.", "motion_encoder.", "face_encoder."), CONDITION),  # Q
    ),
)  # fmt: skip

QWEN_IMAGE = image_model(
    "qwen_image", "Qwen-Image and Qwen-Image-Edit",
    (
        "time_text_embed.timestep_embedder.linear_2.weight", "transformer_blocks.0.attn.norm_added_q.weight",
        "transformer_blocks.0.img_mlp.net.0.proj.weight",
    ),
    keep=(
        Keep(("=img_in.weight", "=txt_in.weight", "norm_out.", "=proj_out.weight"), IN_OUT),  # Q
        Keep(("time_text_embed.",), CONDITION),  # Q, and C for SD3
        Keep(("=transformer_blocks.0.img_mod.1.weight",), MODULATION),  # Q
    ),
    blocks=("transformer_blocks",),
    rules=(better_edges(1),),
)  # fmt: skip

LUMINA2 = image_model(
    "lumina2", "Lumina-Image 2.0, Z-Image",
    ("cap_embedder.1.weight", "context_refiner.0.attention.qkv.weight"),  # C
    keep=(
        Keep(("x_embedder.", "final_layer."), IN_OUT),  # C, D
        Keep(("t_embedder.", "cap_embedder.", "clip_text_pooled_proj."), CONDITION),  # C; Q: the last one
        Keep(("context_refiner.", "noise_refiner."), CONDITION),  # C
        Keep(("adaLN_modulation.",), MODULATION),  # Q: Z-Image
    ),
)  # fmt: skip

UNET = (
    Keep(("class_embedding.", "time_embedding.", "add_embedding.", "time_embed.", "label_emb."), CONDITION),  # C, D
    Keep(("conv_in.", "conv_out.", "=input_blocks.0.0.weight", "=out.2.weight"), IN_OUT),  # C
)

SDXL = image_model(
    "sdxl", "Stable Diffusion XL",
    ("down_blocks.0.downsamplers.0.conv.weight", "add_embedding.linear_1.weight"),
    (
        "input_blocks.3.0.op.weight", "input_blocks.6.0.op.weight",
        "output_blocks.2.2.conv.weight", "output_blocks.5.2.conv.weight",
    ),
    ("label_emb.0.0.weight",),  # C, all three
    keep=UNET,
    reshape_rows=256,  # C
)  # fmt: skip

SD1 = image_model(
    "sd1", "Stable Diffusion 1",
    ("down_blocks.0.downsamplers.0.conv.weight",),
    (
        "input_blocks.3.0.op.weight", "input_blocks.6.0.op.weight", "input_blocks.9.0.op.weight",
        "output_blocks.2.1.conv.weight", "output_blocks.5.2.conv.weight", "output_blocks.8.2.conv.weight",
    ),  # C, both
    keep=UNET,
    reshape_rows=256,  # C
)  # fmt: skip

ALL = (FLUX, SD3, AURA, HIDREAM, COSMOS, LTXV, HYVID, WAN, QWEN_IMAGE, LUMINA2, SD1, SDXL)
