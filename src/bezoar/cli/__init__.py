"""The command line: one file a verb. A verb parses, calls one function and prints.

Exit codes: 0 done, and every requirement met; 1 done, and a requirement not met or undecided;
2 not done, with the reason in one line; 130 interrupted.
"""

import sys

import typer
from typer.exceptions import TyperException

from bezoar.cli import (
    attack,
    backdoor,
    certify,
    check,
    demo,
    detect,
    guard,
    latency,
    listing,
    repair,
    report,
    reproduce,
    train,
)

INTERRUPTED = 130

app = typer.Typer(
    name="bezoar",
    help="Find how an image classifier is fooled, repair it by unlearning, prove the repair.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("attack")(attack.attack)
app.command("repair")(repair.repair)
app.add_typer(guard.app, name="guard")
app.add_typer(backdoor.app, name="backdoor")
app.command("certify")(certify.certify)
app.command("detect")(detect.detect)
app.command("latency")(latency.latency)
app.command("check")(check.check)
app.command("report")(report.report)
app.command("reproduce")(reproduce.reproduce)
app.command("list")(listing.listing)


def main() -> None:
    """Entry point of the ``bezoar`` command."""
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run one command line and return its exit code; errors are one line on stderr."""
    try:
        code = app(words, standalone_mode=False)
    except TyperException as error:
        return _refused(str(error.format_message()).rstrip("."), "; see bezoar --help")
    except OSError as error:  # the system's own errors say the file last
        return _refused(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (ValueError, TypeError, FloatingPointError) as error:
        return _refused(str(error) or type(error).__name__)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer makes this code of Ctrl-C, and says nothing
        print(
            "bezoar: interrupted; the same command goes on where this one stopped", file=sys.stderr
        )
    return code if isinstance(code, int) else 0


def _refused(reason: str, hint: str = "") -> int:
    print(f"bezoar: {' '.join(reason.split())}{hint}", file=sys.stderr)
    return 2
