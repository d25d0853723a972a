"""A table that plugins fill through one of their hooks. It follows the plugins as they come and go."""

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from quantreg.faults import PLUGIN_ERRORS

if TYPE_CHECKING:
    from pluggy import HookImpl

__all__ = ["Plugged"]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)

# One for all tables, because a plugin may look a name up in another table, or in the same one, while it fills this one.
_lock = threading.RLock()


class Plugged(Mapping[str, T]):
    """What plugins register through a hook, by name.

    ``hooks`` returns the plugins' implementations of the hook. ``report(hook, error)`` is called if one of them fails,
    and that plugin then adds nothing.
    """

    def __init__(
        self,
        hooks: "Callable[[], Iterable[HookImpl]]",
        report: "Callable[[HookImpl, BaseException], object] | None" = None,
    ) -> None:
        self._hooks = hooks
        self._report = report
        self._seen: tuple[HookImpl, ...] | None = None
        self._by_name: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        with self._filled():
            return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        with self._filled():
            return iter(tuple(self._by_name))

    def __len__(self) -> int:
        with self._filled():
            return len(self._by_name)

    @contextmanager
    def _filled(self) -> Iterator[None]:
        """Hold the table for this thread, filled with what the plugins of the moment register.

        It is filled again if plugins were added or removed, so that it does not depend on when that happened.
        """
        hooks = tuple(self._hooks())  # loads the plugins, under the registry's lock: before this one is taken
        with _lock:
            if hooks != self._seen:
                self._seen, self._by_name = hooks, {}
                try:
                    self._fill(hooks)
                except BaseException:
                    self._seen = None
                    raise
            yield

    def _fill(self, hooks: "Iterable[HookImpl]") -> None:
        """Fill the empty table."""
        for hook in hooks:
            staged: list[T] = []

            def register(new: T, replace: bool = False, staged: list[T] = staged) -> None:
                staged.append(self._checked(new, replace, staged))

            try:
                hook.function(register)
            except PLUGIN_ERRORS as error:  # a plugin must disable only itself
                if self._report is not None:
                    self._report(hook, error)
                continue
            for new in staged:
                self._add(new)

    def _add(self, new: T) -> None:
        self._by_name[new.name] = new

    @abstractmethod
    def _checked(self, new: T, replace: bool, staged: Sequence[T]) -> T:
        """Return ``new`` if it may be added. Raises PluginError if not.

        ``replace`` allows a name that is taken. ``staged`` is what the same plugin registered before.
        """
