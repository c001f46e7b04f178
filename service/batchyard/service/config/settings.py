"""Batchyard's settings: frozen values, read once at the start by `loading.load_settings`.

Sizes are in bytes; times are in seconds unless a name ends in `_ms`. docs/configuration.md says what each key
means to an operator. A field's annotation holds what the loader checks: its type, and `Bounds` or a `TextFormat`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from batchyard.common.pem import CertificateFiles
from batchyard.common.sockets import Access, UnixSocket
from batchyard.service.config.types import (
    DAY,
    MIB,
    TRILLION,
    Bounds,
    Count,
    MaybeCount,
    Port,
    Seconds,
    Secret,
    SocketPath,
    SomeSeconds,
    TextFormat,
    Words,
)


class Rate(NamedTuple):
    """At most so many in so many seconds."""

    most: int
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """The embedded provider: runs a batch's lines against an OpenAI-compatible endpoint, or its echo model.

    Exactly one of `api_base` (an http or https URL without credentials and query) and `echo` is set.
    """

    api_base: Annotated[str | None, TextFormat.HTTP_URL] = None
    api_key: Secret = field(default=None, repr=False)
    echo: bool = False
    models: Words = None
    """The models that lines may name; none: any."""
    echo_delay_ms: Annotated[int, Bounds(0, 60_000)] = 0
    """How long the echo model takes for a line, in milliseconds."""
    max_concurrency: Annotated[int, Bounds(1, 4096)] = 64
    """Lines in flight at once, over all batches."""
    max_active_batches: Count = 16
    """Batches whose lines run at once; more wait in `validating` or `in_progress`."""
    line_timeout_seconds: SomeSeconds = 600.0
    """For a line, its retries included, but not the time in which the endpoint takes nothing."""
    max_attempts: Annotated[int, Bounds(1, 100)] = 8
    """Calls of a line that may have begun something, the first included."""
    max_response_bytes: Count = 16 * MIB
    """The largest answer to a line that is kept."""
    chunk_lines: Annotated[int, Bounds(1, 10_000)] = 500
    """Lines in a chunk, the unit that is leased and committed."""
    chunk_bytes: Count = 4 * MIB
    """Input bytes after which a chunk ends, whatever its lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """An account at a provider: an OpenAI project, an Azure resource, or a server that speaks OpenAI's API.

    `api_base` is a URL without credentials and query; OpenAI's ends in /v1 as the SDKs have it, Azure's is the
    resource's endpoint. Of Azure, one of `api_key`, `ad_token`, and `tenant_id` with `client_id` and `client_secret`
    is set, or none where the machine's own identity is to be used, of several that of `client_id`; an `api_version` of
    `v1` asks for the newer URLs.
    """

    name: str
    provider: Literal["openai", "azure"]
    api_base: Annotated[str, TextFormat.HTTP_URL]
    api_key: Secret = field(default=None, repr=False)
    organization: str | None = None
    project: str | None = None
    api_version: str = ""
    ad_token: Secret = field(default=None, repr=False)
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret: Secret = field(default=None, repr=False)
    scope: str | None = None
    """What an identity's tokens are for; none: Azure OpenAI in the public cloud."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A model at a deployment, as a part of a group; several members may be at one deployment."""

    name: str
    """Unique over the members of all groups."""
    deployment: str
    """The deployment's name."""
    model: str
    """What the deployment calls it."""
    order: Annotated[int, Bounds(0, 1_000_000)] = 1
    """Its tier; the lowest comes first."""
    weight: Annotated[float, Bounds(0.001, TRILLION)] = 1.0
    enqueued_tokens: Annotated[int | None, Bounds(1, TRILLION)] = None
    """Prompt tokens that the deployment lets wait at once; none: not known."""
    max_lines: Annotated[int, Bounds(1, TRILLION)] = 50_000
    """Lines that the deployment takes in one input (OpenAI's limit; Azure's is another)."""
    max_bytes: Annotated[int, Bounds(1, TRILLION)] = 200 * MIB
    """The largest input that the deployment takes (OpenAI's and Azure's limit)."""


