"""A Markdown table about the files of a run, for a model card: sizes, digests, how good they are, how to make them."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import quote

from quantreg import __version__
from quantreg.dispatch import cpu_count
from quantreg.errors import ModelError, OutputError, QualityError, TokenizerError
from quantreg.events import Calibrating, Event
from quantreg.jobs.results import QuantizeResult
from quantreg.jobs.source import stamp_of
from quantreg.jobs.told import told
from quantreg.storage import AtomicFile, temporary_folder
from quantreg.words import count

if TYPE_CHECKING:
    from quantreg.jobs.tuning_options import TuningOptions
    from quantreg.quality import Divergence
    from quantreg.quality.chunks import TextOrIds

__all__ = ["Card", "card_text", "escaped"]

N_CTX = 512  # tokens of a chunk of a text that measures the outputs
FEWEST = 2  # chunks of text that a divergence is measured on


class Measured(NamedTuple):
    """How far the outputs are from the source: a Divergence for each, and ``what`` they were measured on."""

    divergences: "Sequence[Divergence]"
    what: str


@dataclass(frozen=True, slots=True)
class Card:
    """What is to be written about the outputs of a run, and where.

    ``text`` is what divergences are measured on: text, or the Path of a file, or None; of it ``chunks`` chunks at most.
    ``made_by(path, name)`` is the command, or the call, that makes the output of this path and file type, and
    ``measured_by(path)`` the one that measures it on a file.
    """

    path: str
    text: str | PathLike[str] | None
    made_by: Callable[[str, str], str]
    measured_by: Callable[[str], str]
    chunks: int | None = None

    @property
    def reads(self) -> list[str]:
        """The files that the card is made from, besides the outputs."""
        return [os.fspath(self.text)] if isinstance(self.text, PathLike) else []

    @property
    def picture(self) -> str:
        """The path of the picture of what was measured: README.svg for README.md."""
        path = f"{os.path.splitext(self.path)[0]}.svg"
        return path if path != self.path else f"{path}.svg"

    def check(self, outputs: Sequence[str], src: str | bytes | PathLike[str], *, force: bool = False) -> None:
        """Raise OutputError if the card must not be written there, and OSError if the text cannot be read."""
        for mine in (self.path, self.picture):
            real = os.path.normcase(os.path.realpath(mine))
            if any(os.path.normcase(os.path.realpath(path)) == real for path in outputs):
                raise OutputError(f"{mine}: is an output: give the card another name")
            if mine == self.path or self.text is not None:
                AtomicFile(mine, force=force, source=[os.fsdecode(src), *self.reads]).check()
        folder = os.path.dirname(os.path.realpath(self.path))
        if os.path.realpath(os.fsdecode(src)) == folder and os.path.exists(self.path):
            # Such as the model's own card, which says what its license is.
            raise OutputError(f"{self.path}: is part of the input: choose another name")
        if not os.path.isdir(folder):
            raise OutputError(f"{self.path}: cannot be written: {folder} is no folder: create it first")
        for path in self.reads:
            with open(path, "rb"):
                pass

    @property
    def kept(self) -> str:
        """The path of the file where measurements wait until the card is written."""
        return f"{self.path}.quantreg-measured"

    def after(
        self, src: str | bytes | PathLike[str], tuning: "TuningOptions", threads: int | None, force: bool, keep: bool
    ) -> Callable[[list[QuantizeResult]], Iterator[Event]]:
        """What measures the outputs of a run and writes the card, and yields events about it.

        With ``keep``, what was measured stays when the run ends early, and the next one does not measure it again.
        """

        def write(results: list[QuantizeResult]) -> Generator[Event, None, None]:
            digests = yield from _digests([path for result in results for path in result.paths], threads)
            measured: Measured | str = ""
            if self.text is not None or tuning.calibration is not None:
                try:
                    kept = Kept(self.kept if keep else None, digests)
                    measured = yield from _measured(src, results, self, tuning, threads, kept)
                except (ModelError, QualityError, TokenizerError) as error:
                    measured = f"The files were not measured, because {error}."
            drawn = _picture(results, measured) if isinstance(measured, Measured) and len(results) > 1 else ""
            text = card_text(os.fsdecode(src), results, digests, measured, self, pictured=bool(drawn))
            pages = [(self.path, text)] + ([(self.picture, drawn)] if drawn else [])
            for path, page in pages:
                with AtomicFile(path, force=force, source=[os.fsdecode(src), *self.reads]) as file:
                    file.write(page.encode("utf-8", "surrogateescape"))
            if keep:
                with suppress(FileNotFoundError):
                    os.unlink(self.kept)

        return write


class Kept:
    """Measurements in a file of JSON lines, each with what it depends on, so that they can be used by a later run.

    Without a path, it keeps none. ``digests`` are those of the outputs.
    """

    def __init__(self, path: str | None, digests: Mapping[str, str]) -> None:
        self._path, self._digests = path, digests
        self._found: dict[str, dict[str, Any]] = {}
        if path is not None:
            with suppress(FileNotFoundError, ValueError, KeyError, TypeError), open(path, encoding="utf-8") as file:
                for line in file:
                    entry = json.loads(line)
                    self._found[entry["of"]] = entry["found"]

    def get(self, of: Sequence[Any], result: QuantizeResult) -> "Divergence | None":
        """What was measured on this output, if it and ``of``, what else it depends on, are the same."""
        found = self._found.get(self._key(of, result))
        if found is None:
            return None
        from quantreg.quality import Divergence  # inference takes 50 ms to load

        with suppress(TypeError, ValueError, KeyError):
            return Divergence.from_dict(found)
        return None

    def add(self, of: Sequence[Any], result: QuantizeResult, found: "Divergence") -> "Divergence":
        """Keep a measurement, and return it. Raises OutputError."""
        if self._path is not None:
            line = json.dumps({"of": self._key(of, result), "found": found.to_dict()})
            try:
                with open(self._path, "a", encoding="utf-8") as file:
                    file.write(f"{line}\n")
            except OSError as error:
                raise OutputError(f"{self._path}: cannot be written: {error.strerror}: free some space") from error
        return found

    def _key(self, of: Sequence[Any], result: QuantizeResult) -> str:
        whole = [__version__, *of, *(self._digests[path] for path in result.paths)]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _digests(paths: Sequence[str], threads: int | None) -> Generator[Event, None, dict[str, str]]:
    """The SHA-256 of each file, which is read once. Several files are read at a time."""
    total = sum(os.path.getsize(path) for path in paths)

    import hashlib  # OpenSSL takes 3.5 MiB, and only a card needs it

    def digest(path: str) -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    done, found = 0, {}
    yield Calibrating("checksums", 0, total)
    with ThreadPoolExecutor(min(threads or cpu_count(), len(paths)), thread_name_prefix="quantreg-sha256") as pool:
        for path, digested in zip(paths, pool.map(digest, paths), strict=True):
            found[path] = digested
            done += os.path.getsize(path)
            yield Calibrating("checksums", done, total)
    return found


def _measured(
    src: str | bytes | PathLike[str],
    results: Sequence[QuantizeResult],
    card: Card,
    tuning: "TuningOptions",
    threads: int | None,
    kept: Kept,
) -> Generator[Event, None, Measured | str]:
    """How far the outputs are from the source, on a text that decided nothing; a sentence if it is too short."""
    import numpy as np

    from quantreg import files  # inference takes 50 ms to load
    from quantreg.inference.model import Model
    from quantreg.jobs.tuned_model import calibration_of
    from quantreg.quality import ChunkDone, kl_divergence, perplexity, read_text

    with files.open(src) as file:
        model = Model(file.metadata, file, threads=threads, device=tuning.device)
        text, n_ctx, given = card.text, N_CTX, cast("TextOrIds", card.text)
        if isinstance(text, PathLike):
            given, what = read_text(text), escaped(os.path.basename(os.fspath(text)))
        elif text is not None:
            what = "a text"
        else:
            calibration = calibration_of(model, tuning)
            part = calibration.part("report")
            if len(part) < FEWEST:
                return "The calibration text is too short to leave a part that measures the files."
            given, n_ctx = np.asarray(part.reshape(-1)), part.shape[1]
            what = "a tenth of the calibration text that decided nothing"
        stamps = [(os.path.abspath(path), *stamp_of(path)) for path in file.paths]
        words = given.encode("utf-8", "surrogatepass") if isinstance(given, str) else np.asarray(given, "<i8").tobytes()
        of = [stamps, hashlib.sha256(words).hexdigest(), n_ctx, card.chunks, str(tuning.device)]
        known = {result.path: kept.get(of, result) for result in results}
        todo = [result for result in results if known[result.path] is None]
        folder = os.path.dirname(os.path.abspath(results[0].path))  # has room for large files
        with temporary_folder(folder, ".card") as temporary:
            base = temporary / "base.kld"

            def work(tell: Callable[[Any], None]) -> None:
                done = 0

                def step(event: object) -> None:
                    nonlocal done
                    if isinstance(event, ChunkDone):
                        done += 1
                        tell(Calibrating("report", done, event.chunks * (1 + len(todo))))

                if todo:
                    perplexity(
                        model, given, n_ctx=n_ctx, chunks=card.chunks, save_base=base, threads=threads, progress=step
                    )
                for result in todo:
                    one = kl_divergence(result.path, base, threads=threads, device=tuning.device, progress=step)
                    known[result.path] = kept.add(of, result, one)

            with closing(told(work)) as events:
                yield from events
    found = [one for one in known.values() if one is not None]
    return Measured(found, f"{what} ({count(found[0].tokens, 'prediction')}, in chunks of {n_ctx} tokens)")


def card_text(
    src: str,
    results: Sequence[QuantizeResult],
    digests: "dict[str, str]",
    measured: Measured | str,
    card: Card,
    *,
    pictured: bool = False,
) -> str:
    """The card in Markdown. ``digests`` are the SHA-256 of all files, and ``measured`` may be a sentence or empty."""
    found = measured.divergences if isinstance(measured, Measured) else []
    headings = ["File", "Type", "Size", "Bits per weight"]
    headings += ["KL divergence", "Perplexity"] if found else []
    rows = []
    for number, result in enumerate(results):
        for shard, path in enumerate(result.paths):
            row = [escaped(os.path.basename(path)), escaped(result.plan.file_type.name), _size(os.path.getsize(path))]
            row.append(f"{result.bits_per_weight:.2f}" if not shard else "")
            if found:
                one = found[number]
                kl = f"{one.kl_mean:.6f} ± {one.kl_error:.6f}"
                row += ["", ""] if shard else [kl, f"{one.perplexity:.4f} ± {one.perplexity_error:.4f}"]
            rows.append([*row, f"`{digests[path]}`"])
    lines = ["# Files", "", *_table([*headings, "SHA-256"], rows), ""]
    if pictured:
        lines += [f"![KL divergence against file size](<{quote(os.path.basename(card.picture))}>)", ""]
    name = escaped(os.path.basename(os.path.normpath(src)))
    if isinstance(measured, Measured):
        base = found[0]
        lines += [
            f"KL divergence (mean, in nats) and perplexity, with their standard errors, were measured on "
            f"{measured.what}, against {name}, whose perplexity there is {base.perplexity_base:.4f} ± "
            f"{base.perplexity_base_error:.4f}.",
            "",
        ]
    elif measured:
        lines += [escaped(measured), ""]
    lines += [f"Each file can be made from {name} with quantreg {__version__} by:", ""]
    commands = [card.made_by(result.path if len(result.paths) == 1 else _unsplit(result), result.plan.file_type.name)
                for result in results]  # fmt: skip
    lines += _fenced(commands)
    if found and isinstance(card.text, PathLike):
        lines += ["", "and measured by:", "", *_fenced([card.measured_by(result.path) for result in results])]
    return "\n".join([*lines, ""])


def _picture(results: Sequence[QuantizeResult], measured: Measured) -> str:
    """KL divergence against size as an SVG file."""
    from quantreg.tuning.report import Variant  # these take 20 ms to load
    from quantreg.tuning.report_chart import picture

    pairs = zip(results, measured.divergences, strict=True)
    return picture([Variant(result.plan.file_type.name, result.size, one.kl_mean) for result, one in pairs])


def _fenced(lines: Sequence[str]) -> list[str]:
    """Lines of code."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", "\n".join(lines))), default=0))
    return [fence, *lines, fence]


def _unsplit(result: QuantizeResult) -> str:
    """The name of an output from which the names of its shards were made."""
    return re.sub(r"-\d{5}-of-\d{5}\.gguf$", ".gguf", result.path)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    right = ("Size", "Bits per weight", "KL divergence", "Perplexity")
    marks = ["---:" if heading in right else "---" for heading in headings]
    return [f"| {' | '.join(cells)} |" for cells in (headings, marks, *rows)]


def _size(nbytes: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.2f} {unit}"
    return f"{nbytes} B"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line, also in a table."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    text = re.sub(r"([\\`*\[\]<>&|~#$!])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)  # inside a word it is no emphasis
