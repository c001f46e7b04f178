"""The gRPC service as a whole: the one place that knows every part and who needs whom."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Any, NamedTuple
from uuid import uuid4

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from sqlalchemy import URL, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from batchyard.admin.v1 import add_AdminServiceServicer_to_server, admin_service_pb2
from batchyard.common.certificates import CertificateError
from batchyard.common.clock import Clock, GuardedClock
from batchyard.common.metrics import Metrics
from batchyard.common.sockets import SocketError
from batchyard.common.tracing import OFF, Tracing
from batchyard.service.access.authenticator import Authenticator
from batchyard.service.access.upload_slots import UploadPlaces
from batchyard.service.api import listener
from batchyard.service.api.admin_servicer import AdminServicer
from batchyard.service.api.authentication import KeyInterceptor
from batchyard.service.api.batch_servicer import Servicer
from batchyard.service.api.call_interceptor import CallInterceptor
from batchyard.service.api.deployment_status import DeploymentStatus
from batchyard.service.api.health_servicer import Health
from batchyard.service.api.in_process import DirectCaller, Handlers
from batchyard.service.api.key_admin import KeyAdmin
from batchyard.service.api.rate_limit import Throttle
from batchyard.service.audit import log as audit
from batchyard.service.audit.auditor import Auditor
from batchyard.service.audit.log import AuditError
from batchyard.service.background import Mutations
from batchyard.service.config.names import GROUPS
from batchyard.service.config.settings import LocalSettings, Settings
from batchyard.service.datadir import pairing
from batchyard.service.datadir.aside import Aside
from batchyard.service.datadir.disk import DirectoryInUse, DirectoryLock, Disk
from batchyard.service.datadir.pairing import Pair
from batchyard.service.datadir.reserve import Reserve
from batchyard.service.datadir.upkeep import Upkeep
from batchyard.service.domain.quotas import Allowances
from batchyard.service.engine import leftovers
from batchyard.service.engine.chunk_runner import ChunkRunner
from batchyard.service.engine.engine import LEASE_SECONDS, Engine
from batchyard.service.engine.local_lifecycle import Lifecycle, LocalLifecycle
from batchyard.service.engine.retention import Retention
from batchyard.service.engine.runners.base import LineRunner
from batchyard.service.engine.runners.echo import ECHO, Echo
from batchyard.service.engine.runners.http import open_endpoint
from batchyard.service.engine.runners.slots import LineSlots
from batchyard.service.engine.transitions import Steps
from batchyard.service.errors import BatchyardError
from batchyard.service.groups.groups import Groups, limits_of, scanner_of
from batchyard.service.jsonl.scanner import Scanner
from batchyard.service.jsonl.validation import judge
from batchyard.service.metrics import ServiceMetrics
from batchyard.service.objects.base import ObjectStore, OpenStore
from batchyard.service.objects.open import open_local_store
from batchyard.service.providers.azure.credentials import MissingExtra
from batchyard.service.providers.base import Provider
from batchyard.service.providers.local.batches import OwnBatches
from batchyard.service.providers.local.provider import StoredProvider
from batchyard.service.providers.open import Opener
from batchyard.service.providers.router import Router
from batchyard.service.registry.change_feed import Changes
from batchyard.service.registry.collector import batches_look
from batchyard.service.registry.dialects.sqlite import SqliteDatabase
from batchyard.service.registry.keys import KeyRegistry
from batchyard.service.registry.work import WorkRegistry
from batchyard.service.upstream.collector import deployments_look
from batchyard.v1 import add_BatchServiceServicer_to_server
from batchyard.v1.batch_service_pb2 import DESCRIPTOR

SERVICE = DESCRIPTOR.services_by_name["BatchService"].full_name
ADMIN = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
UNARY_SECONDS = 60.0
_LOOK_SECONDS = 3.0  # for a look after a creation whose answer was lost
_LEAST_PENDING = 3000
_AHEAD_BYTES = 1 << 20


class StartupError(Exception):
    """The service can't start; the text says why, in a line."""


