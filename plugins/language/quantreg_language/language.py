"""The plugin for language models."""

import quantreg


@quantreg.hookimpl
def register_architectures(register):
    # The tables load quantreg.inference, which takes more than 10 ms. A program that only encodes does not need it.
    from quantreg_language import (
        deepseek,
        encoders,
        gemma4,
        glm,
        hunyuan,
        lfm2,
        llama,
        llama4,
        openai,
        qwen,
        qwen_next,
    )

    families = (deepseek, encoders, gemma4, glm, hunyuan, lfm2, llama, llama4, openai, qwen, qwen_next)
    for family in families:
        for architecture in family.ARCHITECTURES:
            register(architecture)
