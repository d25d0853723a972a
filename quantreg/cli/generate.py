"""The subcommand `quantreg generate`."""

import codecs
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from quantreg.cli.show import printable, warn
from quantreg.words import count

if TYPE_CHECKING:
    from quantreg import Model

_KEPT = "\n\t\r"  # control characters that a terminal may have


@click.command("generate")
@click.argument("path", required=False, metavar="MODEL")
@click.option("-m", "--model", "other_path", metavar="FILE", hidden=True)  # llama.cpp's name for MODEL
@click.option("-p", "--prompt", metavar="TEXT", help="The text to go on with or, with --chat, to answer.")
@click.option("-f", "--file", "text", metavar="FILE", help="A file with the prompt, in UTF-8.")
@click.option("--ids", metavar="FILE", help="A file of token ids as the prompt. The output is token ids, too.")
@click.option(
    "-n", "--predict", "n", type=click.IntRange(min=-1), default=256, metavar="N", show_default=True,
    help="Generate at most N tokens; -1: until the text ends.",
)  # fmt: skip
@click.option("--chat", is_flag=True, help="Write the prompt as a message, with the chat template of the file.")
@click.option("--system", metavar="TEXT", help="A system message before the prompt, with --chat.")
@click.option(
    "--temperature", "--temp", type=float, default=0.0, metavar="T", show_default=True,
    help="How random the text is; 0: always the most probable token.",
)  # fmt: skip
@click.option("--top-k", type=int, default=0, metavar="K", help="Draw from the K most probable tokens.")
@click.option(
    "--top-p", type=float, default=1.0, metavar="P",
    help="Draw from the most probable tokens that together have the probability P.",
)  # fmt: skip
@click.option("-s", "--seed", type=click.IntRange(min=0), metavar="N", help="Draw the same tokens in each run.")
@click.option(
    "-c", "--ctx-size", "n_ctx", type=click.IntRange(min=1), metavar="N",
    help="Most tokens of prompt and text together.  [default: the context of the model]",
)  # fmt: skip
@click.option("-t", "--threads", type=click.IntRange(min=1), metavar="N", help="Threads.  [default: all processors]")
def command(
    path: str | None,
    other_path: str | None,
    prompt: str | None,
    text: str | None,
    ids: str | None,
    n: int,
    chat: bool,
    system: str | None,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int | None,
    n_ctx: int | None,
    threads: int | None,
) -> None:
    """Generate text with MODEL: it goes on with a prompt or, with --chat, answers a message.

    The text is printed as it comes. It ends at an end-of-generation token of the file, after N tokens, or at the end of
    the context. The speed is printed to stderr. Special tokens in the prompt, such as <|im_end|>, count as such.

    By default the most probable token comes next. With --temperature the next one is drawn; --top-k and --top-p limit
    the draw and come before the temperature, as in llama.cpp.
    """
    path = _one_model(path, other_path)
    if sum(given is not None for given in (prompt, text, ids)) != 1:
        raise click.UsageError("Give one prompt: a text with -p, a file with -f, or token ids with --ids.")
    if ids and chat:
        raise click.UsageError("--ids and --chat cannot be used together: the ids must hold the chat template already.")
    if system is not None and not chat:
        raise click.UsageError("--system needs --chat: without a chat template there is no system message.")
    import quantreg
    from quantreg.inference.sampling import Sampler
    from quantreg.quality import read_ids, read_text

    Sampler(temperature, top_k, top_p)  # refuses wrong settings before the model is opened
    given = read_ids(ids) if ids else None
    said = read_text(text) if text else prompt
    with quantreg.load(path, threads) as model:
        if not model.graph.generates:
            raise quantreg.ModelError(
                f"{model.architecture.name} models make embeddings and predict no tokens: give a model that generates "
                "text"
            )
        start = given if given is not None else _prompt_ids(model, said or "", chat, system)
        if not len(start):
            raise quantreg.ModelError("the prompt is empty, and the model needs a token to go on from: give a prompt")
        limit = n_ctx or model.context or None
        if limit and model.context and limit > model.context:
            warn([f"the model was trained on {model.context} tokens: what it says beyond them may be poor"])
        wanted = None if n < 0 else len(start) + n
        cache = model.cache(min(limit or wanted, wanted) if wanted and len(start) <= (limit or wanted) else limit)
        write = _ids_out() if given is not None else _text_out(model)
        made = _run(model.generate(
            start, None if n < 0 else n, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, cache=cache
        ), write, len(start))  # fmt: skip
        if limit and len(start) + made >= limit and made != n:
            click.echo(f"note: the text stops because the context of {count(limit, 'token')} is full", err=True)


def _one_model(path: str | None, other: str | None) -> str:
    """Return the model that was given as an argument or with -m."""
    if path is None and other is None:
        raise click.UsageError("Missing argument 'MODEL': give the GGUF file of a model.")
    if path is not None and other is not None:
        raise click.UsageError(f"Two models are given, {path} and {other}: give one.")
    return path or other or ""


def _prompt_ids(model: "Model", text: str, chat: bool, system: str | None) -> list[int]:
    if not chat:
        return model.tokenize(text, special=True)
    messages = [{"role": "system", "content": system}] if system is not None else []
    return model.tokenize_chat([*messages, {"role": "user", "content": text}])


def _run(tokens: Iterator[int], write: Callable[[int | None], None], prompt: int) -> int:
    """Write tokens as they come, and None after the last. Print the speed, also after Ctrl-C. Return their number."""
    begin = first = last = time.perf_counter()
    made = 0
    try:
        for token in tokens:
            last = time.perf_counter()
            first = first if made else last
            made += 1
            write(token)
    finally:
        write(None)
        if made:
            speed = f"prompt: {count(prompt, 'token')}, {prompt / (first - begin):.1f} tokens/s"
            if made > 1:
                speed += f"; text: {made} tokens, {(made - 1) / (last - first):.1f} tokens/s"
            click.echo(speed, err=True)
    return made


def _ids_out() -> Callable[[int | None], None]:
    """Print ids with spaces between them, on one line."""
    between = ""

    def write(token: int | None) -> None:
        nonlocal between
        click.echo("" if token is None else f"{between}{token}", nl=token is None)
        between = " "

    return write


def _text_out(model: "Model") -> Callable[[int | None], None]:
    """Print the text of tokens in whole characters, because a token may hold a part of one.

    On a terminal, control characters are escaped: nothing that a model says may move the cursor or change a title.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    terminal = sys.stdout is not None and sys.stdout.isatty()

    def write(token: int | None) -> None:
        piece = b"" if token is None else model.tokenizer.token_bytes(token)
        text = decoder.decode(piece, final=token is None)
        if terminal:
            text = "".join(c if c in _KEPT else printable(c) for c in text)
        if text or token is None:
            click.echo(text, nl=token is None)

    return write