class Server:
    """A running service at `address`, on `grpc_port` (0: a Unix socket); `caller` calls it from this process."""

    def __init__(
        self,
        server: aio.Server,
        at: listener.Ports,
        caller: DirectCaller,
        calls: CallInterceptor,
        checks: Health,
        engine: Engine,
    ) -> None:
        self.grpc_port, self.address = at.port, at.address
        self.caller = caller
        self._server = server
        self._calls = calls
        self._checks = checks
        self._engine = engine

    async def announce(self) -> None:
        """Says NOT_SERVING, ends watches and starts no more lines; calls are still answered, for a shim that drains."""
        await self._checks.stop()
        self._engine.stop_lines()

    async def drain(self, seconds: float) -> None:
        """Announces it, refuses new calls, and lets calls and lines that run finish within `seconds`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        await self.announce()
        await asyncio.gather(self._calls.drain(seconds), self._engine.drain(seconds))
        await self._server.stop(max(0.0, end - loop.time()))


@asynccontextmanager
async def serving(
    settings: Settings,
    metrics: Metrics | None = None,
    tracing: Tracing = OFF,
    *,
    disk: Disk | None = None,
    clock: Clock = time,
    steady: Clock | None = None,
    accept_registry: bool = False,
    open_store: OpenStore | None = None,
) -> AsyncIterator[Server]:
    """The service, from its locked data directory to its port, until the context ends.

    Figures go to `metrics`, spans to `tracing`. Raises StartupError for a data directory in use or unusable, for a
    registry that is damaged or does not belong to the stored files, unless `accept_registry` says to go on with it, for
    a port in use, and for certificates that can't be used.
    `open_store` opens what holds files and results (None: the local store, in the data directory). Tests pass their
    own `disk`, `clock` (Unix seconds) and `steady`, a clock that never jumps.
    """
    steady = steady or (monotonic if clock is time else clock)
    metrics, limits = metrics or Metrics(), settings.limits
    figures = ServiceMetrics(metrics)
    async with AsyncExitStack() as stack:
        with _startup_errors(settings):
            if settings.local is None and not settings.deployments:
                raise StartupError("No provider is configured: set OPENAI_API_KEY, AZURE_API_BASE, or batchyard.local.")
            disk = disk or Disk()
            ground = await _ground(
                settings, metrics, figures, disk, clock, steady, stack, accept=accept_registry, open_store=open_store
            )
            clock = ground.clock.now
            keys = Authenticator(settings.master_key, settings.keys, KeyRegistry(ground.database), clock, steady)
            allowances = Allowances(settings.tenant_limits, settings.tenants)
            engine, servicer, admin = await _work(
                settings, ground, keys, allowances, metrics, figures, tracing, disk, clock, steady, stack
            )
            checks = Health()
            auditor = await _auditor(settings, figures, clock, steady, stack)
            calls = CallInterceptor(UNARY_SECONDS, limits, figures, tracing, auditor)
            interceptors = [calls, KeyInterceptor(keys, settings.tls.admin_names or ()), Throttle(allowances, steady)]
            server, handlers = _listener(settings, interceptors), Handlers()
            served: tuple[Any, ...] = (server, handlers)
            for each in served:
                add_BatchServiceServicer_to_server(servicer, each)
                add_AdminServiceServicer_to_server(admin, each)
                health_pb2_grpc.add_HealthServicer_to_server(checks, each)
            reflection.enable_server_reflection([SERVICE, ADMIN, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
            secret = settings.shim_secret or ""
            caller = DirectCaller(handlers, interceptors, limits.max_concurrent_calls, tracing, secret)
            at = await stack.enter_async_context(listener.opened(settings, server))
            stack.push_async_callback(server.stop, 0)
            stack.push_async_callback(caller.close)
            await server.start()
        await checks.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        yield Server(server, at, caller, calls, checks, engine)


async def _auditor(
    settings: Settings, figures: ServiceMetrics, clock: Clock, steady: Clock, stack: AsyncExitStack
) -> Auditor | None:
    if settings.audit_log is None:
        return None
    log = await stack.enter_async_context(audit.opened(settings.audit_log, figures.audit_failing.set))
    reads, secret = settings.audit_reads, settings.shim_secret
    return Auditor(log, reads=reads, shim_secret=secret, clock=clock, steady=steady)


class _Ground(NamedTuple):
    """What all work stands on. `starting` lends the reserve of a full disk until it is closed."""

    clock: GuardedClock
    aside: Aside
    pair: Pair
    database: SqliteDatabase
    work: WorkRegistry
    store: ObjectStore
    changes: Changes
    reserve: Reserve
    starting: ExitStack


async def _ground(
    settings: Settings,
    metrics: Metrics,
    figures: ServiceMetrics,
    disk: Disk,
    clock: Clock,
    steady: Clock,
    stack: AsyncExitStack,
    *,
    accept: bool,
    open_store: OpenStore | None,
) -> _Ground:
    """The data directory, locked and swept, and the registry that belongs to it, or that we `accept`."""
    await asyncio.to_thread(disk.make_dir, settings.data_dir, site="data.dir")
    stack.enter_context(DirectoryLock(settings.data_dir))
    (settings.data_dir / "work").mkdir(mode=0o700, exist_ok=True)  # synced with its sibling, by FileStore
    elsewhere = _registry_folder(settings) if settings.database_url else None
    if elsewhere:
        stack.enter_context(DirectoryLock(elsewhere))
    reserve = Reserve((elsewhere or settings.data_dir) / "reserve")
    starting = stack.enter_context(ExitStack())
    starting.enter_context(reserve.lent())  # a full disk must not keep the service from the start that makes room
    url = _registry_url(settings)
    aside = Aside(settings.data_dir / "aside", disk)
    registry = Path(url.database or "")
    await asyncio.to_thread(pairing.check_file, settings.data_dir, registry, aside, accept=accept)
    database = await asyncio.to_thread(SqliteDatabase, url, figures.commit_seconds.observe, reserve)
    stack.push_async_callback(asyncio.to_thread, database.close)
    changes = Changes()
    configured = {"local": settings.local, GROUPS: settings.model_groups}
    idle = [name for name, there in configured.items() if not there]  # batches wait until it is configured again
    work = WorkRegistry(database, owner=uuid4().hex, touch=changes.touch, idle=idle)
    pair = Pair(settings.data_dir, work)
    guarded = GuardedClock(clock, steady, await pair.check(accept=accept))
    database.expiry = guarded.expiry
    used = [*(name for name in configured if name not in idle), *(one.provider for one in settings.deployments)]
    open_store = open_store or partial(
        open_local_store, settings=settings, disk=disk, aside=aside, metrics=metrics, accept=accept
    )
    store = await stack.enter_async_context(open_store(work.known_keys))
    await leftovers.sweep(settings.data_dir / "work", work, aside)
    await pair.advance(int(guarded.newest()))  # not before all that may refuse the registry
    stack.enter_context(metrics.asking(batches_look(work, guarded.now, used)))
    return _Ground(guarded, aside, pair, database, work, store, changes, reserve, starting)


async def _work(
    settings: Settings,
    ground: _Ground,
    keys: Authenticator,
    allowances: Allowances,
    metrics: Metrics,
    figures: ServiceMetrics,
    tracing: Tracing,
    disk: Disk,
    clock: Clock,
    steady: Clock,
    stack: AsyncExitStack,
) -> tuple[Engine, Servicer, AdminServicer]:
    """Everything behind the port: running, and closed by `stack` in the opposite order."""
    guarded, aside, pair, database, work, store, changes, *_ = ground
    limits, own = settings.limits, settings.local or LocalSettings()
    lines = await _lines(settings, own, work, store, disk, figures, tracing, clock, stack)
    lives: dict[str, Lifecycle] = {}
    lent, expiry = ground.reserve.lent, guarded.expiry
    engine = Engine(work, lambda batch: lives.get(batch.provider, lines), changes, clock, lent=lent, expiry=expiry)
    batches = OwnBatches(engine, limits, settings.retention, tracing, clock)
    places = UploadPlaces(limits.max_concurrent_uploads)
    stack.callback(places.close)
    opener = Opener(settings, database, changes.touch, batches, places, figures, tracing, clock, steady, stack)
    remote = {deployment.name: await opener.opened(deployment) for deployment in settings.deployments}
    stack.enter_context(metrics.asking(deployments_look({name: one.condition for name, one in remote.items()})))
    mutations = Mutations()
    stack.push_async_callback(mutations.drained)
    stored = partial(
        StoredProvider,
        store=store,
        work=work,
        batches=batches,
        retention=settings.retention,
        places=places,
        clock=clock,
    )
    scanner = partial(Scanner, limits, chunk_lines=own.chunk_lines, chunk_bytes=own.chunk_bytes, models=own.models)
    local = stored("local", limits=limits, scanner=scanner)
    providers: list[Provider] = [local] if settings.local else []
    groups = Groups(settings, database, work, store, changes, mutations, figures, remote, clock, steady, expiry)
    if settings.model_groups:
        lives[GROUPS] = groups.life
        providers.append(
            stored(
                GROUPS,
                limits=limits_of(settings),
                scanner=scanner_of(settings),
                check=groups.check,
                purposes=("batch",),
            )
        )
        await stack.enter_async_context(groups.running())
    names = {group.name for group in settings.model_groups}
    router = Router([*providers, *remote.values()], settings.default_provider, names)
    retention = Retention(work, local.forget, settings.retention.sweep_seconds, guarded, figures)
    upkeep = Upkeep(pair, aside, guarded, steady)
    for each in (engine, retention, upkeep):
        await stack.enter_async_context(each.running())
    ground.starting.close()
    servicer = Servicer(
        database,
        keys,
        router,
        mutations,
        changes,
        allowances,
        figures,
        clock,
        upload_idle_seconds=limits.upload_idle_seconds,
        create_seconds=min(settings.upstream.call_seconds + _LOOK_SECONDS, UNARY_SECONDS - _LOOK_SECONDS),
        bounds=_input_bounds(settings),
        notes={"local": ECHO} if settings.local and settings.local.echo else {},
    )
    key_admin = KeyAdmin(keys, router, names, clock, changes.wake)
    return (
        engine,
        servicer,
        AdminServicer(router, mutations, DeploymentStatus([*remote.values()], groups.members), key_admin),
    )


async def _lines(
    settings: Settings,
    own: LocalSettings,
    work: WorkRegistry,
    store: ObjectStore,
    disk: Disk,
    figures: ServiceMetrics,
    tracing: Tracing,
    clock: Clock,
    stack: AsyncExitStack,
) -> LocalLifecycle:
    """What runs the lines of `local`, and ends the batches of others that have no input."""
    limits = settings.limits
    chunks = ChunkRunner(
        work,
        store,
        disk,
        settings.data_dir / "work",
        await _line_runner(own, figures, tracing, stack),
        figures,
        tracing,
        line_seconds=own.line_timeout_seconds,
        lease_seconds=LEASE_SECONDS,
        clock=clock,
    )
    stack.callback(chunks.close)
    steps = Steps(work, lambda batch, scan: judge(scan, batch.endpoint, limits, batch.model), limits, clock)
    return LocalLifecycle(work, steps, chunks, batch_slots=own.max_active_batches)


def _registry_url(settings: Settings) -> URL:
    if settings.database_url:
        return make_url(settings.database_url)
    return URL.create("sqlite", database=str(settings.data_dir / "registry.sqlite3"))  # whatever is in the path


def _registry_folder(settings: Settings) -> Path | None:
    """The registry's folder, where it is not the data directory: a second service must not open it either."""
    folder = Path(_registry_url(settings).database or "").resolve().parent
    return folder if folder != settings.data_dir.resolve() else None


