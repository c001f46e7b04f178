"""The command `batchyard`: serve, service, shim, check-config, backup."""

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import uvloop

from batchyard.cli import report
from batchyard.cli.errors import RunError
from batchyard.common import logs
from batchyard.service.loading import load_settings, provider_variables
from batchyard.service.settings import Settings, SettingsError

_OPTIONS = ("host", "port", "grpc_port", "data_dir", "service_address")


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Runs the command and returns its exit code: 0, 1 for what can't be used or opened; 2 (argparse) for usage."""
    given = _parser().parse_args(arguments)
    try:
        settings = _settings(given, environ)
        if given.command == "check-config":
            sys.stdout.write(report.settings(settings))
        elif given.command == "backup":
            import_module(".backup", __package__).run(settings, given.destination)
        else:
            _run(given, settings, environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except RunError as error:
        sys.stderr.write(f"batchyard: {error}\n")
        return 1
    return 0


def _settings(given: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    options = {name: getattr(given, name, None) for name in _OPTIONS}
    return load_settings(given.config, environ, options, serves=given.command != "shim")


def _run(given: argparse.Namespace, settings: Settings, environ: Mapping[str, str]) -> None:
    logs.configure(settings.log_level, settings.log_format)
    report.log_found(given.config, settings, provider_variables(environ))
    # Imported by name, so that a service and a shim alone need only their own half's dependencies.
    server = import_module(f".{given.command}", __package__)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.run(settings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="batchyard", description="One front door for LLM batch work.")
    parser.add_argument("--version", action="version", version=f"batchyard {version('batchyard')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _service_options(commands.add_parser("serve", help="run the service and the REST shim in one process"))
    _service_options(commands.add_parser("service", help="run the gRPC service alone"))
    _shim_options(commands.add_parser("shim", help="run the REST shim alone, in front of a service"))
    _service_options(commands.add_parser("check-config", help="print the settings as they are understood"))
    backup = commands.add_parser("backup", help="copy the data directory, also while a service uses it")
    _service_options(backup)
    backup.add_argument("destination", type=Path, metavar="DESTINATION", help="the folder to create")
    return parser


def _service_options(parser: argparse.ArgumentParser) -> None:
    _common_options(parser)
    parser.add_argument("--data-dir", metavar="DIR", help="where files and the registry are kept")


def _shim_options(parser: argparse.ArgumentParser) -> None:
    _common_options(parser)
    parser.add_argument("--service", dest="service_address", metavar="HOST:PORT", help="the service to call")


def _common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="a YAML file; of several, the last counts")
    parser.add_argument("--host", metavar="H", help="the address to listen on")
    parser.add_argument("--port", metavar="N", help="the REST port; 0: any free one")
    parser.add_argument("--grpc-port", metavar="N", help="the gRPC port; 0: any free one")


if __name__ == "__main__":
    sys.exit(main())
