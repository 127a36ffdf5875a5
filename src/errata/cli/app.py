"""Commands and their options. No torch is imported before a command runs: `errata --help` answers at once."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from errata.cli.commands.ask_command import ask
from errata.cli.commands.bench_command import bench
from errata.cli.commands.demo_command import demo
from errata.cli.commands.edit_command import edit
from errata.cli.commands.eval_command import evaluate
from errata.cli.commands.init_command import init
from errata.cli.commands.lens_command import lens
from errata.cli.commands.reproduce_command import reproduce
from errata.cli.commands.stats_command import stats
from errata.cli.commands.trace_command import trace
from errata.cli.commands.train_command import train_app
from errata.cli.commands.tune_command import tune
from errata.cli.help import GroupedCommand
from errata.cli.interrupt import Interrupts
from errata.cli.listings import methods, models
from errata.errors import ErrataError, NumericsError

app = typer.Typer(
    name="errata",
    help="Correct what a language model believes: thousands of facts at a time, undoably.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


_INTERRUPTED = (
    "interrupted. Second moments, target values, training and finished parts of evaluations are kept, but for the last "
    "seconds of work; the same command goes on from there."
)


def run() -> None:
    """Parse and run: exit codes 0 done, 1 numerics or an edit that failed, 2 bad input, 3 a --require was not met, 130
    interrupted, 141 the output's reader went away."""
    code = 0
    try:
        with Interrupts.watched(), plain_warnings():
            code = _call()
    except (KeyboardInterrupt, typer.Abort):
        _fail(_INTERRUPTED, 130)
    except ErrataError as error:
        _fail(str(error), 1 if isinstance(error, NumericsError) else 2)
    except SystemExit:
        # Only for a broken pipe (errata ... | head) does typer exit by itself, and with 1; shells know 128 + SIGPIPE.
        raise SystemExit(141) from None
    except OSError as error:
        _fail(f"a file or the output could not be read or written: {error}.", 2)
    except Exception as error:
        # click's own usage errors, without importing click by name: typer may vendor it.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            asked = getattr(getattr(error, "ctx", None), "command_path", "errata")
            _fail(f"{error.format_message().rstrip('.')}. See {asked} --help.", 2)  # type: ignore[attr-defined]
        raise
    if code:
        raise SystemExit(code)


def _call() -> int:
    """Run the command; whatever a Ctrl-C was turned into on its way up is a KeyboardInterrupt again."""
    try:
        # What a command ends with by typer.Exit comes back as a value; so does 130 for Ctrl-C.
        code = app(sys.argv[1:] or ["--help"], prog_name="errata", standalone_mode=False)
        if code == 130:
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except Exception as error:
        if Interrupts.pressed:
            raise KeyboardInterrupt from error
        raise


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Say errata's own warnings as lines for a reader, without the place in its code; each once."""
    plain = warnings.showwarning

    def show(message: Any, category: type[Warning], filename: str, *rest: Any, **more: Any) -> None:
        if Path(filename).is_relative_to(Path(__file__).parents[1]):
            print(f"errata: {message}", file=sys.stderr)
        else:
            plain(message, category, filename, *rest, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = plain


def _fail(message: str, code: int) -> None:
    print(f"errata: {message}", file=sys.stderr)
    raise SystemExit(code) from None


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    """What may come before any command: --version."""
    if version:
        from errata import __version__

        typer.echo(f"errata {__version__}")
        raise typer.Exit


for _name, _command in (
    ("demo", demo),
    ("init", init),
    ("edit", edit),
    ("stats", stats),
    ("ask", ask),
    ("eval", evaluate),
    ("lens", lens),
    ("trace", trace),
    ("reproduce", reproduce),
    ("bench", bench),
    ("tune", tune),
    ("methods", methods),
    ("models", models),
):
    app.command(_name, cls=GroupedCommand)(_command)
app.add_typer(train_app, name="train", no_args_is_help=True)
