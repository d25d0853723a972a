"""The options that decide the type of each tensor, shared by `quantreg quantize` and `quantreg plan`."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from quantreg.recipes import FileType

__all__ = [
    "PlanCommand",
    "default_output",
    "find_file_type",
    "plan_options",
    "refuse_to_replace",
    "to_keywords",
    "type_files",
]

_TYPE_FILES = "quantreg.tensor_type_files"  # where a context keeps the paths of these files

_OPTIONS = (
    click.option("--imatrix", metavar="FILE", help="Importance matrix: GGUF or the older .dat format."),
    click.option("--names", metavar="FILE", help="For a safetensors model: a JSON file that maps its tensor names to "
                 "GGUF names. A tensor mapped to null is left out."),
    click.option("--pure", is_flag=True, help="Give every quantized tensor the main type of TYPE instead of a mixture "
                 "of types."),
    click.option("--leave-output-tensor", is_flag=True, help="Do not convert output.weight."),
    click.option("--output-tensor-type", metavar="T", help="The type of output.weight."),
    click.option("--token-embedding-type", metavar="T", help="The type of token_embd.weight."),
    click.option("--tensor-type", "tensor_types", multiple=True, metavar="REGEX=T", help="The type of the tensors in "
                 "whose names REGEX is found. Can be repeated; the first match decides."),
    click.option("--tensor-type-file", metavar="FILE", expose_value=False, help="Read REGEX=T entries, separated by "
                 "spaces or newlines, as if each was given as --tensor-type at this place."),
    click.option("--allow-requantize", is_flag=True, help="Allow a model that is already quantized to be quantized "
                 "again, with a loss of quality."),
    click.option("--override-kv", "overrides", multiple=True, metavar="K=T:V", help="Set metadata key K to value V. T "
                 "is int, float, bool, str, or one of GGUF's types such as u64 and array[f32]. Can be repeated."),
    click.option("--prune-layers", multiple=True, metavar="L,L...", help="Remove the layers with these numbers."),
    click.option("--include-weights", multiple=True, metavar="PART", help="Use only the imatrix entries whose names "
                 "contain PART. Can be repeated."),
    click.option("--exclude-weights", multiple=True, metavar="PART", help="Ignore the imatrix entries whose names "
                 "contain PART. Can be repeated."),
    click.option("--on-missing-importance", type=click.Choice(["error", "plain", "fallback"]), default="error",
                 show_default=True, help="What to do if a tensor's type needs importance and the imatrix has none for "
                 "the tensor: stop (error), encode without it (plain), or use a type that can do without (fallback)."),
    click.option("--imatrix-floor", type=float, default=0.0, metavar="X", help="Raise the importance of each column to "
                 "at least X times the mean of its row (0 to 1). 0.01 keeps the weights of columns that calibration "
                 "did not use."),
    click.option("--no-fallback", is_flag=True, help="Stop if the rows of a tensor do not divide into blocks, instead "
                 "of using a fallback type."),
    click.option("--keep-dims", is_flag=True, help="Keep leading dimensions of 1 in shapes such as 1 x 256, which "
                 "llama-quantize drops. Tensors of a safetensors model always keep them."),
    click.option("--keep-split", is_flag=True, help="Write one output file per file of IN: OUT-00001-of-00003.gguf "
                 "and so on."),
)  # fmt: skip


class PlanCommand(click.Command):
    """A command that replaces each --tensor-type-file by the --tensor-type options that the file holds.

    The first match decides, so the order of both options matters, and click keeps only the order of each option alone.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments after the replacement. Raises OSError for the file, PlanError for what it holds."""
        words: list[str] = []
        rest = iter(args)
        for word in rest:
            option, equals, path = word.partition("=")
            if option == "--tensor-type-file" and (path := path if equals else next(rest, "")):
                ctx.meta[_TYPE_FILES] = [*type_files(ctx), path]
                words += [f"--tensor-type={text}" for text in _tensor_types_in(path)]
            else:
                words.append(word)
        return super().parse_args(ctx, words)


def _tensor_types_in(path: str) -> Iterator[str]:
    """Yield the REGEX=T entries of a file. Raises PlanError for the first word that is not one."""
    from quantreg.recipes import parse_tensor_type

    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in iter(lambda: file.readline(1 << 16), ""):  # a model given by mistake may be one long line
            for text in line.split():
                parse_tensor_type(text)
                yield text


def type_files(ctx: click.Context) -> list[str]:
    """Return the paths that were given as --tensor-type-file."""
    return list(ctx.meta.get(_TYPE_FILES, ()))


def refuse_to_replace(out: str, *files: str | None) -> None:
    """Raise OutputError if OUT, or a shard that its name stands for, is one of these inputs, even with --force.

    The writer itself protects the model, the imatrix and the names.
    """
    from quantreg.errors import OutputError

    shard = re.compile(re.escape(out.removesuffix(".gguf")) + r"-\d{5}-of-\d{5}\.gguf")
    for path in files:
        if path and ((os.path.exists(out) and os.path.samefile(out, path)) or shard.fullmatch(path)):
            raise OutputError(f"{path if shard.fullmatch(path) else out}: is the input: choose another name")


def plan_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add these options to a command, as a decorator."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def to_keywords(given: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the values of these options to keywords of `quantreg.plan`. Raises PlanError for a malformed value."""
    from quantreg import recipes

    options = dict(given)
    return options | {
        "tensor_types": tuple(recipes.parse_tensor_type(text) for text in options.pop("tensor_types")),
        "override_kv": tuple(recipes.parse_override(text) for text in options.pop("overrides")),
        "prune_layers": tuple(n for text in options.pop("prune_layers") for n in recipes.parse_layers(text)),
    }


def find_file_type(word: str) -> "FileType":
    """Find the file type for a name, a number or a quant type. Raises UnknownFileTypeError."""
    from quantreg import recipes
    from quantreg.registry import types

    return recipes.file_types.find(word, types)


def default_output(source: str, file_type: "FileType", word: str | None = None) -> str:
    """Return the default output: ggml-model-TYPE.gguf in the folder of the source, as llama-quantize names it.

    TYPE is the name of the file type. It is the alias (Q4_K for Q4_K_M) if ``word``, which the user gave, is the alias
    or a number, because llama-quantize finds the alias first when it looks up a number.
    """
    name = str(word or "").strip().upper()
    if name not in file_type.aliases:
        name = file_type.aliases[0] if name.isdigit() and file_type.aliases else file_type.name
    folder = source if os.path.isdir(source) else os.path.dirname(source)
    return os.path.join(folder, f"ggml-model-{name}.gguf")
