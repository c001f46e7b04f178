"""The options of the subcommands for people: upload, submit, watch, results, cancel, list, keys."""

import argparse
import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from batchyard.service.config.parsing import UnfitError, parse
from batchyard.service.config.settings import Quotas
from batchyard.service.config.types import TextFormat

EXIT_CODES = """\
exit codes:
  0    done
  1    it failed; a line on stderr says why
  2    wrong usage
  3    the batch ended as failed, expired or cancelled
  4    the batch completed, but some of its lines failed
  5    the batch has not ended yet (results)
  130  interrupted; a batch that was created goes on
  141  nobody reads the output any more
"""
CERTIFICATES = (
    ("ca_file", "BATCHYARD_TLS__CA_FILE", "speak TLS, and verify the service with this"),
    ("client_cert_file", "BATCHYARD_TLS__CLIENT_CERT_FILE", "show this certificate"),
    ("client_key_file", "BATCHYARD_TLS__CLIENT_KEY_FILE", "the key of the certificate"),
)
"""Options, the variables that stand in for them, and what they do."""

LIMITS = [field.name for field in fields(Quotas)]
_LIMIT_HELP = f"how much it may use, repeatable; NAME is one of {', '.join(LIMITS)}"
_NAMES: dict[str, Any] = {"action": "append", "default": [], "metavar": "NAME"}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_commands(commands: Any) -> None:
    """Adds the subcommands to what `add_subparsers` made."""
    _upload(_added(commands, "upload", "store a file and print its id"))
    _submit(
        _added(commands, "submit", "start a batch over a file and print its id; with --wait, also fetch its results")
    )
    _batch(_added(commands, "watch", "follow a batch until it has ended"))
    results = _added(commands, "results", "write the results of a batch that has ended")
    _batch(results)
    results.add_argument("--wait", action="store_true", help="first follow the batch to its end")
    _outputs(results)
    _batch(_added(commands, "cancel", "ask for a batch to stop"))
    _list(_added(commands, "list", "show batches or files, newest first"))
    actions = commands.add_parser("keys", help="make, show and end keys of tenants, with the master key")
    _keys(actions.add_subparsers(dest="action", required=True, metavar="ACTION"))


def address(text: str) -> str:
    """HOST:PORT or unix:PATH. Raises ArgumentTypeError."""
    if re.match(r"(https?|grpcs?)://", text):
        raise argparse.ArgumentTypeError(
            f"expected HOST:PORT of the gRPC port (50051 unless it was configured), not a URL, got {_shown(text)}"
        )
    try:
        return str(parse(Annotated[str, TextFormat.ADDRESS], text))
    except UnfitError as unfit:
        raise argparse.ArgumentTypeError(str(unfit)) from None


def _added(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    parser = _connecting(commands, name, what)
    parser.add_argument("--provider", default="", metavar="NAME", help="only this one; else what the id or file says")
    return parser


def _connecting(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=what, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(module="people", refuse=parser.error)
    parser.add_argument(
        "--server",
        type=address,
        metavar="HOST:PORT",
        help="or unix:PATH; else $BATCHYARD_SERVICE_ADDRESS or localhost:50051",
    )
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="has the key; else $BATCHYARD_API_KEY or $BATCHYARD_MASTER_KEY"
    )
    for option, variable, meaning in CERTIFICATES:
        parser.add_argument(f"--{option.replace('_', '-')}", metavar="FILE", help=f"{meaning}; else ${variable}")
    parser.add_argument(
        "--patience", type=_seconds, metavar="SECONDS", help="for a service that is away: 10; to follow a batch, 300"
    )
    parser.add_argument("--json", action="store_true", help="print objects as the REST API has them, one a line")
    parser.add_argument("--quiet", action="store_true", help="no talk and no bars on stderr")
    return parser


def _upload(parser: argparse.ArgumentParser) -> None:
    _file(parser, "the file; - is stdin")
    parser.add_argument("--purpose", default="batch", help="what it is for (batch)")


def _submit(parser: argparse.ArgumentParser) -> None:
    _file(parser, "the JSONL file, - for stdin, or the id of an uploaded file")
    parser.add_argument("--endpoint", metavar="PATH", help='such as /v1/chat/completions; else the first line\'s "url"')
    parser.add_argument("--window", default="24h", help="the time to be done in (24h)")
    parser.add_argument("--metadata", type=_pair, action="append", default=[], metavar="KEY=VALUE", help="repeatable")
    parser.add_argument("--output-expires-after", type=_whole, metavar="SECONDS", help="when the results are deleted")
    parser.add_argument("--idempotency-key", metavar="KEY", help="the same key again means the same batch")
    parser.add_argument("--wait", action="store_true", help="follow the batch to its end, then write its results")
    _outputs(parser)


def _file(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("file", type=_filled, metavar="FILE", help=what)
    parser.add_argument("--expires-after", type=_whole, metavar="SECONDS", help="when the uploaded file is deleted")


def _batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("batch", type=_filled, metavar="BATCH", help="its id")


def _outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="for the lines that succeeded; else stdout, or where that is a terminal FILE.results.jsonl",
    )
    parser.add_argument("--errors", metavar="FILE", help="for the lines that failed or never ran")


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=_whole, metavar="N", help="how many (20); with --all: how many a page (100)")
    parser.add_argument("--after", default="", metavar="ID", help="those that follow this one")
    parser.add_argument("--all", action="store_true", help="page after page, to the end")
    parser.add_argument("--files", action="store_true", help="files instead of batches")


