"""How a model is named, laid out and described where it is published, as data: the part of an architecture's table that
says how its checkpoint becomes GGUF."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from quantreg.checkpoints.config import Config
    from quantreg.checkpoints.described import Described
    from quantreg.checkpoints.transforms import Transform
    from quantreg.checkpoints.vocabulary_hint import Vocabulary

__all__ = ["Checkpoint", "How", "Key", "Row", "named"]

# What is done to a tensor: a transform, several one after the other, or a function of the configuration that returns
# either, or None for none.
_Steps: TypeAlias = "Transform | tuple[Transform, ...] | None"
How: TypeAlias = "_Steps | Callable[[Config], _Steps]"


@dataclass(frozen=True, slots=True)
class Row:
    """How tensors of GGUF are made from those of a checkpoint.

    - ``new``: the name in GGUF. ``{i}`` stands for the number of a layer.
    - ``old``: the name in the checkpoint. ``{i}`` is the same number. ``{e}`` is the number of an expert: the tensors
      of all experts are stacked, in the order of their numbers, along a new first axis. Several names stand for tensors
      that are joined along their first axis (after ``how``). No name, ``()``, stands for a tensor that ``how`` makes of
      the configuration.
    - ``how``: what is done to the tensor, see `quantreg.checkpoints.transforms`. It applies to each tensor of ``old``
      before they are stacked or joined. It may be a function of `Config`; one that returns None changes nothing and, if
      there is no ``old``, means that there is no such tensor.
    - ``optional``: whether the tensor may be missing, in any layer; or a function of `Config` that says so, or that
      returns the layers that may lack it.
    - ``unless``: the GGUF name of a tensor that stands in for this one, which may be missing where the other exists.
    - ``back``: whether `quantreg.export` may write the tensor under ``old``; or a function of `Config` that says so. It
      matters where one ``new`` has several spellings: the first that may be written is.
    - ``further``: whether only layers after the last have the tensor, which predict the token after the next. See
      ``further`` of `Checkpoint`.

    Several rows may have the same ``new``: they are spellings, of which a checkpoint uses one. Several rows may have
    the same ``old``, which is then split.
    """

    new: str
    old: str | tuple[str, ...]
    how: How = None
    optional: "bool | Callable[[Config], bool | Collection[int]]" = False
    unless: str = ""
    back: "bool | Callable[[Config], bool]" = True
    further: bool = False

    @property
    def olds(self) -> tuple[str, ...]:
        """The names in the checkpoint, as a tuple."""
        return (self.old,) if isinstance(self.old, str) else self.old


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the metadata, and where its value comes from.

    - ``new``: the key without the name of the architecture, such as "attention.head_count". A key that begins with "="
      is complete: "=general.file_type".
    - ``old``: the name of the value in config.json; several names, of which the first that is there counts; or a
      function of `Config` that returns the value. If the value is None, the key is left out.
    - ``kind``: the type in GGUF, as `quantreg.gguf.Value` takes it: "u32", "f32", "bool", "string", "array[u32]".
    - ``default``: the value if config.json has none. The defaults of the published configuration class belong here.
    - ``needed``: whether a model without the value is refused.
    - ``back``: the name, or several, under which `quantreg.export` writes the value of a key to config.json, if that is
      not the first name in ``old``.
    """

    new: str
    old: "str | tuple[str, ...] | Callable[[Config], Any]"
    kind: str = "u32"
    default: Any = None
    needed: bool = False
    back: "str | tuple[str, ...]" = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names in config.json that stand for the value, the one that is written first."""
        if self.back or callable(self.old):
            return (self.back,) if isinstance(self.back, str) else self.back
        return (self.old,) if isinstance(self.old, str) else self.old


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How the models of one or more classes of transformers are stored in a folder, and how they become GGUF.

    It belongs to an `Architecture`, as one of its ``checkpoints``. Nothing else is needed for ``quantreg convert`` and
    ``quantreg quantize FOLDER``.

    - ``classes``: the values of "architectures" in config.json that it is for.
    - ``rows``: how each tensor of GGUF is made. A checkpoint with a tensor that no row takes is refused.
    - ``keys``: the metadata, in the order in which it is written. ``quantreg.checkpoints.common`` has those that most
      decoders share.
    - ``ignored``: names of tensors that are left out, with "*" for any characters. "{layers}" is the number of layers:
      a layer of this number comes after the last, such as one that predicts a second token.
    - ``starts``: pairs of strings. A name in the checkpoint that begins with the first is read as if it began with the
      second: ("model.language_model.", "model."). The first pair that fits is used, once. "{layers}" in the second is
      the number of layers.
    - ``further``: whether GGUF has the layers after the last, too, which predict further tokens. They count for
      ``block_count``, and ``config.further`` is their number: as many as the files have.
    - ``model_type``: the "model_type" of config.json, which `quantreg export` writes. A folder whose config.json does
      not name its class is recognised by it.
    - ``vocabulary``: how this kind of model keeps its tokenizer: a `quantreg.checkpoints.Vocabulary`, or the name of
      one of those in `vocabulary_hint`. None means that the files of the folder decide.
    - ``defaults``: pairs (name, value) of what config.json may leave out because the class of transformers says it. A
      value may be a function of `Config`, without these defaults.
    - ``restored``: pairs (name, value) of what `quantreg.export` writes to config.json besides what ``keys`` say: what
      the class needs and GGUF does not store, and the inverses of keys that are functions. A value may be a function of
      `Described`, the GGUF model; None is written as null, and ... leaves the name out. A name that a key has, too, is
      written only from here.
    - ``one_way``: why models of this kind cannot be written as a folder again, as the end of a sentence. Empty if they
      can.
    - ``when``: a function of `Config` that says whether a model of these classes is of this kind, where classes stand
      for several architectures. Without one, all are.
    - ``float32``: names of GGUF tensors, with "{i}" for the layer, that are always stored as F32, beyond vectors and
      norms and those of `quantreg.checkpoints.common.FLOAT32`.
    """

    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    keys: tuple[Key, ...]
    ignored: tuple[str, ...] = ()
    starts: tuple[tuple[str, str], ...] = ()
    model_type: str = ""
    vocabulary: "Vocabulary | str | None" = None
    float32: tuple[str, ...] = ()
    further: bool = False
    when: "Callable[[Config], bool] | None" = None
    defaults: "tuple[tuple[str, Any | Callable[[Config], Any]], ...]" = ()
    restored: "tuple[tuple[str, Any | Callable[[Described], Any]], ...]" = ()
    one_way: str = ""


