"""The plugin for language models."""

from importlib import import_module

import quantreg

# The modules of this package that hold tables, one for each family of models.
FAMILIES = (
    "cohere",
    "deepseek",
    "encoders",
    "further",
    "gemma",
    "gemma3n",
    "gemma4",
    "glm",
    "gpt",
    "granite",
    "hunyuan",
    "hybrids",
    "kimi",
    "lfm2",
    "llama",
    "llama4",
    "mixtures",
    "olmo",
    "openai",
    "others",
    "phi",
    "qwen",
    "qwen_next",
)


@quantreg.hookimpl
def register_architectures(register):
    # The tables load quantreg.inference, which takes more than 10 ms. A program that only encodes does not need it.
    for family in FAMILIES:
        for architecture in import_module(f"quantreg_language.{family}").ARCHITECTURES:
            register(architecture)
