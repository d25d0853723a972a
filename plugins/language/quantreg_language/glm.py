"""GLM without experts."""

from dataclasses import replace

from quantreg import Architecture, Graph

CHATGLM = Graph(fused_gate=True)

ARCHITECTURES = (
    Architecture("chatglm", "ChatGLM 3, GLM-4 9B and GLM Edge", graph=CHATGLM),
    Architecture(
        "glm4",
        "GLM-4 0414",
        graph=replace(CHATGLM, after_attention="post_attention_norm", after_ffn="post_ffw_norm"),
    ),
)