@dataclass(frozen=True, slots=True)
class Group:
    """Members that answer to one name: what callers have as the model."""

    name: str
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """How batches of model groups are run. A batch's shards are what its members' deployments get of it."""

    max_batch_lines: Count = 1_000_000
    """Lines in a batch's input, over all its shards."""
    max_batch_file_bytes: Count = 2 << 30
    """The largest input of a batch, and the largest upload to a group."""
    max_transfers: Annotated[int, Bounds(1, 256)] = 8
    """Inputs that are sent and results that are fetched at once, over all groups; inputs for one deployment: half."""
    backoff_seconds: SomeSeconds = 5.0
    """The first pause of a member after a refusal; it doubles with each one more."""
    max_backoff_seconds: SomeSeconds = 320.0
    """The longest pause of a member."""
    pending_seconds: SomeSeconds = 600.0
    """How long a deployment may take to process an input before another one is tried."""
    harvest_seconds: SomeSeconds = 600.0
    """How long results are waited for when a batch's window has ended."""
    probe_seconds: SomeSeconds = 60.0
    """How often the deployments of groups are probed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """How deployments of other providers are called."""

    max_connections: Annotated[int, Bounds(1, 4096)] = 64
    """Connections at once to a deployment."""
    connect_seconds: SomeSeconds = 10.0
    call_seconds: Annotated[float, Bounds(0.001, 55)] = 45.0
    """For a call that moves no file, its retries included."""
    idle_seconds: SomeSeconds = 60.0
    """How long a provider may neither take nor send a byte of a file."""
    max_attempts: Annotated[int, Bounds(1, 10)] = 3
    """Calls that a read may cost, the first included; what changes something is never repeated blindly."""
    openai_poll_seconds: SomeSeconds = 5.0
    """How often the live batches of an OpenAI deployment are looked at."""
    azure_poll_seconds: SomeSeconds = 60.0
    """The same for Azure, which asks for no more than once a minute."""
    azure_early_looks: bool = True
    """Whether a resource is looked at 15, 30 and 45 s after a creation too."""
    azure_file_seconds: Annotated[int, Bounds(0, 30 * DAY)] = 14 * DAY
    """When batch inputs at Azure expire that don't say so: Azure keeps 500 that never do; 0: they never do."""
    doubt_seconds: SomeSeconds = 600.0
    """How long a batch is looked for whose creation was not answered, before it is sure that there is none."""
    azure_blob_prefixes: Words = None
    """URLs that inputs in blobs and folders for their results may begin with, each ending in /; none: no blobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one caller may ask for; beyond a limit is an error that names it."""

    max_file_bytes: Count = 512 * MIB
    """The largest file, of any purpose."""
    max_batch_file_bytes: Count = 200 * MIB
    """The largest input file of a batch (OpenAI's own limit); a larger one is stored, and its batch fails."""
    max_batch_lines: Count = 50_000
    """Lines in a batch's input (OpenAI's own limit)."""
    max_line_bytes: Count = 16 * MIB
    """The longest input line."""
    max_embedding_inputs: Count = 50_000
    """Inputs in all lines of a batch of /v1/embeddings (OpenAI's own limit)."""
    max_line_errors: Annotated[int, Bounds(1, 10_000)] = 100
    """Bad lines that are reported for one batch."""
    max_files_per_minute: MaybeCount = None
    """Uploads of a tenant that end well; none: as many as come."""
    max_batches_per_hour: MaybeCount = None
    """Batches that a tenant creates; none: as many as come."""
    max_enqueued_tokens: MaybeCount = None
    """Estimated prompt tokens in the running batches of a tenant and a model; none: as many as come."""
    max_enqueued_embeddings: MaybeCount = None
    """Requests in the running batches of a tenant to /v1/embeddings; none: as many as come."""
    max_message_bytes: Annotated[int, Bounds(2 * MIB, (1 << 31) - 1)] = 8 * MIB
    """The largest gRPC message; pieces of up to 1 MiB must fit."""
    max_stored_bytes: MaybeCount = None
    """Bytes of files and results that are kept at once, of all tenants; none: as many as the disk takes."""
    min_free_bytes: Annotated[int, Bounds(0)] = 32 * MIB
    """What the disk must have free for an upload to be taken and a line to be started."""
    max_concurrent_uploads: Count = 64
    """Uploads at once, of all tenants of this process."""
    upload_idle_seconds: SomeSeconds = 60.0
    """How long an upload may send nothing."""
    max_concurrent_calls: Count = 4096
    """Calls at once in the service, and requests and connections at once in the shim; fewer where files run out."""

    @property
    def file_rate(self) -> Rate | None:
        """What bounds a tenant's uploads, if anything does."""
        return Rate(self.max_files_per_minute, 60) if self.max_files_per_minute else None

    @property
    def batch_rate(self) -> Rate | None:
        """What bounds a tenant's creations of batches, if anything does."""
        return Rate(self.max_batches_per_hour, 3600) if self.max_batches_per_hour else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """What a key, or a tenant, may use of the service; none of a kind: as much as there is."""

    requests_per_minute: MaybeCount = None
    """Calls: so many at once, and their number again in each minute."""
    concurrent_uploads: MaybeCount = None
    """Uploads at once."""
    stored_bytes: MaybeCount = None
    """Bytes of its files and results."""
    batches_in_flight: MaybeCount = None
    """Its batches that have not ended."""
    enqueued_tokens: MaybeCount = None
    """Estimated prompt tokens in its batches that have not ended."""
    lines_per_day: MaybeCount = None
    """Lines of the batches that it creates in 24 hours."""
    tokens_per_day: MaybeCount = None
    """Tokens of the batches that it creates in 24 hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of a tenant that the configuration file has, under a name of its own."""

    name: str
    key: Annotated[str, TextFormat.SECRET] = field(repr=False)
    tenant: str
    providers: tuple[str, ...] = ()
    """Names of providers or deployments that it may use; none: all."""
    model_groups: tuple[str, ...] = ()
    """Those that its batches may use; none: all."""
    expires_at: int | None = None
    """When it ends, in Unix seconds; none: never."""
    limits: Quotas = Quotas()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant with limits of its own; those that it doesn't set are the ones of all tenants."""

    name: str
    limits: Quotas = Quotas()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """When files expire where the caller doesn't say."""

    batch_file_seconds: Count = 30 * DAY
    """Files of purpose `batch`, from their creation (OpenAI's default)."""
    output_file_seconds: Count = 30 * DAY
    """Output and error files of batches, from their creation."""
    sweep_seconds: SomeSeconds = 60.0
    """How often expired files are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Certificates and keys as PEM files, which are read again when they change.

    A certificate and its key are set together, `client_ca_file` only with a `cert_file`, `admin_names` only with a
    `client_ca_file`, and `client_cert_file` only with a `ca_file`.
    """

    cert_file: Path | None = None
    """What all listeners show, with the chain to its root; none: they speak clear text."""
    key_file: Path | None = None
    client_ca_file: Path | None = None
    """What clients' certificates are verified against, and every client then needs one."""
    admin_names: Words = None
    """Names in clients' certificates (common name, DNS name or URI) that stand for the master key in AdminService."""
    ca_file: Path | None = None
    """What a shim alone verifies its service against; none: it calls it in clear text."""
    client_cert_file: Path | None = None
    """What a shim alone shows to its service."""
    client_key_file: Path | None = None
    reload_seconds: SomeSeconds = 5.0
    """How often the files are looked at."""

    @property
    def server(self) -> CertificateFiles | None:
        """The listeners' files; none in clear text."""
        files = CertificateFiles(cert=self.cert_file, key=self.key_file, ca=self.client_ca_file)
        return files if self.cert_file else None

    @property
    def client(self) -> CertificateFiles | None:
        """The files of a shim alone; none in clear text."""
        files = CertificateFiles(cert=self.client_cert_file, key=self.client_key_file, ca=self.ca_file)
        return files if self.ca_file else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that the processes are told at their start."""

    host: str = "127.0.0.1"
    """The address of all listeners; one that is not loopback needs a master key, and TLS or `allow_plaintext`."""
    port: Port = 4000
    """REST; 0: any free port."""
    grpc_port: Port = 50051
    """gRPC; 0: any free port."""
    metrics_port: Annotated[int | None, Bounds(0, 65_535)] = None
    """Prometheus's GET /metrics, without a key; 0: any free port; none: not served."""
    socket: SocketPath = None
    """A Unix socket for REST, instead of `host` and `port`; always in clear text."""
    grpc_socket: SocketPath = None
    """The same for gRPC."""
    socket_access: Access = "owner"
    """Whose processes may connect to the sockets: the user's that runs the server, its group's, or all."""
    allow_plaintext: bool = False
    """Whether an address that is not loopback may do without TLS, since something before it ends it."""
    data_dir: Path = Path("batchyard-data")
    """Registry and files; locked by the one service that uses it."""
    database_url: Annotated[str | None, TextFormat.DATABASE_URL] = field(default=None, repr=False)
    """The registry's database, `sqlite:///PATH`; none: a file in `data_dir`."""
    master_key: Secret = field(default=None, repr=False)
    """The bearer key that may do everything; without it and `keys` any caller may, and is the tenant `default`."""
    keys: tuple[Key, ...] = ()
    """Of tenants, in the order of the file."""
    tenant_limits: Quotas = Quotas()
    """What each tenant may use."""
    tenants: tuple[Tenant, ...] = ()
    """Those whose limits are others, in the order of the file."""
    audit_log: Path | None = None
    """The file of the audit log; none: there is none."""
    audit_reads: bool = True
    """Whether the audit log has calls that only look at something and end well, too."""
    shim_secret: Secret = field(default=None, repr=False)
    """By which a service knows its shim, and believes it where its callers are; none: only one in the same process."""
    default_provider: str
    """Where uploads go that name no provider; always configured ("" for a shim alone, which knows none)."""
    drain_seconds: Seconds = 30.0
    """How long a stop waits for running requests and calls, in all."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"
    tracing: bool = False
    """Whether OpenTelemetry spans are sent; the SDK's own variables say where to."""
    service_address: Annotated[str | None, TextFormat.ADDRESS] = None
    """HOST:PORT or unix:PATH of the service that a shim alone calls; none: `grpc_socket` or `grpc_port` here."""
    tls: Tls = field(default_factory=Tls)
    local: LocalSettings | None = None
    deployments: tuple[Deployment, ...] = ()
    """Of the other providers, in the order in which they are chosen."""
    groups: GroupSettings = field(default_factory=GroupSettings)
    model_groups: tuple[Group, ...] = ()
    """In the order of the file."""
    upstream: UpstreamSettings = field(default_factory=UpstreamSettings)
    limits: Limits = field(default_factory=Limits)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    warnings: tuple[str, ...] = ()
    """What the loader found that is odd and harmless; for the log."""

    @property
    def rest_socket(self) -> UnixSocket | None:
        """Where REST listens, if not on `host`."""
        return UnixSocket(self.socket, self.socket_access) if self.socket else None

    @property
    def service_socket(self) -> UnixSocket | None:
        """Where gRPC listens, if not on `host`."""
        return UnixSocket(self.grpc_socket, self.socket_access) if self.grpc_socket else None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: what (a key path, variable or file), why, and where it stands, if anywhere."""

    subject: str
    message: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}" + (f" ({self.where})" if self.where else "")


class SettingsError(Exception):
    """The settings can't be used; `problems` has everything that was found. No text in it holds a secret."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
