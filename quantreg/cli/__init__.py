"""The ``quantreg`` command. Each subcommand is a module of its own, loaded when it is called."""

import atexit
import gc
import os
import sys
import warnings
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import click

from quantreg.cli.streams import guarded, let_plugins_print

__all__ = ["main"]

# subcommand -> (module, first line of its help), so that --help does not load the modules
COMMANDS: dict[str, tuple[str, str]] = {
    "quantize": ("quantize", "Quantize a GGUF or safetensors model, with llama-quantize's arguments."),
    "convert": ("convert", "Convert a Hugging Face folder to a GGUF file."),
    "plan": ("plan", "Write the type chosen for each tensor to a file that you can edit."),
    "split": ("split", "Split a GGUF model into shards."),
    "merge": ("merge", "Merge the shards of a model into one GGUF file."),
    "export": ("export", "Decode a GGUF model to safetensors."),
    "metadata": ("metadata", "Show or change the metadata of a GGUF model."),
    "validate": ("validate", "Check the header, layers and blocks of a GGUF model."),
    "compare": ("compare", "Compare the metadata and tensors of two models."),
    "hash": ("hash", "Print a digest of each tensor of a GGUF model."),
    "coverage": ("coverage", "Show which tensors an importance matrix covers."),
    "file-types": ("file_types", "List the file types for whole models, such as Q4_K_M."),
    "types": ("types", "List the quant types: id, block size, bits per weight, model size."),
    "inspect": ("inspect", "Show the metadata and tensors of a model."),
    "estimate": ("estimate", "Compute the memory that the weights of a model take."),
    "generate": ("generate", "Generate text with a model, to see that it still speaks."),
    "evaluate": ("evaluate", "Measure error, size and speed of types on a model's weights."),
    "perplexity": ("perplexity", "Measure how well a model predicts a text, and how far it is from another."),
    "imatrix": ("imatrix", "Collect the importance matrix of a model on a text, or combine several."),
    "demo": ("demo", "Quantize a small random model to several types and compare them."),
    "plugins": ("plugins", "List, create and check plugins for your own formats."),
}


