"""The ``quantreg`` command: one file a subcommand, loaded when it is called."""

import atexit
import gc
import os
import sys
from importlib import import_module

import click

__all__ = ["main"]

# subcommand -> (module, first line of its help): --help needs no subcommand's module
COMMANDS = {
    "quantize": ("quantize", "Quantize a GGUF model, with llama-quantize's arguments."),
    "plan": ("plan", "Write what quantize would do to each tensor, as a file to edit."),
    "split": ("split", "Split a GGUF file into shards."),
    "merge": ("merge", "Merge the shards of a model into one GGUF file."),
    "export": ("export", "Decode a GGUF file to safetensors."),
    "metadata": ("metadata", "Show or change the metadata of a GGUF file."),
    "validate": ("validate", "Check the header and every block of a GGUF file."),
    "compare": ("compare", "Compare two GGUF files: metadata, types, bytes, numeric error."),
    "hash": ("hash", "Digests of the tensors of a GGUF file, whatever its layout."),
    "coverage": ("coverage", "Show what an importance matrix covers of a model."),
    "file-types": ("file_types", "List the file types that quantize takes: Q4_K_M and others."),
    "types": ("types", "List the quant types: id, block, bits per weight, sizes."),
    "inspect": ("inspect", "Show a GGUF file's metadata and tensors."),
    "estimate": ("estimate", "Memory that a model of a given size takes."),
    "evaluate": ("evaluate", "Error, size and speed of types on a model's weights."),
    "demo": ("demo", "Make a small model, quantize it to several types and compare."),
    "plugins": ("plugins", "Show which plugin provides which type."),
}


class Commands(click.Group):
    """Loads subcommands when they are called; those of plugins (hook register_commands) come last."""

    _asked = None  # the hooks of which self.commands holds the subcommands

    def list_commands(self, ctx):
        self._ask_plugins()
        return [*COMMANDS, *sorted(set(self.commands) - set(COMMANDS))]

    def get_command(self, ctx, name):
        if name in COMMANDS:
            return import_module(f"quantreg.cli.{COMMANDS[name][0]}").command
        self._ask_plugins()
        return self.commands.get(name)

    def format_commands(self, ctx, formatter):
        names = self.list_commands(ctx)
        rows = [(n, COMMANDS[n][1] if n in COMMANDS else self.commands[n].get_short_help_str()) for n in names]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _ask_plugins(self):
        """Take the subcommands of plugins in; a plugin that fails adds none, and `quantreg plugins` says why."""
        from quantreg.errors import PluginError
        from quantreg.registry import registry

        hooks = registry.hook.register_commands.get_hookimpls()
        if hooks == self._asked:
            return
        self._asked, self.commands = hooks, {}
        for hook in hooks:
            theirs = click.Group()
            try:
                hook.function(theirs)
                for name in theirs.commands:
                    if name in COMMANDS or name in self.commands:
                        raise PluginError(f"there is a command {name!r} already: choose another name")
            except Exception as error:  # a plugin may fail in any way; it must disable only itself
                registry.blame("register_commands", hook, error)
                continue
            self.commands |= theirs.commands

    def resolve_command(self, ctx, args):
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from quantreg.registry import registry

            hint = f"See `quantreg --help`{registry.why_missing(args[0])}."
            raise click.UsageError(f"{error.message} {hint}", ctx) from None


def _version(ctx, param, value):
    if value and not ctx.resilient_parsing:
        from quantreg import __version__

        click.echo(f"quantreg {__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli():
    """GGUF quantization: any type in, any type out, from the shell or Python."""


def main(args=None):
    """Run the command. Exit code: 0; 1 after one line on stderr for what went wrong; 2 wrong usage; 130 Ctrl-C."""
    from quantreg.errors import QuantregError

    # Slabs are spread over the cores here; threads of NumPy's OpenBLAS would be on top, and take long to start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    atexit.register(gc.freeze)  # memory goes back as a whole: no looking for cycles in what was imported
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
        click.echo(f"quantreg: error: {_one_line(error)}", err=True)
        return 1
    return code if isinstance(code, int) else 0  # what a command has said with ctx.exit()


def _one_line(error):
    from quantreg.cli.show import printable

    if isinstance(error, OSError) and error.filename is not None:
        return printable(f"{error.filename or repr(error.filename)}: {error.strerror}")
    return printable(" ".join(str(error).split()))