def named(
    stems: Mapping[str, str],
    prefix: str = "model.layers.{i}.",
    *,
    how: How = None,
    optional: "bool | Callable[[Config], bool | Collection[int]]" = False,
    bias: bool = True,
    unless: str = "",
    back: "bool | Callable[[Config], bool]" = True,
    further: bool = False,
) -> tuple[Row, ...]:
    """Return the rows of the weights and biases of many layers, as a tuple.

    ``stems`` maps GGUF names to those of the checkpoint: ``{"attn_q": "self_attn.q_proj"}`` stands for
    ``blk.{i}.attn_q.weight`` <- ``model.layers.{i}.self_attn.q_proj.weight``, and the same with ``.bias``. A bias may
    always be missing; with ``bias`` False there is no row for it. A ``prefix`` without ``{i}`` gives tensors outside of
    the layers, whose GGUF names have no "blk.{i}." before them. ``how``, ``optional``, ``unless``, ``back`` and
    ``further`` are those of `Row`; ``unless`` is written without the suffix and without "blk.{i}.".
    """
    start = "blk.{i}." if "{i}" in prefix else ""
    stand_in = f"{start}{unless}.weight" if unless else ""
    rows = []
    for new, old in stems.items():
        rows.append(Row(f"{start}{new}.weight", f"{prefix}{old}.weight", how, optional, stand_in, back, further))
        if bias:
            rows.append(
                Row(f"{start}{new}.bias", f"{prefix}{old}.bias", how, optional=True, back=back, further=further)
            )
    return tuple(rows)