class Commands(click.Group):
    """A group that loads subcommands when they are called. Those of plugins (hook register_commands) come last."""

    commands: "MutableMapping[str, click.Command]"
    _asked: list[object] | None = None  # the hooks that self.commands was built from
    _owners: dict[str, str]  # command of a plugin -> the plugin, in words

    def list_commands(self, ctx: click.Context | None) -> list[str]:
        """Return the names of all subcommands: quantreg's, then those of plugins in alphabetical order."""
        self._ask_plugins()
        return [*COMMANDS, *sorted(set(self.commands) - set(COMMANDS))]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return a subcommand, or None if there is none of this name."""
        if name in COMMANDS:
            return import_module(f"quantreg.cli.{COMMANDS[name][0]}").command
        self._ask_plugins()
        return self.commands.get(name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands for --help."""
        names = self.list_commands(ctx)
        rows = [(n, COMMANDS[n][1] if n in COMMANDS else self.commands[n].get_short_help_str()) for n in names]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _ask_plugins(self) -> None:
        """Collect the subcommands of plugins. A plugin that fails adds none, and `quantreg plugins` says why."""
        from quantreg.errors import PluginError
        from quantreg.faults import PLUGIN_ERRORS
        from quantreg.hookspecs import plugin_of
        from quantreg.registry import registry

        hooks = registry.hook.register_commands.get_hookimpls()
        if hooks == self._asked:
            return
        self._asked = hooks
        self.commands.clear()
        self._owners = {}
        for hook in hooks:
            theirs = click.Group()
            try:
                hook.function(theirs)
                for name in theirs.commands:
                    if name in COMMANDS or name in self.commands:
                        raise PluginError(f"the command {name!r} already exists: choose another name")
            except PLUGIN_ERRORS as error:  # it must disable only itself
                registry.blame("register_commands", hook, error)
                continue
            self.commands.update(theirs.commands)
            self._owners.update(dict.fromkeys(theirs.commands, plugin_of(hook)))

    def invoke(self, ctx: click.Context) -> object:
        """Run the subcommand. Whatever a plugin's own raises becomes an error that names the plugin."""
        from quantreg.errors import PluginError, QuantregError
        from quantreg.faults import PLUGIN_ERRORS, describe

        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, QuantregError, BrokenPipeError):
            raise
        except PLUGIN_ERRORS as error:
            name = ctx.invoked_subcommand or ""
            if name in COMMANDS or (isinstance(error, OSError) and error.filename is not None):
                raise
            if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
                ctx.exit(error.code or 0)  # in a command of its own, this is a way to end
            raise PluginError(f"command {name!r} of {self._owners.get(name)} failed: {describe(error)}") from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand that the arguments name; for an unknown name the error says what to do next."""
        try:
            name, command, rest = super().resolve_command(ctx, args)
            if name not in COMMANDS:
                let_plugins_print()
            return name, command, rest
        except click.UsageError as error:
            from quantreg.registry import registry

            hint = f"See `quantreg --help`{registry.why_missing(args[0])}."
            raise click.UsageError(f"{error.message} {hint}", ctx) from None


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from quantreg import __version__

        click.echo(f"quantreg {__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and exit."
)
def cli() -> None:
    """Quantize models to GGUF, and inspect, compare, split and edit them."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. ``args`` defaults to ``sys.argv[1:]``.

    0 is success. 1 is an error, told in one line on stderr, or a difference or problem that the command was asked to
    find. 2 is wrong usage, and 130 is Ctrl-C. What plugins print goes to stderr, except in their own subcommands.
    """
    # quantreg spreads its work over the cores itself. OpenBLAS's own threads would compete and are slow to start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    atexit.register(gc.freeze)  # the process ends anyway: spare the last search for reference cycles
    with guarded(program=args is None), warnings.catch_warnings():
        warnings.showwarning = partial(_show_warning, warnings.showwarning)
        code = _run(args)
        _tell_choices()
    return code


def _show_warning(others: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Print a warning that is meant for the user as one line; it is no matter which line of the program found it."""
    if issubclass(category, UserWarning):
        from quantreg.cli.show import warn

        warn([str(message)])
    else:
        others(message, category, *where)


def _run(args: Sequence[str] | None) -> int:
    from quantreg.errors import QuantregError

    if args is None and os.name == "nt":  # click's own way would take [1] in a name for a pattern, too
        from quantreg.cli.arguments import expand

        args = expand(sys.argv[1:])
    try:
        code = cli.main(args, prog_name="quantreg", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("quantreg: interrupted", err=True)
        return 130
    except BrokenPipeError:
        if sys.stderr is not None:
            sys.stderr.close()
        return 1
    except (QuantregError, OSError) as error:
        _tell(error)
        return 1
    return code if isinstance(code, int) else 0  # an int is the code that a command passed to ctx.exit()


def _tell(error: Exception) -> None:
    """Print an error on one line. With QUANTREG_DEBUG=1 its traceback comes first, with those of its causes."""
    from quantreg.errors import CodecError, PlanError, PluginError
    from quantreg.faults import debugging, trace

    trace(error)
    click.echo(f"quantreg: error: {_one_line(error)}", err=True)
    if isinstance(error, (CodecError, PlanError, PluginError)) and error.__cause__ is not None and not debugging():
        click.echo("quantreg: set QUANTREG_DEBUG=1 to see the whole traceback", err=True)


def _tell_choices() -> None:
    """Say which plugin provided a type that was used, if several plugins provide it."""
    used = sys.modules.get("quantreg.registry")  # not loaded here: a command that has not loaded it used no type
    choices = used.registry.choices() if used is not None else ()
    if choices and sys.stderr is not None and not sys.stderr.closed:
        from quantreg.cli.show import printable

        for choice in choices:
            click.echo(f"note: {printable(choice)}", err=True)


def _one_line(error: Exception) -> str:
    from quantreg.cli.show import printable

    if isinstance(error, OSError) and error.filename is not None:
        return printable(f"{error.filename or repr(error.filename)}: {error.strerror}")
    return printable(" ".join(str(error).split()))
