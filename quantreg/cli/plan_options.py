"""The options that decide each tensor's type: the same for `quantreg quantize` and `quantreg plan`."""

import os

import click

__all__ = ["PlanCommand", "default_output", "find_file_type", "plan_options", "to_keywords"]

_OPTIONS = (
    click.option("--imatrix", metavar="FILE", help="Importance matrix, legacy .dat or GGUF."),
    click.option("--names", metavar="FILE", help="Of safetensors: JSON of its names to GGUF's (null: leave out)."),
    click.option("--pure", is_flag=True, help="Every quantized tensor in the file type's own type, no mixture."),
    click.option("--leave-output-tensor", is_flag=True, help="Keep output.weight as it is."),
    click.option("--output-tensor-type", metavar="T", help="Type of output.weight."),
    click.option("--token-embedding-type", metavar="T", help="Type of token_embd.weight."),
    click.option("--tensor-type", "tensor_types", multiple=True, metavar="REGEX=T", help="Type of matching tensors."),
    click.option("--tensor-type-file", metavar="FILE", expose_value=False, help="REGEX=T from a file, spaces or "
                 "newlines between; they count where the option stands."),
    click.option("--allow-requantize", is_flag=True, help="Also quantize tensors that are quantized already."),
    click.option("--override-kv", "overrides", multiple=True, metavar="K=T:V", help="Set metadata: key=int:5, float, "
                 "bool, str."),
    click.option("--prune-layers", multiple=True, metavar="L,L...", help="Leave these layers out."),
    click.option("--include-weights", multiple=True, metavar="PART", help="Use only such imatrix entries."),
    click.option("--exclude-weights", multiple=True, metavar="PART", help="Do not use such imatrix entries."),
    click.option("--on-missing-importance", type=click.Choice(["error", "plain", "fallback"]), default="error",
                 show_default=True, help="A type needs importance and the imatrix has none: stop, encode without, "
                 "or take a type that does without."),
    click.option("--no-fallback", is_flag=True, help="Refuse instead of falling back where rows do not divide into "
                 "blocks."),
    click.option("--keep-split", is_flag=True, help="One output file for each file of IN: OUT-00001-of-00003.gguf ..."),
)  # fmt: skip


class PlanCommand(click.Command):
    """Puts what a --tensor-type-file holds in its place among the --tensor-type options: the first that fits decides.

    Click keeps the order of the values of one option only.
    """

    def parse_args(self, ctx, args):
        words, rest = [], iter(args)
        for word in rest:
            option, equals, path = word.partition("=")
            if option == "--tensor-type-file" and (path := path if equals else next(rest, "")):
                words += [f"--tensor-type={text}" for text in _tensor_types_in(path)]
            else:
                words.append(word)
        return super().parse_args(ctx, words)


def _tensor_types_in(path):
    """The words of a file, as far as they are tensor types: PlanError for the first that is none."""
    from quantreg.recipes import parse_tensor_type

    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            for text in line.split():
                parse_tensor_type(text)
                yield text


def plan_options(command):
    """Decorator: gives a command these options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def to_keywords(given: dict) -> dict:
    """The keywords of `quantreg.plan` (imatrix and those of PlanOptions) from the values of the options."""
    from quantreg import recipes

    options = dict(given)
    return options | {
        "tensor_types": tuple(recipes.parse_tensor_type(text) for text in options.pop("tensor_types")),
        "override_kv": tuple(recipes.parse_override(text) for text in options.pop("overrides")),
        "prune_layers": tuple(n for text in options.pop("prune_layers") for n in recipes.parse_layers(text)),
    }


def find_file_type(word):
    """The FileType of a name, number or type. Raises UnknownFileTypeError."""
    from quantreg import recipes
    from quantreg.registry import types

    return recipes.file_types.find(word, types)


def default_output(source, file_type, word=None) -> str:
    """ggml-model-TYPE.gguf beside the source. TYPE is the alias, if the user's word is one.

    llama-quantize lists an alias before the name it stands for, so that a number is its alias: 15 is Q4_K.
    """
    name = str(word or "").strip().upper()
    if name not in file_type.aliases:
        name = file_type.aliases[0] if name.isdigit() and file_type.aliases else file_type.name
    return os.path.join(os.path.dirname(source), f"ggml-model-{name}.gguf")
