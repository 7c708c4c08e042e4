"""The entry point: gathers the commands and turns every refusal into one message and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer

from burnish.cli import (
    augment_report,
    average,
    bench,
    chat,
    classify,
    compare,
    compare_methods,
    data_need,
    diagnose,
    doctor,
    evaluate,
    generate,
    inspect,
    interpolate,
    launch,
    lr_range,
    merge,
    plan,
    ranks,
    recommend,
    replay_batch,
    report,
    resume,
    run,
    search,
    sequence,
    sweep,
    tradeoff,
    verify,
    verify_export,
)
from burnish.cli.refusal import show_error
from burnish.core.errors import BurnishError, UserError, out_of_memory

INTERRUPTED = 130
# typer brings its own copy of click since 0.26; this is the base of its errors, whichever it is
ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def summary(module: Any) -> str:
    """What the list of commands says of one: its module's first line, behind the name."""
    text = (module.__doc__ or "").partition(": ")[2]
    return text[:1].upper() + text[1:]


app = typer.Typer(
    name="burnish",
    help="Fine-tune pre-trained language models, and prove what was done.",
    epilog="Start with:  burnish run quickstart",
    add_completion=False,
    rich_markup_mode=None,  # drawing panels would double the time that --help takes
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    run,
    launch,
    plan,
    lr_range,
    recommend,
    ranks,
    search,
    sweep,
    data_need,
    compare_methods,
    tradeoff,
    inspect,
    evaluate,
    compare,
    sequence,
    generate,
    chat,
    classify,
    merge,
    interpolate,
    average,
    report,
    diagnose,
    resume,
    verify,
    verify_export,
    replay_batch,
    augment_report,
    doctor,
    bench,
)
for module in COMMANDS:
    app.command(name=module.NAME, short_help=summary(module))(module.command)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave.", is_eager=True),
) -> None:
    """Fine-tune pre-trained language models, and prove what was done."""
    if version:
        from burnish import __version__

        typer.echo(f"burnish {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0 done, 2 refused, 3 stopped to protect the result."""
    sys.exit(call(list(arguments) if arguments is not None else None))


def call(arguments: list[str] | None) -> int:
    """Run the command line and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        result = app(args=given, prog_name="burnish", standalone_mode=False)
    except ClickException as error:
        return refuse(usage_error(error), as_json="--json" in given)
    except (BurnishError, MemoryError, RuntimeError, OSError) as error:
        return refuse(error, as_json="--json" in given)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("\ninterrupted", err=True)
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def refuse(error: Exception, *, as_json: bool = False) -> int:
    """Print a refusal and return its exit code; an error that is a fault of Burnish keeps its traceback."""
    if out_of_memory(error):
        error = BurnishError(
            "memory ran out",
            where="this machine" if "CPU" in str(error) or isinstance(error, MemoryError) else "the GPU",
            fix="lower `batches.micro_batch_tokens` (the result stays the same), set "
            "`train.gradient_checkpointing=true`, or use `adapter.method=lora`",
        )
    if isinstance(error, OSError):  # a folder that may not be read, a disk that went away
        what = f"cannot read or write: {error.strerror or error}"
        error = UserError(what, where=str(error.filename or ""), fix="check that it exists and who may use it")
    if not isinstance(error, BurnishError):
        raise error
    show_error(error, as_json)
    return error.exit_code


def usage_error(error: Any) -> UserError:
    """A fault in how a command was called, in the form of all others."""
    message = error.format_message()
    command = error.ctx.command_path if getattr(error, "ctx", None) else "burnish"
    return UserError(message[:1].lower() + message[1:].rstrip("."), where=command, fix=f"see `{command} --help`")