async def _line_runner(
    settings: LocalSettings, figures: ServiceMetrics, tracing: Tracing, stack: AsyncExitStack
) -> LineRunner:
    if settings.echo:
        return Echo(LineSlots(settings.max_concurrency, figures), settings.echo_delay_ms / 1000)
    return await stack.enter_async_context(open_endpoint(settings, figures, tracing))


def _listener(settings: Settings, interceptors: Sequence[aio.ServerInterceptor]) -> aio.Server:
    pending = max(_LEAST_PENDING, 4 * settings.limits.max_concurrent_calls)
    return aio.server(
        interceptors=interceptors,
        options=[
            ("grpc.max_receive_message_length", settings.limits.max_message_bytes),
            # What a call may send ahead: gRPC's own guess grows under load, and memory with it.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", _AHEAD_BYTES),
            ("grpc.so_reuseport", 0),  # a second server on the port is a mistake, not a helper
            # What waits to be handed out: of more than 1,000 gRPC cancels some by chance, which nobody would try again.
            ("grpc.server.max_pending_requests", pending),
            ("grpc.server.max_pending_requests_hard_limit", pending),
        ],
        maximum_concurrent_rpcs=settings.limits.max_concurrent_calls,
    )


@contextmanager
def _startup_errors(settings: Settings) -> Iterator[None]:
    try:
        yield
    except DirectoryInUse as error:
        raise StartupError(error.message) from None
    except (CertificateError, SocketError) as error:
        raise StartupError(f"gRPC can't listen: {error}") from None
    except listener.PortError as error:
        raise StartupError(f"gRPC {error}") from None
    except (MissingExtra, AuditError) as error:
        raise StartupError(str(error)) from None
    except BatchyardError as error:
        raise StartupError(error.message) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename and str(error.filename) != str(settings.data_dir) else ""
        raise StartupError(f"The data directory {settings.data_dir} can't be used: {where}{error.strerror}.") from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        why = error.orig if isinstance(error, DBAPIError) else type(error).__name__
        place = settings.database_url or settings.data_dir
        raise StartupError(f"The registry in {place} can't be opened: {why}.") from error
    except RuntimeError as error:
        if "bind" not in str(error):
            raise
        raise StartupError(f"gRPC can't listen on {settings.host}:{settings.grpc_port}.") from None


def _input_bounds(settings: Settings) -> str:
    """The most lines and bytes of a batch's input, at each provider of our own and at the default if it is one."""
    limits = {"local": settings.limits} if settings.local else {}
    limits |= {GROUPS: limits_of(settings)} if settings.model_groups else {}
    limits |= {"": limits[settings.default_provider]} if settings.default_provider in limits else {}
    return " ".join(f"{name}={one.max_batch_lines}/{one.max_batch_file_bytes}" for name, one in limits.items())
