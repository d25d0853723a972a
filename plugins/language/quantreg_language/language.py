"""The plugin for language models."""

import quantreg


@quantreg.hookimpl
def register_architectures(register):
    # The tables load quantreg.inference, which takes more than 10 ms. A program that only encodes does not need it.
    from quantreg_language import llama, qwen

    for family in (llama, qwen):
        for architecture in family.ARCHITECTURES:
            register(architecture)
