"""Several file types of one model in one run."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from os import PathLike
from typing import Any, Unpack

from quantreg.errors import OutputError, PlanError
from quantreg.events import Event, Finished
from quantreg.importance import ImatrixLike
from quantreg.jobs.card import Card
from quantreg.jobs.results import QuantizeResult
from quantreg.jobs.running import run
from quantreg.jobs.tuning_options import Keywords, TuningOptions, parted
from quantreg.keywords import names_nearest, takes
from quantreg.qtype import QuantType
from quantreg.recipes import FileType, Plan, PlanOptions, file_types
from quantreg.registry import types

__all__ = ["PLACE", "output_paths", "quantize_files", "quantize_outputs"]

PLACE: str = "{type}"  # what stands for the file type in the name of an output


@names_nearest
@takes(PlanOptions, TuningOptions)
def quantize_files(
    src: str | bytes | PathLike[str],
    dst: str | bytes | PathLike[str],
    file_types: Sequence[str | int | QuantType | FileType | Plan],
    imatrix: ImatrixLike | None = None,
    *,
    progress: Callable[[Event], object] | None = None,
    threads: int | None = None,
    executor: Executor | None = None,
    force: bool = False,
    resumable: bool = False,
    resume: bool = False,
    names: Mapping[str, str | None] | str | bytes | PathLike[str] | None = None,
    split_max_size: int | str | None = None,
    split_max_tensors: int | None = None,
    card: str | bytes | PathLike[str] | None = None,
    card_text: str | PathLike[str] | None = None,
    card_chunks: int | None = None,
    **given: Unpack[Keywords],
) -> list[QuantizeResult]:
    """Quantize the model at src to several file types at once, and return a result for each, in order.

    ``dst`` holds ``{type}``, for which the name of each file type is put: "out-{type}.gguf". Each tensor is read and
    decoded once, a slab at a time, and tensors that several outputs hold alike are encoded once. The bytes are those of
    a run of `quantreg.quantize_file` for each type. The outputs appear under their names when all are complete.

    - ``file_types``: those of `quantreg.quantize_file`, each of which makes one output.
    - ``card``: the path of a Markdown file that is also written: a table of the files with sizes, bits per weight,
      SHA-256 digests and the calls that make them; and, where they are measured, KL divergences and perplexities, with
      a picture of them beside the card: README.svg for README.md.
    - ``card_text``: a text that these are measured on, a str or the Path of a file. Without it, a calibration text
      serves, of which a tenth decides nothing. ``card_chunks``: the largest number of its chunks of 512 tokens.

    The other arguments are those of `quantreg.quantize_file`, and hold for all outputs; a target, which decides the
    types of one file, does not go with them. With a calibration text, its statistics are collected once. With
    ``resume``, all outputs go on, and those that are finished are not written again. The results have the ``seconds``
    of the whole run. Of the events, Started has the plans of all outputs; there is a Finished for each.

    Raises what `quantreg.quantize_file` raises; PlanError if ``dst`` does not hold ``{type}`` once or two outputs would
    be the same file; OutputError that names all outputs that exist.
    """
    options, tuning = parted(given)
    if tuning.has_target:
        raise PlanError(
            "a target decides the types of one file: use quantize_file for it, or leave target_size and target_bpw out"
        )
    wanted = [(path, one) for path, one in zip(output_paths(dst, file_types), _found(file_types), strict=True)]
    if card is None and not (card_text is None and card_chunks is None):
        raise PlanError("card_text and card_chunks are about a card: give its path (card=, --card)")
    about = None
    if card is not None:
        calls = _calls(src, imatrix, names, split_max_size, split_max_tensors, given)
        about = Card(os.fsdecode(card), card_text, calls, _measures(src, card_text, card_chunks, given), card_chunks)
    return quantize_outputs(
        src, wanted, imatrix, options, tuning, progress=progress, threads=threads, executor=executor, force=force,
        resumable=resumable, resume=resume, names=names, split_max_size=split_max_size,
        split_max_tensors=split_max_tensors, card=about,
    )  # fmt: skip


def quantize_outputs(
    src: str | bytes | PathLike[str],
    wanted: Sequence[tuple[str | bytes | PathLike[str], Any]],
    imatrix: ImatrixLike | None,
    options: PlanOptions,
    tuning: TuningOptions,
    *,
    progress: Callable[[Event], object] | None = None,
    threads: int | None = None,
    force: bool = False,
    card: Card | None = None,
    **run_options: Any,
) -> list[QuantizeResult]:
    """Make the outputs ``wanted``, each a path and a file type or plan, and the card. See `quantreg.jobs.running.run`.

    Raises what `quantize_files` raises.
    """
    more: dict[str, Any] = {}
    if card is not None:
        card.check([os.fsdecode(path) for path, _ in wanted], src, force=force)
        keep = bool(run_options.get("resumable") or run_options.get("resume"))
        more = {"also": card.reads, "after": card.after(src, tuning, threads, force, keep)}
    results: list[QuantizeResult] = []
    events = run(src, wanted, imatrix, options, tuning, threads=threads, force=force, **run_options, **more)
    with closing(events):
        for event in events:
            if progress is not None:
                progress(event)
            if isinstance(event, Finished):
                results.append(event.result)
    return results


def output_paths(dst: str | bytes | PathLike[str], file_types: Sequence[Any]) -> list[str]:
    """The path of each output. Raises PlanError if ``dst`` does not tell them apart."""
    path = os.fsdecode(dst)
    if isinstance(file_types, (str, bytes)) or not file_types:
        raise PlanError(f'file_types is {file_types!r:.40}: give a list of file types, such as ["Q8_0", "Q4_K_M"]')
    places = path.count(PLACE)
    if places != 1:
        found = f"holds {PLACE} {places} times" if places else f"does not hold {PLACE}"
        raise PlanError(
            f"{path}: {found}, which stands for the file type in the names of several outputs: give a name such as "
            f"model-{PLACE}.gguf"
        )
    names = [_name(one) for one in _found(file_types)]
    paths = [path.replace(PLACE, name) for name in names]
    seen: dict[str, str] = {}
    for each, given in zip(paths, file_types, strict=True):
        real = os.path.normcase(os.path.realpath(each))
        if real in seen:
            raise PlanError(
                f"{each}: would be written twice, for {seen[real]} and {_said(given)}, which are the same file type: "
                "leave one of them out"
            )
        seen[real] = _said(given)
    return paths


def _found(wanted: Sequence[Any]) -> list[FileType | Plan]:
    return [one if isinstance(one, Plan) else file_types.find(one, types) for one in wanted]


def _name(found: FileType | Plan) -> str:
    name = found.file_type.name if isinstance(found, Plan) else found.name
    if os.path.basename(name) != name:
        raise OutputError(f"{name}: this name of a file type cannot be part of the name of a file")
    return name


def _said(given: Any) -> str:
    return str(getattr(given, "name", given)) if not isinstance(given, Plan) else given.file_type.name


def _calls(
    src: str | bytes | PathLike[str],
    imatrix: ImatrixLike | None,
    names: Any,
    split_max_size: int | str | None,
    split_max_tensors: int | None,
    given: Mapping[str, Any],
) -> Callable[[str, str], str]:
    """What writes the call of Python that makes an output of this path and type."""

    options = {"names": names, "split_max_size": split_max_size, "split_max_tensors": split_max_tensors, **given}
    words = [_shown(imatrix)] if imatrix is not None else []
    words += [f"{name}={_shown(value)}" for name, value in options.items() if value is not None]

    def call(path: str, name: str) -> str:
        return f"quantreg.quantize_file({', '.join([_shown(src), _shown(path), _shown(name), *words])})"

    return call


def _measures(
    src: str | bytes | PathLike[str], text: str | PathLike[str] | None, chunks: int | None, given: Mapping[str, Any]
) -> Callable[[str], str]:
    """What writes the call of Python that measures an output of this path on a text in a file."""
    more = {"chunks": chunks, "device": given.get("device")}
    words = [f"quantreg.quality.read_text({_shown(text)})"]
    words += [f"{name}={_shown(value)}" for name, value in more.items() if value is not None]
    return lambda path: f"quantreg.kl_divergence({', '.join([_shown(path), _shown(src), *words])})"


def _shown(value: Any) -> str:
    value = os.fsdecode(value) if isinstance(value, (bytes, PathLike)) else value
    text = repr(value)
    return text if len(text) <= 200 else "..."
