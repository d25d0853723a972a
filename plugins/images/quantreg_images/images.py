"""The plugin for image and video models."""

import quantreg


@quantreg.hookimpl
def register_architectures(register):
    # The table loads quantreg.recipes, which takes more than 10 ms and which a program that only encodes does not need.
    from quantreg_images.architectures import ALL

    for architecture in ALL:
        register(architecture)
