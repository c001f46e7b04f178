"""What each subcommand does."""

import argparse
import asyncio
import gc
import sys
from collections.abc import Mapping
from importlib import import_module

import uvloop

from batchyard.cli import interrupts, report
from batchyard.cli.open_files import fitted
from batchyard.common import logs
from batchyard.service.config.loader import load_settings
from batchyard.service.config.settings import Settings

_OPTIONS = ("host", "port", "grpc_port", "metrics_port", "data_dir", "service_address")


def run(given: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Runs the subcommand that was given to its end.

    Raises SettingsError, RunError, and ModuleNotFoundError where its half isn't installed.
    """
    settings = _settings(given, environ)
    if given.command == "check-config":
        sys.stdout.write(report.settings(settings))
    elif given.command == "backup":
        backup = import_module(".backup", __package__)
        interrupts.catch()
        backup.run(settings, given.destination)
    else:
        _serve(given, settings, environ)


def _settings(given: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    options = {name: getattr(given, name, None) for name in _OPTIONS}
    return load_settings(given.config, environ, options, serves=given.command != "shim")


def _serve(given: argparse.Namespace, settings: Settings, environ: Mapping[str, str]) -> None:
    # Imported by name, so that a service and a shim alone need only their own half's dependencies.
    server = import_module(f".{given.command}", __package__)
    logs.configure(settings.log_level, settings.log_format)
    report.log_found(given.config, settings, runs_batches=given.command != "shim")
    settings = fitted(settings)
    gc.freeze()  # what was imported stays: collections need not look at it
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        more = {} if given.command == "shim" else {"accept_registry": given.accept_registry}
        runner.run(server.run(settings, **more))
