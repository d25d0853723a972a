"""The files of several outputs: which must not be replaced, which are finished, and how the others are continued."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quantreg.errors import OutputError
from quantreg.jobs.rehearsal import Rehearsal
from quantreg.jobs.resume import identity_of
from quantreg.storage import AtomicFile, PartialFile, journal_path, partial_path

if TYPE_CHECKING:
    from quantreg.jobs.shards import OutputFile

__all__ = ["check_outputs", "over", "partial_files"]


def check_outputs(
    rehearsals: Sequence[Rehearsal], inputs: Sequence[str] = (), *, force: bool = False, resume: bool = False
) -> None:
    """Raise OutputError now, and not after hours, if a file must not be replaced. It names all files that exist."""
    finished = over(rehearsals) if resume else frozenset()
    files = [file.path for number, each in enumerate(rehearsals) if number not in finished for file in each.files]
    files = [path for path in files if not (resume and _is_named(path) and os.path.exists(journal_path(path)))]
    read = [*rehearsals[0].source.paths, *inputs]
    for path in files:
        AtomicFile(path, force=True, source=read).check()
    existing = [path for path in files if os.path.exists(path)]
    if existing and not force:
        one = len(existing) == 1
        raise OutputError(
            f"{', '.join(existing)}: {'exists' if one else 'exist'}: choose another name, or replace "
            f"{'it' if one else 'them'} with force (--force)"
        )


def over(rehearsals: Sequence[Rehearsal]) -> frozenset[int]:
    """The numbers of the outputs that were finished by a run which was killed while it removed its journals.

    A run removes them when all files have their names. So if these do, and a journal is left, the other files are done.
    """
    files = [file.path for rehearsal in rehearsals for file in rehearsal.files]
    if not all(map(_is_named, files)) or not any(os.path.exists(journal_path(path)) for path in files):
        return frozenset()
    return frozenset(
        number
        for number, rehearsal in enumerate(rehearsals)
        if not any(os.path.exists(journal_path(file.path)) for file in rehearsal.files)
    )


def _is_named(path: str) -> bool:
    return os.path.exists(path) and not os.path.exists(partial_path(path))


def partial_files(
    rehearsals: Sequence[Rehearsal], more: Sequence[Mapping[str, Any]], resume: bool
) -> Callable[..., AtomicFile]:
    """What opens a file so that it can be continued. Each depends on what its own output is made from.

    ``more`` adds to the identity of each output, if it is not empty. The names of several outputs are part of it, too:
    `over` may then conclude from one of them that the others are done.
    """
    identities: dict[str, Any] = {}
    together = [os.path.basename(rehearsal.files[0].path) for rehearsal in rehearsals]
    for number, (source, planned, found, files, _) in enumerate(rehearsals):
        identity = identity_of(source, planned, found) | (dict(more[number]) if more else {})
        if len(rehearsals) > 1:
            identity["set of outputs"] = together
        identities |= {file.path: identity | {"output": file.digest} for file in files}

    def begin(file: "OutputFile", **keywords: Any) -> AtomicFile:
        return PartialFile(file.path, identities[file.path], resume=resume, **keywords)

    return begin
