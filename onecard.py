"""The command line of the one-card front-end (一卡通前置通讯服务器): `onecard` and `python -m onecard`.

Each group of verbs lives with what it works on and is loaded only when its name stands on the command line, so that
`onecard --help` starts at once. Exit codes: 0 done, 1 disagreement or refusal, 2 usage, 3 peer unreachable,
4 damaged data.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Final

import typer

from onecard_host import EXIT_DAMAGED, EXIT_FAULT, EXIT_REFUSED, EXIT_USAGE, CliError, Host

__version__ = "0.1.0.dev0"

PROGRAM: Final = "onecard"
COMPLETION_VARIABLE: Final = "_ONECARD_COMPLETE"
COLLECT_THRESHOLD: Final = 10_000
"""Of the cyclic collector: what loading modules and a registry of 10,000 terminals makes is walked again and again at
the usual 700, for a twentieth of the time to start, and none of it is garbage."""
INTERRUPTED: Final = 130  # as a shell reports a command that Ctrl-C ended

EPILOG: Final = """\b
A first look:
  onecard demo                                       a canteen sells through an outage
A site of your own (every verb takes --site DIR, or ONECARD_SITE):
  onecard keys init --site canteen                   keys and site file
  onecard keys enrol --terminals 20 --site canteen   terminals
  onecard keys cards --count 500 --site canteen      cards
  onecard doctor --site canteen                      is everything as it must be?
  onecard ledger init --site canteen                 the books
  onecard ledger serve --site canteen                the ledger, a process of its own
  onecard serve --config canteen                     the front-end

\b
Exit codes: 0 done, 1 disagreement or refusal, 2 usage, 3 peer unreachable, 4 damaged data."""


def _keys() -> typer.Typer:
    from onecard_keys_cli import app

    return app


def _doctor() -> typer.Typer:
    from onecard_doctor import app

    return app


def _frontend() -> typer.Typer:
    from frontend_server.cli import app

    return app


def _fleet() -> typer.Typer:
    from frontend_server.cli_fleet import fleet

    return fleet


def _ledger() -> typer.Typer:
    from ledger_sync.cli import app

    return app


def _spool() -> typer.Typer:
    from ledger_sync.spool.cli_look import app

    return app


def _sim() -> typer.Typer:
    return _later("terminal_sim.cli", "app")


def _demo() -> typer.Typer:
    return _later("onecard_demo", "app")


def _later(module: str, name: str) -> typer.Typer:
    """A group whose module another installation may lack."""
    import importlib

    try:
        found: typer.Typer = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name not in {module, module.partition(".")[0]}:
            raise
        raise CliError(f"{module} is not installed here") from None
    return found


# Verb → what its line of the help says, whether it is a group, and who has it.
VERBS: Final[dict[str, tuple[str, Callable[[], typer.Typer]]]] = {
    "demo": ("A site for a minute: sells, fails, recovers, compares totals.", _demo),
    "serve": ("Run the terminal front-end server (前置机).", _frontend),
    "status": ("Figures of the running front-end.", _frontend),
    "fleet": ("Terminals of the running front-end: online, behind, missing.", _fleet),
    "ledger": ("The central ledger (中心账务): serve, report, cards, verify.", _ledger),
    "spool": ("The front-end's spool on disk, beside the running server.", _spool),
    "sim": ("Simulated terminals (模拟机具) against a real front-end.", _sim),
    "keys": ("Keys of a site, terminals and cards (密钥), made offline.", _keys),
    "doctor": ("Look a site over, and say how to mend what is wrong.", _doctor),
}
SQLITE_DAMAGED: Final = frozenset({"CorruptError", "NotADBError"})
"""By name: apsw is not loaded for an error that has nothing to do with it."""
# Modules that hold single verbs of the top level, not a group of their own name.
FLAT: Final = frozenset({"serve", "status", "demo", "doctor"})


def build(word: str | None) -> typer.Typer:
    """The command line with the verbs of `word` loaded and the others as lines of help; None loads all."""
    root = typer.Typer(
        name=PROGRAM,
        help="Terminal front-end server of one-card systems (一卡通), its ledger and its simulated terminals.",
        epilog=EPILOG,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    root.callback()(_global_options)
    for name, (text, load) in VERBS.items():
        if word not in {None, name}:
            root.command(name, help=text)(_not_loaded)
            continue
        try:
            loaded = load()
        except CliError as error:
            root.command(name, help=text)(_refusing(error))
            continue
        if name in FLAT:
            for command in loaded.registered_commands:
                if command.name == name:
                    root.registered_commands.append(command)
        else:
            root.add_typer(loaded, name=name, help=text)
    return root


def _not_loaded() -> None:
    """Stands for a verb that was not asked for."""


def _refusing(error: CliError) -> Callable[[], None]:
    def refuse() -> None:
        raise error

    return refuse


def _version(wanted: bool) -> None:
    if wanted:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


def _global_options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    assert not version
    context.ensure_object(Host).is_debug = debug


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code and never raises."""
    usual = gc.get_threshold()
    gc.set_threshold(COLLECT_THRESHOLD, *usual[1:])
    try:
        return _run(argv)
    finally:
        gc.set_threshold(*usual)


