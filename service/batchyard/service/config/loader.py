"""Reads the settings once: command line > BATCHYARD_* variables > file > other variables.

Nothing is read from the process itself: file, environment and options are passed in. All problems are found before
one error reports them together.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchyard.service.config import litellm, sources, yaml_document
from batchyard.service.config.deployments import Deployments
from batchyard.service.config.hosts import is_loopback, leads_to
from batchyard.service.config.keys import ConfiguredKeys, ConfiguredTenants
from batchyard.service.config.model_groups import ModelGroupReader
from batchyard.service.config.names import GROUPS, OPENAI
from batchyard.service.config.parsing import UnfitError, Value, may_be_secret, parse
from batchyard.service.config.settings import (
    GroupSettings,
    Limits,
    LocalSettings,
    Problem,
    Quotas,
    RetentionSettings,
    Settings,
    SettingsError,
    Tls,
    UpstreamSettings,
)
from batchyard.service.config.sources import MASTER_KEY, Found, Layer, key_name

WEAK_KEY = "sk-1234"
_MOST_PROBLEMS = 100
_SET_KEY = "set general_settings.master_key or BATCHYARD_MASTER_KEY"
_ENCRYPT = (
    "set batchyard.tls.cert_file and key_file, or batchyard.allow_plaintext: true where something before it encrypts"
)
_TOGETHER = (
    ("cert_file", "key_file"),
    ("key_file", "cert_file"),
    ("client_ca_file", "cert_file"),
    ("admin_names", "client_ca_file"),
    ("client_cert_file", "client_key_file"),
    ("client_key_file", "client_cert_file"),
    ("client_cert_file", "ca_file"),
)
"""Keys of `tls`, and those that each needs."""
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Settings)}
_NO_PROVIDER = (
    "no provider is configured; set OPENAI_API_KEY, or AZURE_API_BASE and AZURE_API_KEY, or batchyard.local.api_base "
    "to an OpenAI-compatible endpoint; or batchyard.local.echo: true to try Batchyard out"
)


def load_settings(
    config: Path | None,
    environ: Mapping[str, str],
    options: Mapping[str, object] | None = None,
    *,
    serves: bool = True,
) -> Settings:
    """The settings from `config` (no file: the environment alone), `environ` and the command line's `options`.

    `options` are by key name (`host`, `port`, ...); None is one that wasn't given. `serves` is whether a service is
    to run on them: a shim alone needs neither provider nor key. Raises SettingsError with all problems.
    """
    document = yaml_document.Document("no file") if config is None else yaml_document.read(config)
    return _Loader(document, environ, serves).load(options or {})


def choose_default(
    name: str | None, in_file: Sequence[str], others: Sequence[str] = (), *, grouped: bool = False
) -> str:
    """The default provider: the one that is named, else `groups`, else the only one of the file, else of `others`.

    `grouped` says whether there are model groups. Of several in the environment it is OpenAI, as with LiteLLM. Raises
    ValueError saying what to set.
    """
    configured = [*([GROUPS] if grouped else []), *in_file, *(other for other in others if other not in in_file)]
    if not configured:
        raise ValueError(_NO_PROVIDER)
    if name is not None and name not in configured:
        shown = "the one that is named" if may_be_secret(name) else name
        raise ValueError(f"{shown} is not configured; configured: {', '.join(configured)}")
    if name or grouped:
        return name or GROUPS
    if len(in_file) > 1:
        raise ValueError(f"several providers are configured; name one of {', '.join(configured)}")
    return in_file[0] if in_file else OPENAI if OPENAI in others else configured[0]


def _first(problems: list[Problem]) -> list[Problem]:
    """As many as somebody reads."""
    more = len(problems) - _MOST_PROBLEMS
    return [*problems[:_MOST_PROBLEMS], *([Problem("the settings", f"{more} more problems")] if more > 0 else [])]


class _Loader:
    def __init__(self, document: yaml_document.Document, environ: Mapping[str, str], serves: bool) -> None:
        self._document = document
        self._environ = environ
        self._serves = serves
        self._problems = list(document.problems)
        self._found: Layer = {}
        self._values: dict[sources.Path, Value] = {}
        self._sections: set[str] = set()

    def load(self, options: Mapping[str, object]) -> Settings:
        outline = litellm.shape(self._document)
        self._problems += outline
        self._collect(options)
        self._parse()
        self._deployments = Deployments(self._document, self._environ, self._is_own)
        self._groups = ModelGroupReader(self._document, self._environ, self._deployments.models)
        self._problems += [] if outline else [*self._deployments.problems, *self._groups.problems]
        document = self._document if self._serves else yaml_document.Document("no file")
        self._keys = ConfiguredKeys(document, self._environ)
        self._tenants = ConfiguredTenants(document, self._environ)
        self._problems += self._tenants.problems
        self._check_local()
        self._check_tls()
        self._check_reach()
        self._check_keys()
        default = self._default_provider()
        if self._problems:
            raise SettingsError(_first(self._problems))
        return self._settings(default)

    def _collect(self, options: Mapping[str, object]) -> None:
        block, self._sections = sources.from_file(self._document, self._problems)
        variables = sources.from_variables(self._environ, self._problems)
        given = sources.from_options(options)
        self._found = self._last_resort() | litellm.master_key(self._document) | block | variables | given
        self._sections |= {path[0] for path in self._found if len(path) > 1}

    def _last_resort(self) -> Layer:
        key = self._environ.get("LITELLM_MASTER_KEY")
        return {MASTER_KEY: Found(key, "LITELLM_MASTER_KEY")} if key else {}

    def _parse(self) -> None:
        hints = sources.keys()
        for path, written in self._found.items():
            found = sources.resolved(path, written, self._environ, self._problems)
            if found is None:
                continue
            try:
                self._values[path] = parse(hints[path], found.value, hidden=found.hidden)
            except UnfitError as unfit:
                self._add(path, str(unfit))

    def _add(self, path: sources.Path, message: str) -> None:
        self._problems.append(Problem(key_name(path), message, self._where(path)))

    def _where(self, path: sources.Path) -> str:
        if path in self._found:
            return self._found[path].where
        stands = (sources.BLOCK, *path) in self._document.lines
        return self._document.where((sources.BLOCK, *path)) if stands else ""

    def _check_local(self) -> None:
        if "local" not in self._sections:
            return
        base, echo = ("local", "api_base"), ("local", "echo")
        if base in self._found and self._values.get(echo):
            self._add(base, "set either api_base or echo: true, not both")
        elif base not in self._found and not self._values.get(echo) and not self._refused(echo):
            self._add(("local",), "set api_base to an OpenAI-compatible endpoint, or echo: true")

    def _is_own(self, url: str) -> bool:
        """Whether a URL leads to the REST port of these settings."""
        host, port = (self._values.get((name,), _DEFAULTS[name]) for name in ("host", "port"))
        return leads_to(url, str(host), int(str(port)))

    def _refused(self, path: sources.Path) -> bool:
        return path in self._found and path not in self._values

    def _check_keys(self) -> None:
        master, host = self._values.get(MASTER_KEY), str(self._values.get(("host",), _DEFAULTS["host"]))
        groups = [group.name for group in self._groups.all()]
        places = {name for one in self._deployments.all() for name in (one.name, one.provider)}
        places |= {*(["local"] if "local" in self._sections else []), *([GROUPS] if groups else [])}
        self._keys.check(str(master) if master else None, None if is_loopback(host) else WEAK_KEY, places, groups)
        self._problems += self._keys.problems

    def _check_tls(self) -> None:
        for name, needs in _TOGETHER:
            path, other = ("tls", name), ("tls", needs)
            if path in self._found and other not in self._found:
                self._add(path, f"set {key_name(other)} too")
        sockets = [self._values.get((name,)) for name in ("socket", "grpc_socket")]
        if sockets[0] and sockets[0] == sockets[1]:
            self._add(("grpc_socket",), "expected another path than that of batchyard.socket")

    def _check_reach(self) -> None:
        """A listener that other machines reach needs a key and, unless the settings say otherwise, TLS."""
        host = self._values.get(("host",))
        if host is None or is_loopback(str(host)) or not self._on_host():
            return
        shown = "this host" if may_be_secret(str(host)) else host
        reach = f"{shown} is reachable from other machines"
        if ("tls", "cert_file") not in self._found and not self._values.get(("allow_plaintext",)):
            self._add(("host",), f"{reach}, which may read clear text: {_ENCRYPT}")
        key = self._values.get(MASTER_KEY)
        if not self._serves or self._refused(MASTER_KEY):
            return
        if key is None and not self._keys.all():
            self._add(("host",), f"{reach}, so callers need a master key: {_SET_KEY}")
        elif key == WEAK_KEY:
            self._add(MASTER_KEY, f"{reach}, so callers need a master key that isn't the well-known {WEAK_KEY}")

    def _on_host(self) -> bool:
        """Whether anything listens on the host, and not on a Unix socket."""
        sockets = [("socket",), ("grpc_socket",)] if self._serves else [("socket",)]
        return ("metrics_port",) in self._found or any(path not in self._found for path in sockets)

    def _default_provider(self) -> str:
        path = ("default_provider",)
        name = self._values.get(path)
        if not self._serves or self._refused(path):
            return str(name or "")
        local = ["local"] if "local" in self._sections else []
        in_file = list(dict.fromkeys([*local, *self._deployments.in_file]))
        others = list(dict.fromkeys(found.provider for found in self._deployments.all()))
        try:
            grouped = bool(self._groups.all())
            return choose_default(None if name is None else str(name), in_file, others, grouped=grouped)
        except ValueError as error:
            self._add(path, str(error))
            if not (in_file or others) or (name == GROUPS and self._groups.warnings):
                self._problems += [*self._deployments.warnings, *self._groups.warnings]
            return ""

    def _settings(self, default: str) -> Settings:
        top: dict[str, Any] = {path[0]: value for path, value in self._values.items() if len(path) == 1}
        top |= {"default_provider": default, "warnings": tuple(self._warnings())}
        local = LocalSettings(**self._section("local")) if "local" in self._sections else None
        return Settings(
            **top,
            local=local,
            deployments=self._deployments.all() if self._serves else (),
            groups=GroupSettings(**self._section("groups")),
            model_groups=self._groups.all() if self._serves else (),
            keys=self._keys.all(),
            tenant_limits=Quotas(**self._section("tenant_limits")),
            tenants=self._tenants.all(),
            upstream=UpstreamSettings(**self._section("upstream")),
            limits=Limits(**self._section("limits")),
            retention=RetentionSettings(**self._section("retention")),
            tls=Tls(**self._section("tls")),
        )

    def _section(self, name: str) -> dict[str, Any]:
        return {path[1]: value for path, value in self._values.items() if path[0] == name and len(path) > 1}

    def _warnings(self) -> list[str]:
        of_parts = [*self._deployments.warnings, *self._groups.warnings, *self._keys.warnings]
        found = map(str, of_parts) if self._serves else ()
        return [*found, *litellm.warnings(self._document, grouped=self._groups.on)]
