"""Several outputs of `quantreg quantize`: their names, the run, and the command that makes each alone."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from quantreg.cli.plan_options import default_output, find_file_type

if TYPE_CHECKING:
    from quantreg import FileType, Plan, QuantizeResult
    from quantreg.jobs.card import Card

__all__ = ["command_for", "measuring", "outputs_of", "quantize_wanted"]

# What the bytes of an output do not depend on.
_NOT_SHOWN = {
    "arguments", "card", "card_text", "card_chunks", "dry_run", "as_json", "log_json", "threads", "processes",
    "resumable", "resume", "force", "report", "tuning_cache",
}  # fmt: skip


def outputs_of(source: str, out: str | None, words: str) -> "list[tuple[str, FileType | Plan | None]]":
    """Return the path and the file type of each output. Raises PlanError if OUT does not tell several apart.

    ``words`` are types with commas in between. Without OUT, outputs have the names that llama-quantize gives them.
    """
    from quantreg.jobs.several import PLACE, output_paths

    names = [word.strip() for word in words.split(",")]
    if "" in names:
        raise click.UsageError(f"{words!r} lacks a type between commas: expected types such as Q8_0,Q4_K_M.")
    found = [find_file_type(name) for name in names]
    if len(names) == 1 and (out is None or PLACE not in out):
        return [(out or default_output(source, found[0], names[0]), found[0])]
    if out is None:
        out = default_output(source, found[0]).removesuffix(f"{found[0].name}.gguf") + f"{PLACE}.gguf"
    return list(zip(output_paths(out, names), found, strict=True))


def quantize_wanted(
    source: str,
    wanted: "Sequence[tuple[str, FileType | Plan | None]]",
    imatrix: str | None,
    card: "Card | None",
    keywords: Mapping[str, Any],
) -> "list[QuantizeResult]":
    """Make the outputs and the card. ``keywords`` are those of `quantreg.quantize_file`."""
    from dataclasses import fields

    from quantreg.jobs.several import quantize_outputs
    from quantreg.jobs.tuning_options import TuningOptions
    from quantreg.recipes import PlanOptions

    rest = dict(keywords)
    options = PlanOptions(**{f.name: rest.pop(f.name) for f in fields(PlanOptions) if f.name in rest})
    tuning = TuningOptions(**{f.name: rest.pop(f.name) for f in fields(TuningOptions) if f.name in rest})
    return quantize_outputs(source, wanted, imatrix, options, tuning, card=card, **rest)


def command_for(ctx: click.Context, source: str, words: str) -> Callable[[str, str], str]:
    """Return what writes the command that makes one output, given its path and its type.

    ``words`` are the types of the command; without them, a plan or a target decides the types.
    """
    shown: list[str] = []
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if name in _NOT_SHOWN or ctx.get_parameter_source(name) is click.core.ParameterSource.DEFAULT:
            continue
        value = ctx.params[name]
        if not isinstance(parameter, click.Option) or not parameter.expose_value:
            continue
        if parameter.is_flag:
            shown += parameter.opts[-1:] if value else parameter.secondary_opts[-1:]
            continue
        for each in value if parameter.multiple else [value]:
            shown += [parameter.opts[-1], str(each)]

    def command(path: str, name: str) -> str:
        return " ".join(map(_quoted, ["quantreg", "quantize", source, path, *([name] if words else []), *shown]))

    return command


def measuring(source: str, text: str | None, chunks: int | None, device: str | None) -> Callable[[str], str]:
    """Return what writes the command that measures an output, given its path, on a text in a file."""
    more = {"--chunks": chunks, "--device": device}
    words = [word for option, value in more.items() if value is not None for word in (option, str(value))]

    def command(path: str) -> str:
        return " ".join(map(_quoted, ["quantreg", "perplexity", path, "-f", text or "", "--against", source, *words]))

    return command


def _quoted(word: str) -> str:
    """A word for a shell, on one line: bash, zsh and others read control characters in $'...'."""
    if word.isprintable():
        return shlex.quote(word)
    inner = "".join(c if c.isprintable() and c not in "\\'" else _escape(c) for c in word)
    return f"$'{inner}'"


def _escape(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
