"""The options about a calibration text and a target, shared by `quantreg quantize` and `quantreg plan`."""

from collections.abc import Callable, Mapping
from typing import Any

import click

__all__ = ["to_tuning", "tuning_inputs", "tuning_options"]

_OPTIONS = (
    click.option("--calibration", "texts", multiple=True, metavar="FILE", help="A text in UTF-8 that shows what the "
                 "model is used for. Can be repeated."),
    click.option("--ids", "as_ids", is_flag=True, help="The files of --calibration hold token ids, as `llama-tokenize "
                 "--ids` prints them."),
    click.option("-c", "--ctx-size", "n_ctx", type=int, metavar="N", help="Tokens of a chunk of the calibration text. "
                 " [default: 512]"),
    click.option("--chunks", type=int, metavar="N", help="Use at most N chunks of the calibration text."),
    click.option("--device", metavar="NAME", help="What computes the products with the calibration text: cpu, cuda, "
                 "cuda:1 or mps.  [default: cpu]"),
    click.option("--across-layers/--no-across-layers", "across_layers", default=None, help="Whether matrices make up "
                 "for the errors of those before them. Without it, the run takes about two thirds of the time.  "
                 "[default: yes]"),
    click.option("--target-size", metavar="SIZE", help="The size of the file, at most: 4.2GB, 900M. It decides the "
                 "types, instead of TYPE."),
    click.option("--target-bpw", type=float, metavar="X", help="Bits of tensor data per weight, at most, instead of "
                 "TYPE."),
    click.option("--types", metavar="T,T...", help="The types to choose from for a target.  [default: all that suit]"),
    click.option("--tuning-cache", metavar="FILE", help="Keep in FILE what does not depend on the target, for further "
                 "files of this model and text."),
)  # fmt: skip
_NAMES = (
    *("texts", "as_ids", "n_ctx", "chunks", "device", "across_layers"),
    *("target_size", "target_bpw", "types", "tuning_cache"),
)


def tuning_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add these options to a command, as a decorator."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def to_tuning(given: dict[str, Any]) -> dict[str, Any]:
    """Take the values of these options out of ``given``, as keywords of `quantreg.quantize_file`.

    Raises UsageError for options that do not go together, and what `quantreg.quality.read_ids` raises.
    """
    found = {name: given.pop(name) for name in _NAMES}
    texts, as_ids, n_ctx = found.pop("texts"), found.pop("as_ids"), found.pop("n_ctx")
    if found["across_layers"] is None:
        del found["across_layers"]
    if not texts:
        about = {"--ids": as_ids or None, "-c": n_ctx, "--chunks": found["chunks"], "--device": found["device"]}
        about |= {"--across-layers": found.get("across_layers")}
        for option, value in about.items():
            if value is not None:
                raise click.UsageError(f"{option} is about a calibration text: give one with --calibration.")
    if found["target_size"] is not None and found["target_bpw"] is not None:
        raise click.UsageError("give only one of --target-size and --target-bpw.")
    for option, name in (("--types", "types"), ("--tuning-cache", "tuning_cache")):
        if found[name] and found["target_size"] is None and found["target_bpw"] is None:
            raise click.UsageError(f"{option} is about a target: give --target-size or --target-bpw.")
    calibration: list[Any] | None = None
    if texts:
        from quantreg.quality import read_ids, read_text

        calibration = [(read_ids if as_ids else read_text)(path) for path in texts]
    return found | {
        "types": found["types"] or (), "n_ctx": n_ctx or 512, "calibration": calibration, "datasets": list(texts)
    }  # fmt: skip


def tuning_inputs(tuning: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths that these options read, which no output replaces."""
    return tuple(tuning["datasets"])
