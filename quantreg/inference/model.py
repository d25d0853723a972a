"""A model that runs: token ids in, logits out, with the weights as they are in the file."""

import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from quantreg import files
from quantreg.devices import Device, DeviceLike, open_device
from quantreg.dispatch import cpu_count
from quantreg.errors import ModelError, QuantregError, ShapeError, TokenizerError
from quantreg.inference import chat
from quantreg.inference.architecture import architecture_of
from quantreg.inference.cache import Cache
from quantreg.inference.ends import Ends
from quantreg.inference.facts import Facts, read_facts
from quantreg.inference.graph import Graph, whole_layer
from quantreg.inference.layer import Layer
from quantreg.inference.passes import Observe, Pass
from quantreg.inference.sampling import Sampler, tokens
from quantreg.inference.unused import unused_tensors
from quantreg.inference.weights import Weights
from quantreg.products import one_blas_thread
from quantreg.recipes.kinds import kind_of_file
from quantreg.tensor import QuantizedTensor
from quantreg.tokenization import Tokenizer

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike, NDArray

    from quantreg.recipes import Architecture

__all__ = ["Model", "load"]


def load(path: str | bytes | os.PathLike[str], threads: int | None = None, device: DeviceLike | None = None) -> "Model":
    """Open a GGUF model, or the folder of a published one, to run it. Its weights stay in the file, mapped.

    ``threads``: how many threads a pass uses, by default as many as processors. ``device``: what computes the products,
    "cpu", or with torch installed "cuda", "cuda:1" or "mps". Raises ModelError if the file holds no model that quantreg
    can compute, or if a tensor is missing or has the wrong shape; DeviceError; what `quantreg.open` raises.
    """
    device = open_device(device)
    file = files.open(path)
    try:
        return Model(file.metadata, file, threads=threads, device=device, file=file)
    except BaseException:
        file.close()
        raise


