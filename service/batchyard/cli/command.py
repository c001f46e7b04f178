"""The command `batchyard`: the servers and their upkeep (`commands`), and batch work for people (`people`)."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from batchyard.cli import options
from batchyard.cli.errors import RunError
from batchyard.service.config.settings import SettingsError

_EXTRAS = {"serve": "all", "shim": "shim"}


def run(arguments: Sequence[str] | None, environ: Mapping[str, str]) -> int:
    """Runs the command and returns its exit code: 0, 1 for what can't be done; 2 (argparse) for usage.

    The subcommands for people have more of them: see `options.EXIT_CODES`.
    """
    given = _parser().parse_args(arguments)
    if given.module == "people":  # gRPC's core reads it when it is loaded, and else logs a service's goodbye to stderr
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        # Imported by name, so that the base install can at least say what is missing.
        return import_module(f".{given.module}", __package__).run(given, environ) or 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python writes to it again, and complains
        return 141
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("batchyard"):
            raise
        extra = _EXTRAS.get(given.command, "service")
        sys.stderr.write(f"batchyard {given.command} needs more packages; in a checkout: pip install '.[{extra}]'\n")
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
    except RunError as error:
        sys.stderr.write("".join(f"{line}\n" for line in (f"batchyard: {error}", error.advice) if line))
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="batchyard", description="One front door for LLM batch work.")
    parser.set_defaults(module="commands")
    parser.add_argument("--version", action="version", version=f"batchyard {version('batchyard')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _serving_options(commands.add_parser("serve", help="run the service and the REST shim in one process"))
    _serving_options(commands.add_parser("service", help="run the gRPC service alone"))
    _shim_options(commands.add_parser("shim", help="run the REST shim alone, in front of a service"))
    _service_options(commands.add_parser("check-config", help="print the settings as they are understood"))
    backup = commands.add_parser("backup", help="copy the data directory, also while a service uses it")
    _service_options(backup)
    backup.add_argument("destination", type=Path, metavar="DESTINATION", help="the folder to create")
    options.add_commands(commands)
    return parser


def _service_options(parser: argparse.ArgumentParser) -> None:
    _common_options(parser)
    parser.add_argument("--data-dir", metavar="DIR", help="where files and the registry are kept")


def _serving_options(parser: argparse.ArgumentParser) -> None:
    _service_options(parser)
    parser.add_argument(
        "--accept-registry",
        action="store_true",
        help="start with a registry that doesn't belong to the stored files: those it doesn't name are moved aside",
    )


def _shim_options(parser: argparse.ArgumentParser) -> None:
    _common_options(parser)
    parser.add_argument("--service", dest="service_address", metavar="HOST:PORT", help="the service to call")


def _common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="a YAML file; of several, the last counts")
    parser.add_argument("--host", metavar="H", help="the address to listen on")
    parser.add_argument("--port", metavar="N", help="the REST port; 0: any free one")
    parser.add_argument("--grpc-port", metavar="N", help="the gRPC port; 0: any free one")
    parser.add_argument("--metrics-port", metavar="N", help="a port for Prometheus; 0: any free one")
