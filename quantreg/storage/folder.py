"""A folder whose files appear under their names only when all of them are complete."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from quantreg.errors import OutputError
from quantreg.storage.locks import one_at_a_time, signals_held
from quantreg.storage.system import free_bytes, sync, sync_folder, usable
from quantreg.storage.temporary import new_folder, remove_dead

if TYPE_CHECKING:
    from typing import Self

__all__ = ["AtomicFolder"]


class AtomicFolder:
    """Context manager that fills a folder, whose files appear there only when all are complete.

    The files are written to ``partial``, a temporary folder on the same disk. When the block ends without an exception
    it gets the name ``path``; after an exception, KeyboardInterrupt included, it is removed.

    - ``force``: write to a folder that has files. Those whose names fit ``replaced``, patterns with "*", are removed;
      all others stay.
    - ``last``: the file without which nobody takes the folder for a complete one. It is removed first, and gets its
      name last.
    - ``size``: the number of bytes that will be written, which is compared with the free disk space.

    Raises OutputError, on entry wherever the problem can be known by then.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        force: bool = False,
        replaced: Collection[str] = (),
        last: str = "",
        size: int = 0,
    ) -> None:
        self.path: Path = Path(usable(os.path.realpath(path)))
        self._force, self._replaced, self._last, self._size = force, replaced, last, size
        self.partial: Path = Path()
        self._lock = -1

    def __enter__(self) -> "Self":
        with self._errors():
            for each in (self.path, self.path.parent):
                remove_dead(each)
            there = self.check()
            parent = self.path if there else self.path.parent
            free = free_bytes(parent)
            if free < self._size:
                raise OutputError(
                    f"{self.path}: needs {self._size} bytes of disk space, but only {free} are free in {parent}: free "
                    "some space, or choose a folder on another disk"
                )
            self.partial, self._lock = new_folder(parent, mode=0o777)
        return self

    def check(self) -> bool:
        """Whether the folder exists. Raises OutputError if it must not be written to."""
        if not os.path.lexists(self.path):
            return False
        if not self.path.is_dir():
            raise OutputError(f"{self.path}: exists and is no folder: choose another name")
        if not self._force and set(os.listdir(self.path)) - {self.partial.name}:
            raise OutputError(
                f"{self.path}: exists and is not empty: choose another name, or replace the model in it with force "
                "(--force); other files stay"
            )
        return True

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file; ``name`` may begin with a folder. Raises OutputError."""
        with self._errors():
            target = self.partial / name
            target.parent.mkdir(exist_ok=True)
            with open(target, "xb") as file:
                file.write(data)
                file.flush()
                sync(file.fileno())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self._errors():
                    self._commit()
        finally:
            with suppress(OSError):
                shutil.rmtree(self.partial)
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def _commit(self) -> None:
        with one_at_a_time(self.partial.parent), signals_held():
            if not self.check():
                os.rename(self.partial, self.path)
            else:
                self._replace()
        sync_folder(self.path.parent)

    def _replace(self) -> None:
        """Move the files into the folder, after those that they replace are gone."""
        old = [name for name in os.listdir(self.path) if any(fnmatchcase(name, each) for each in self._replaced)]
        for name in sorted(old, key=lambda name: name != self._last):
            place = self.path / name
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink()
        for name in sorted(os.listdir(self.partial), key=lambda name: name == self._last):
            if not os.path.lexists(self.path / name):
                os.rename(self.partial / name, self.path / name)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written: {error.strerror or error}: check the folder and its disk"
            ) from error