def _keys(actions: Any) -> None:
    create = _connecting(actions, "create", "make a key and print its secret, which is never shown again")
    create.add_argument("--tenant", required=True, metavar="NAME", help="whose it is")
    create.add_argument("--name", required=True, help="what it is called")
    create.add_argument("--allow-provider", **_NAMES, help="a provider or deployment that it may use; repeatable")
    create.add_argument("--allow-group", **_NAMES, help="a model group that it may use; repeatable")
    create.add_argument(
        "--expires-in", type=_lifetime, metavar="TIME", help="such as 90d, 12h or 600s; else it never ends"
    )
    create.add_argument("--limit", type=_limit, action="append", default=[], metavar="NAME=N", help=_LIMIT_HELP)
    listed = _connecting(actions, "list", "show keys, without their secrets")
    listed.add_argument("--tenant", default="", metavar="NAME", help="only this one's")
    listed.add_argument("--limit", type=_whole, default=100, metavar="N", help="how many a page (100)")
    listed.add_argument("--after", default="", metavar="ID", help="those that follow this one")
    listed.add_argument("--all", action="store_true", help="page after page, to the end")
    rotate = _connecting(actions, "rotate", "give a key another secret and print it")
    rotate.add_argument("--grace", type=_span, default=0, metavar="TIME", help="for how long the old one works (0s)")
    revoke = _connecting(actions, "revoke", "end a key, at once and for good")
    for parser in (rotate, revoke):
        parser.add_argument("key", type=_filled, metavar="KEY", help="its id")


def _filled(text: str) -> str:
    """What was given; it is empty where a variable of the shell was."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def _whole(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 11 else 0
    if not 0 < number < 1 << 31:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {(1 << 31) - 1}, got {_shown(text)}")
    return number


def _span(text: str) -> int:
    """Seconds, of `90d`."""
    unit = _UNITS.get(text[-1:], 0)
    if not unit or not text[:-1].isdecimal() or len(text) > 10:
        raise argparse.ArgumentTypeError(f"expected a whole number and s, m, h or d, such as 90d, got {_shown(text)}")
    return int(text[:-1]) * unit


def _lifetime(text: str) -> int:
    if not (seconds := _span(text)):
        raise argparse.ArgumentTypeError(f"expected more than no time, got {_shown(text)}")
    return seconds


def _limit(text: str) -> tuple[str, int]:
    name, number = _pair(text)
    name = name.replace("-", "_")
    if name not in LIMITS or not number.isdecimal() or len(number) > 18:
        raise argparse.ArgumentTypeError(f"expected NAME=N, NAME one of {', '.join(LIMITS)}, got {_shown(text)}")
    return name, int(number)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"expected a number of seconds from 0 to 1000000, got {_shown(text)}")
    return seconds


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {_shown(text)}")
    return key, value


def _shown(text: str) -> str:
    """What was given, cut where it is long."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
