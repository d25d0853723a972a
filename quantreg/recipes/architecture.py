"""Architectures as data: how a model is recognised, and which of its tensors are special in every file type."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from quantreg.errors import PluginError
from quantreg.names import is_meant
from quantreg.recipes.plugged import Plugged
from quantreg.recipes.rules import Candidate, Condition, Rule

if TYPE_CHECKING:
    from quantreg.checkpoints.checkpoint import Checkpoint
    from quantreg.inference.graph import Graph

__all__ = ["ORIGINAL_SHAPE", "Architecture", "Architectures", "Keep", "Recognised"]

ORIGINAL_SHAPE: str = "comfy.gguf.orig_shape."  # then a tensor's name: the key of its shape before it was folded


@dataclass(frozen=True, slots=True)
class Keep:
    """Tensors that no file type quantizes, and why.

    ``parts`` are parts of their names; a part that begins with "=" must be the whole name, and no parts at all
    stand for every tensor. ``when`` is a condition, or several that must all be true. The tensors keep the type that
    they have in the source or, if ``type`` is given, get that type.
    """

    parts: tuple[str, ...]
    reason: str
    type: str | None = None
    when: Condition | tuple[Condition, ...] = ()

    def applies(self, candidate: Candidate) -> bool:
        """Whether this row is about the tensor."""
        name = candidate.name
        if self.parts and not any(is_meant(name, part) for part in self.parts):
            return False
        return all(test(candidate) for test in (self.when if isinstance(self.when, tuple) else (self.when,)))


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a plugin knows about the models of one architecture. It applies to every file type, those of users included.

    - ``name``: the value of ``general.architecture``.
    - ``signatures``: sets of tensor names. A model without ``general.architecture`` that has all names of one of them
      is of this architecture.
    - ``foreign``: signatures of a layout of the same model that this architecture does not describe, for example that
      of another program. A model that matches gets a warning instead of the rules.
    - ``prefixes``: what may stand before all these names. It is removed, and tensors without it are left out.
    - ``ignored``: parts of the names of tensors that are left out.
    - ``keep``: `Keep` rows. The first that applies decides, before any option and any file type. Tensors that quantreg
      never quantizes (norms, biases and so on) may be given a type here, too.
    - ``rules``: rules that are asked before those of the file type.
    - ``roles``: pairs (part of a name, role), of which the first that fits a tensor gives it its role; a part that
      begins with "=" must be the whole name. None means the roles of GGUF's language models. An empty tuple gives every
      tensor the role "other", which keeps the rules of file types, made for language models, away from it.
    - ``blocks``: names of sequences of blocks. A tensor ``NAME.3.*`` then has ``candidate.block`` 3.
    - ``reshape_rows``: if this is not 0, a tensor whose rows are not a multiple of it is stored in rows of this length
      if its size allows. It applies to models that are read from safetensors. The shape before is stored as
      ``comfy.gguf.orig_shape.NAME``.
    - ``graph``: how such a model is computed, a `quantreg.Graph`. None means that quantreg cannot run it.
    - ``checkpoints``: how models of this architecture are stored in the folders in which they are published, as
      `quantreg.Checkpoint`; several if several classes of transformers become this architecture. Without one, quantreg
      cannot convert such a folder.
    """

    name: str
    description: str = ""
    signatures: tuple[tuple[str, ...], ...] = ()
    foreign: tuple[tuple[str, ...], ...] = ()
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    keep: tuple[Keep, ...] = ()
    rules: tuple[Rule, ...] = ()
    roles: tuple[tuple[str, str], ...] | None = None
    blocks: tuple[str, ...] = ()
    reshape_rows: int = 0
    graph: "Graph | None" = None
    checkpoints: "tuple[Checkpoint, ...]" = ()

    def role_of(self, name: str) -> str | None:
        """The role of a tensor by ``roles``, or None if the names are those of GGUF."""
        if self.roles is None:
            return None
        return next((role for part, role in self.roles if is_meant(name, part)), "other")

    def block_of(self, name: str) -> tuple[str, int] | None:
        """The sequence of blocks that a tensor belongs to and the number of its block, or None."""
        for blocks in self.blocks:
            found = re.match(rf"{re.escape(blocks)}\.(\d+)\.", name, re.ASCII)
            if found:
                return blocks, int(found[1])
        return None


class Recognised(NamedTuple):
    """An architecture, and how a model was recognised: by which names, behind which prefix, and in which layout."""

    architecture: Architecture
    names: tuple[str, ...]
    prefix: str
    foreign: bool

    def new_name(self, name: str) -> str | None:
        """The name of a tensor without the prefix, or None if it is left out."""
        if self.foreign:
            return name
        if not name.startswith(self.prefix):
            return None
        name = name[len(self.prefix) :]
        return None if any(part in name for part in self.architecture.ignored) else name


class Architectures(Plugged[Architecture]):
    """All architectures by name, as the plugins registered them with ``register_architectures``."""

    def recognise(self, names: Collection[str]) -> Recognised | None:
        """The architecture of a model with these tensor names, or None.

        If several fit, the one whose signature names most tensors is taken, and of equals the one registered last. A
        foreign layout counts only if nothing else fits.
        """
        names = frozenset(names)
        best: Recognised | None = None
        for architecture in self.values():
            for foreign, signatures in ((False, architecture.signatures), (True, architecture.foreign)):
                for signature in signatures:
                    for prefix in ("", *architecture.prefixes):
                        full = tuple(prefix + name for name in signature)
                        if names.issuperset(full):
                            found = Recognised(architecture, full, prefix, foreign)
                            if best is None or _rank(found) >= _rank(best):
                                best = found
        return best

    def _checked(self, new: Architecture, replace: bool, staged: Sequence[Architecture]) -> Architecture:
        if not isinstance(new, Architecture):
            raise PluginError(f"register() got {new!r}, expected a quantreg.Architecture")
        if any(new.name == other.name for other in staged) or (new.name in self._by_name and not replace):
            raise PluginError(
                f"architecture {new.name!r} is registered already: choose another name, or use "
                "register(..., replace=True) to replace it on purpose"
            )
        for field in ("signatures", "foreign", "prefixes", "ignored", "keep", "rules", "blocks", "checkpoints"):
            if isinstance(getattr(new, field), str) or callable(getattr(new, field)):
                raise PluginError(f"architecture {new.name!r}: {field} is not a tuple: write {field}=(..., )")
        signatures = (*new.signatures, *new.foreign)
        if any(isinstance(signature, str) for signature in signatures):
            raise PluginError(f"architecture {new.name!r}: each signature must be a tuple of tensor names")
        if not all(signatures):
            raise PluginError(f"architecture {new.name!r}: a signature names no tensor, so every model would match")
        for keep in new.keep:
            if not isinstance(keep, Keep) or isinstance(keep.parts, str):
                raise PluginError(f"architecture {new.name!r}: {keep!r} in keep: expected Keep((part, ...), reason)")
        return new


def _rank(found: Recognised) -> tuple[bool, int]:
    return not found.foreign, len(found.names)