def _run(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    host = Host(os.environ)
    is_debug = "--debug" in arguments
    try:
        word = None if COMPLETION_VARIABLE in os.environ else next((one for one in arguments if one in VERBS), "")
        command = typer.main.get_command(build(word))
        result = command.main(arguments, prog_name=PROGRAM, standalone_mode=False, obj=host)
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - the outermost frame: whatever it is becomes a sentence and a code
        if isinstance(error, SystemExit):
            return error.code if isinstance(error.code, int) else EXIT_REFUSED
        return failed(host, error, is_debug=is_debug)
    return result if isinstance(result, int) else 0


def failed(host: Host, error: BaseException, *, is_debug: bool) -> int:
    """Say what went wrong in one sentence; returns the exit code that belongs to it."""
    if isinstance(error, BrokenPipeError):  # the reader of our output has gone: `onecard … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_REFUSED
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if is_debug and not isinstance(error, typer.TyperException):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, typer.TyperException):
        # typer shows usage and "did you mean" by itself
        show = getattr(error, "show", None)
        if show is not None:
            show()
        else:
            host.complain(error.format_message())
        return error.exit_code
    if isinstance(error, typer.Abort):
        print(file=sys.stderr)  # the question's line is still open
    exit_code, sentence = judged(error)
    host.complain(sentence)
    return exit_code


def judged(error: BaseException) -> tuple[int, str]:
    """(exit code, sentence) of anything that a verb can end with."""
    from ledger_sync.errors import LedgerSyncError, SpoolDamaged
    from ledger_sync.ledger.errors import LedgerDamaged
    from onecard_keys import KeysError
    from onecard_site import SiteError
    from protocol.errors import LocalError, ProtocolError

    text = str(error).strip() or type(error).__name__
    if isinstance(error, CliError):
        return error.exit_code, text
    if isinstance(error, SiteError):
        return EXIT_USAGE, text
    if isinstance(error, typer.Abort):
        return EXIT_REFUSED, "ended at your request"
    if isinstance(error, KeysError):
        # raised "from None", yet its context tells a missing file from one whose content is wrong
        return (EXIT_DAMAGED if isinstance(error.__context__, ProtocolError) else EXIT_REFUSED), text
    if isinstance(error, LedgerDamaged | SpoolDamaged) or type(error.__cause__).__name__ in SQLITE_DAMAGED:
        return EXIT_DAMAGED, text
    if isinstance(error, ProtocolError):
        return (EXIT_REFUSED if isinstance(error, LocalError) else EXIT_DAMAGED), text
    if isinstance(error, LedgerSyncError | OSError):
        return EXIT_REFUSED, text
    from onecard_log import redacted_text

    # What a bug says of itself was written by nobody with care: it may quote a key or a card
    return EXIT_FAULT, f"a fault in this program: {type(error).__name__}: {redacted_text(text)}; --debug shows where"


if __name__ == "__main__":
    sys.exit(main())