class Model:
    """A language model. `quantreg.load` opens one; this class also takes metadata and tensors from elsewhere.

    - ``metadata``: key -> value, as GGUF names them. ``tensors``: name -> QuantizedTensor.
    - ``architecture``: the `quantreg.Architecture` of the model, whose ``graph`` says how it is computed.
    - ``facts``: the numbers in its metadata. ``width``, ``n_layers``, ``n_vocab``: the length of a hidden state, and
      the numbers of layers and tokens. ``context``: how many tokens the model was trained on at once.
    - ``threads``: how many threads a pass uses. The results do not depend on it.
    - ``device``: what computes the products with matrices (see `load`).
    - ``matrices``: the names of those that a pass multiplies activations by, in its order.

    Use it in a ``with`` statement, or call `close`, to let go of the file.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, QuantizedTensor]
    threads: int
    device: Device
    facts: Facts
    width: int
    n_layers: int
    n_vocab: int
    context: int

    def __init__(
        self,
        metadata: Mapping[str, Any],
        tensors: Mapping[str, QuantizedTensor],
        *,
        threads: int | None = None,
        device: DeviceLike | None = None,
        file: "files.File | None" = None,
    ) -> None:
        self.metadata, self.tensors, self._file = metadata, tensors, file
        self.threads, self.device = threads or cpu_count(), open_device(device)
        kind = kind_of_file(metadata, list(tensors), to_run=True)
        if kind is not None:
            raise ModelError(f"the file is no model that can run, but {kind}")
        self.architecture: Architecture = architecture_of(metadata)
        graph = self.architecture.graph
        assert graph is not None
        self.graph: Graph = graph
        self._weights = Weights(tensors, self.device)
        embeddings = self._weights["token_embd.weight"].shape
        self.facts = read_facts(metadata, embeddings[0])
        self.width, self.n_layers, self.n_vocab = self.facts.width, self.facts.n_layers, embeddings[0]
        self.context = self.facts.context
        self._ends = Ends(self._weights, self.graph, self.facts)
        self.matrices: list[str] = []
        self._layers: list[Layer] = []
        self._pool: ThreadPoolExecutor | None = None
        self._starting = Lock()
        self._check()

    def _check(self) -> None:
        """Go through the model once without computing anything, to find what is missing or has the wrong shape."""
        watch = lambda name, x, experts: self.matrices.append(name)  # noqa: E731
        run = Pass(1, 1, ids=np.zeros((1, 1), np.intp), dry=True, observe=watch)
        try:
            self._layers = [Layer(i, self.facts, self.graph, self._weights) for i in range(self.n_layers)]
            states = self._states(run)
            if self.graph.generates:
                self._ends.logits(self.output_name, states, run)
        except QuantregError:
            raise
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            what = f"{type(error).__name__}: {error}"
            raise ModelError(f"the tensors and the metadata of the model do not fit together: {what}") from error
        unused = unused_tensors(self._weights, self.graph, self.n_layers)
        if unused:
            warnings.warn(
                f"the graph of {self.architecture.name} does not use {unused[0]!r}"
                + (f" and {len(unused) - 1} other tensors" if len(unused) > 1 else "")
                + ": if the model needs them, its results are wrong",
                UserWarning,
                stacklevel=4,
            )

    # ---- what it is ----

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model. Raises TokenizerError if the file has none that quantreg knows."""
        return Tokenizer.of(self.metadata)

    @cached_property
    def bos(self) -> int | None:
        """The id of the token that begins each text, or None if the model has none or does not add it."""
        with suppress(TokenizerError):
            return self.tokenizer.bos if self.tokenizer.add_bos else None
        found = self.metadata.get("tokenizer.ggml.bos_token_id")
        return int(found) if found is not None and self.metadata.get("tokenizer.ggml.add_bos_token") else None

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The ids of the tokens at which the model ends what it generates."""
        with suppress(TokenizerError):
            return self.tokenizer.end_ids
        ids = (self.metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom"))
        return frozenset(int(id) for id in ids if id is not None)

    def tokenize(self, text: str, *, special: bool = False, bos: bool = True) -> list[int]:
        """The ids of a text. Raises TokenizerError if the tokenizer of the model is unknown.

        ``special``: control tokens such as "<|im_end|>" in the text become those tokens; otherwise they are plain text.
        ``bos``: add what the model puts around each text, most often BOS in front or nothing.
        """
        ids = self.tokenizer.encode(text, special=special)
        if not bos:
            return ids
        end = self.tokenizer.eos if self.tokenizer.add_eos else None
        if self.metadata.get("tokenizer.ggml.model") == "bert":
            end = self.tokenizer.sep
        return [*([] if self.bos is None else [self.bos]), *ids, *([] if end is None else [end])]

    def tokenize_chat(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = True) -> list[int]:
        """The ids of a conversation, as the model's own chat template writes it.

        ``messages`` are mappings such as ``{"role": "user", "content": "Hello"}``. With ``answer`` the ids end where
        the answer of the model begins. Raises ModelError if there is no template, if it refuses the messages, or if
        jinja2 is not installed (version 3.1.6 or newer); TokenizerError as `tokenize`.
        """
        ids = self.tokenizer.encode(chat.prompt(self.metadata, messages, answer=answer), special=True)
        return ids if self.bos is None or ids[:1] == [self.bos] else [self.bos, *ids]

    def detokenize(self, ids: Iterable[int]) -> str:
        """The text of ids, without control tokens. Bytes that are no UTF-8 become U+FFFD."""
        given = list(ids)
        return self.tokenizer.decode(given[1:] if given and given[0] == self.bos else given)

    def __repr__(self) -> str:
        return (
            f"<quantreg.Model {self.metadata.get('general.name', '')!r}: {self.architecture.name}, "
            f"{self.n_layers} layers of width {self.width}, {self.n_vocab} tokens>"
        )

    # ---- passes ----

    def cache(self, n_tokens: int | None = None) -> Cache:
        """Make an empty key-value cache for one sequence, of at most ``n_tokens`` tokens if that is given.

        Raises ModelError for a model whose tokens see later ones.
        """
        if not self.graph.causal:
            raise ModelError(
                f"the tokens of {self.architecture.name} models see later ones: "
                "give all tokens at once, without a cache"
            )
        return Cache(self.n_layers, n_tokens)

    def states(
        self, ids: "ArrayLike", cache: Cache | None = None, *, observe: Observe | None = None
    ) -> "NDArray[np.float32]":
        """The hidden states after the last norm: float32 of shape (..., tokens, width).

        ``ids`` are integers of shape (tokens,), or (sequences, tokens) for several sequences of equal length, which do
        not see each other. With a ``cache`` the tokens follow those that it holds, and are added to it.
        ``observe(name, x, experts)`` is called with the input x (tokens, cols) of each matrix and, for a stack of
        experts, the chosen ones (tokens, k), or else None; x is (tokens, k, cols) if each of k matrices has its own.
        Raises ModelError for ids outside the vocabulary.
        """
        given = self._ids(ids)
        rows = given.reshape(-1, given.shape[-1])
        if cache is not None and len(rows) != 1:
            raise ShapeError(f"ids have shape {given.shape}: a cache holds one sequence; pass ids of shape (tokens,)")
        start = 0
        if cache is not None:
            cache.check(rows.shape[1])
            start = cache.length
        run = self._pass(len(rows), rows.shape[1], observe, start=start, ids=rows, cache=cache)
        states = self._states(run)
        if cache is not None:
            cache.length += rows.shape[1]
        return states.reshape(*given.shape, self.width)

    def output(self, states: "NDArray[np.float32]", *, observe: Observe | None = None) -> "NDArray[np.float32]":
        """The logits of hidden states (..., width): float32 of shape (..., vocabulary)."""
        if not self.graph.generates:
            raise self._no_logits()
        rows = np.ascontiguousarray(states, np.float32).reshape(-1, self.width)
        return self._ends.logits(self.output_name, rows, self._pass(1, len(rows), observe)).reshape(
            *states.shape[:-1], -1
        )

    def logits(
        self, ids: "ArrayLike", cache: Cache | None = None, *, observe: Observe | None = None
    ) -> "NDArray[np.float32]":
        """The logits after each token: float32 of shape (..., tokens, vocabulary). See `states` for the arguments."""
        return self.output(self.states(ids, cache, observe=observe), observe=observe)

    def generate(
        self,
        ids: "ArrayLike",
        n: int | None = None,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        end_ids: Collection[int] | None = None,
        cache: Cache | None = None,
    ) -> Iterator[int]:
        """Generate the tokens that follow ``ids``, integers of shape (tokens,), one at a time.

        - ``n``: how many tokens at most; None for as many as the model makes.
        - ``temperature``: 0 takes the most probable token each time. A larger number is more random: the logits are
          divided by it. ``top_k`` and ``top_p`` limit the draw to the k most probable tokens, and to the most probable
          ones that together have the probability p; 0 and 1 are no limit. The limits come before the temperature.
        - ``seed``: tokens are the same for the same seed. None draws others each time.
        - ``end_ids``: the tokens at which the text ends, which are not yielded; by default the model's own.
        - ``cache``: holds what comes before ``ids``; afterwards also ``ids`` and the new tokens, except the last one.
          The text ends when it is full. By default a new one of at most `context` tokens.

        The arguments are checked at once. Raises ModelError for ids outside the vocabulary, for settings that are out
        of range, and if the model predicts NaN; ShapeError if the prompt is empty or longer than the context.
        """
        given = self._ids(ids)
        if not self.graph.generates:
            raise self._no_logits()
        if cache is None:
            wanted = 0 if n is None else given.shape[-1] + n
            cache = self.cache(min(self.context, wanted) if self.context and wanted else wanted or self.context or None)
        sampler = Sampler(temperature, top_k, top_p)
        return tokens(self, given, n, sampler, seed, self.end_ids if end_ids is None else end_ids, cache)

    def replaced(self, tensors: Mapping[str, QuantizedTensor]) -> "Model":
        """The same model with other tensors in place of some of its own. It shares the others, and their file."""
        unknown = sorted(set(tensors) - set(self.tensors))
        if unknown:
            raise ModelError(f"the model has no tensor {unknown[0]}: name one of those in model.tensors")
        others = dict(self.tensors)
        for name in tensors:  # what the old type read beside its tensor is no business of the new one
            for parameter in self._weights.parameters(name):
                others.pop(parameter, None)
        return Model(self.metadata, others | dict(tensors), threads=self.threads, device=self.device)

    def _ids(self, ids: "ArrayLike") -> "NDArray[np.intp]":
        given = np.asarray(ids)
        if given.ndim not in (1, 2) or not given.size or given.dtype.kind not in "iu":
            raise ShapeError(
                f"ids are {given.dtype} of shape {given.shape}: expected integers of shape (tokens,) or "
                "(sequences, tokens), and at least one"
            )
        low, high = given.min(), given.max()
        if low < 0 or high >= self.n_vocab:
            raise ModelError(
                f"token id {low if low < 0 else high} is outside the vocabulary of the model, 0 to {self.n_vocab - 1}: "
                "these ids are of another tokenizer"
            )
        return given.astype(np.intp)

    def _no_logits(self) -> ModelError:
        return ModelError(f"{self.architecture.name} models make embeddings and predict no tokens: they have no logits")

    def _pass(self, sequences: int, tokens: int, observe: Observe | None, **more: Any) -> Pass:
        with self._starting:
            if self.threads > 1 and self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="quantreg-pass")
            pool = self._pool
        return Pass(sequences, tokens, observe=observe, threads=self.threads, pool=pool, **more)

    def begin(self, ids: "ArrayLike", *, observe: Observe | None = None) -> "tuple[NDArray[np.float32], Pass]":
        """The embeddings of tokens, float32 (sequences * tokens, width), and their pass, to go through layer by layer.

        See `states` for the arguments. `through` takes both through one layer, `finish` through the last norm.
        """
        rows = self._ids(ids)
        rows = rows.reshape(-1, rows.shape[-1])
        run = self._pass(len(rows), rows.shape[1], observe, ids=rows)
        return self._ends.embed(run), run

    def through(self, layer: int, x: "NDArray[np.float32]", run: Pass) -> "NDArray[np.float32]":
        """Take hidden states through one layer. They come from `begin` or from the layer before."""
        return whole_layer(self._layers[layer], x, run)

    @property
    def output_name(self) -> str:
        """The name of the matrix that makes the logits: that of the embeddings if it is tied to them."""
        return "output.weight" if "output.weight" in self._weights else "token_embd.weight"

    def workers(self, work: Callable[[Any], None], items: "Sequence[Any]") -> None:
        """Call ``work`` with each item, on the threads of the model."""
        self._pass(1, 1, None).run(work, list(items))

    def finish(self, x: "NDArray[np.float32]", run: Pass) -> "NDArray[np.float32]":
        """Take the hidden states of the last layer through the last norm, so that they are what `output` takes."""
        return x if self.graph.output_norm is None else self._ends.norm(self.graph.output_norm, x, run)

    def _states(self, run: Pass) -> "NDArray[np.float32]":
        with one_blas_thread():  # the pass has threads of its own; with those of BLAS, they wait for each other
            x = self._ends.embed(run)
            for layer in range(self.n_layers):
                x = self.through(layer, x, run)
            return self.finish(x, run)

    # ---- its life ----

    def close(self) -> None:
        """Let go of the file and the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._weights.close()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
