"""An account at a provider: its files and batches, and what each route of the API does with them."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.upstream import contents
from tests.upstream.batches import ENDED, Batches
from tests.upstream.census import Census
from tests.upstream.dialect import Dialect, Digests, no_room
from tests.upstream.exchange import Exchange, Reply, Seen, reply
from tests.upstream.files import Files, StoredFile, kept, page, unknown_file
from tests.upstream.forms import Form, Upload, read_form
from tests.upstream.quirks import Quirks
from tests.upstream.quota import Quota
from tests.upstream.refusals import Json, Refusal
from tests.upstream.wire import batch_wire, error_wire, file_wire, list_wire


@dataclass(frozen=True)
class Call:
    """A request that was let in: its exchange, the id in its path, and whether it is of Azure's older family."""

    exchange: Exchange
    name: str
    older: bool

    @property
    def seen(self) -> Seen:
        return self.exchange.seen


class Account(ABC):
    """Files, batches, and the routes to them; what a provider says and checks in its own way is abstract.

    `batches` are as told before quirks; models in `unsupported` are not found. `executed` counts by custom_id how often
    a line was executed.
    """

    def __init__(self, dialect: Dialect, quirks: Quirks, key: str, clock: Callable[[], float]) -> None:
        self.api_base = ""
        self.key = key
        self.dialect = dialect = dialect.ending_in(quirks.id_ending)
        self.quirks = quirks.settled(**dialect.usual)
        digests = Digests(f"{type(self).__name__}/{key}/ids")
        self._files = Files(dialect, self.quirks, digests, clock)
        self._batches = Batches(dialect, self.quirks, self._files, digests, clock)
        self.files: dict[str, StoredFile] = self._files.stored
        self.batches: dict[str, Json] = self._batches.told
        self.unsupported: set[str] = self._batches.unsupported
        self.executed = self._batches.executed
        self._routes: dict[tuple[str, ...], Callable[[Call], Awaitable[Reply]]] = {
            ("POST", "files"): self._upload,
            ("GET", "files"): self._list_files,
            ("GET", "files", "*"): self._get_file,
            ("DELETE", "files", "*"): self._delete_file,
            ("GET", "files", "*", "content"): self._content,
            ("POST", "batches"): self._create_batch,
            ("GET", "batches"): self._list_batches,
            ("GET", "batches", "*"): self._get_batch,
            ("POST", "batches", "*", "cancel"): self._cancel_batch,
        }

    def add_file(self, data: bytes, *, purpose: str = "batch", filename: str = "input.jsonl") -> str:
        """Puts a file into the account, past every check, and returns its id."""
        file_id: str = self._files.add(kept(data, filename), purpose, life=None).description["id"]
        return file_id

    def step(self, batch_id: str) -> None:
        """Moves a batch to its next status; one that has ended stays as it is."""
        self._batches.step(batch_id)

    def run(self, batch_id: str) -> None:
        """Moves a batch to its end."""
        self._batches.run(batch_id)

    def fail(self, batch_id: str, errors: Sequence[Json]) -> None:
        """Fails a batch; `errors` are the data of its errors."""
        self._batches.fail(batch_id, errors)

    def expire(self, batch_id: str, done: int | None = None) -> None:
        """Ends a batch for want of time, after `done` of its lines."""
        self._batches.expire(batch_id, done)

    def cut_short_after(self, done: Callable[[int], int]) -> None:
        """Sets how many of so many lines a batch executes before it is cancelled or expires: at first half of them."""
        self._batches.done = done

    @property
    def models(self) -> set[str] | None:
        """Those that lines may name; None: any."""
        return self._batches.models

    @models.setter
    def models(self, models: set[str] | None) -> None:
        self._batches.models = models

    def quota(self, model: str, tokens: int | None, *, fail_fast: bool | None = None) -> None:
        """Bounds the prompt tokens of a model in batches that have not ended; None: no bound.

        A batch beyond it is refused (`fail_fast`, usual at Azure), or fails in its validation.
        """
        self._batches.quotas.bounds.pop(model, None)
        if tokens is not None:
            fast = self.dialect.fails_fast if fail_fast is None else fail_fast
            self._batches.quotas.bounds[model] = Quota(tokens, fast)

    def enqueued(self, model: str) -> int:
        """The prompt tokens of a model in batches that have not ended."""
        return self._batches.quotas.enqueued[model]

    def forever_pending(self, on: bool = True) -> None:
        """Lets no file that is uploaded cease to be pending, while it is on."""
        self._files.stuck = on

    def spoil_files(self) -> None:
        """Lets files that are pending come to the status `error`."""
        self._files.end = "error"

    def inputs(self) -> int:
        """How many inputs of batches the account holds."""
        return sum(self._files.count(expiring=expiring) for expiring in (True, False))

    def watch(self, census: Census) -> None:
        """Lets a census count the lines of batches from now on."""
        self._batches.watchers.append(census)

    @abstractmethod
    def _admit(self, seen: Seen) -> None:
        """Raises Refusal where the credentials are not the account's."""

    @abstractmethod
    def _place(self, seen: Seen) -> tuple[str, bool]:
        """The path within the API, and whether it is of the older family. Raises Refusal."""

    @abstractmethod
    def _check_upload(self, form: Form, file: Upload, call: Call) -> int | None:
        """Returns the file's life in seconds, if it has an end. Raises Refusal."""

    @abstractmethod
    def _check_create(self, body: Any) -> tuple[Json, int | None]:
        """Returns the batch that is asked for, and its output files' life. Raises Refusal."""

    @abstractmethod
    def _stock(self, status: int) -> Refusal:
        """What the provider says with a status."""

    @abstractmethod
    def _no_route(self, seen: Seen) -> Refusal: ...

    @abstractmethod
    def _no_batch(self, batch_id: str) -> Refusal: ...

    @abstractmethod
    def _error(self, refusal: Refusal) -> Json:
        """The body of an answer, before quirks."""

    async def act(self, exchange: Exchange) -> Reply:
        """Does what a request asks, and gives the answer."""
        try:
            self._admit(exchange.seen)
            path, older = self._place(exchange.seen)
            ending = self.quirks.id_ending  # may have slashes, which came as %2F
            segments = (path.replace(ending, "\0") if ending else path).split("/")
            name = segments[1].replace("\0", ending) if len(segments) > 1 else ""
            shape = (exchange.seen.method, *("*" if at == 1 else one for at, one in enumerate(segments)))
            if shape not in self._routes:
                raise self._no_route(exchange.seen)
            return await self._routes[shape](Call(exchange, name, older))
        except Refusal as refusal:
            await exchange.drain()
            return self.refused(refusal)

    def refused(self, refusal: Refusal) -> Reply:
        return reply(refusal.status, self._error_wire(refusal), refusal.headers)

    def _error_wire(self, refusal: Refusal) -> Json:
        return error_wire(self._error(refusal), self.quirks)

    async def _upload(self, call: Call) -> Reply:
        form = await read_form(call.exchange, keep=not self.quirks.discard, abridge=self.quirks.abridge)
        for name, given in (("purpose", form.fields.get("purpose")), ("file", form.file)):
            if given is None:
                raise Refusal(400, f"'{name}' is a required property", param=name)
        assert form.file is not None
        life = self._check_upload(form, form.file, call)
        stored = self._files.add(form.file, form.fields["purpose"], life=life)
        created = call.older if self.quirks.created_201 is None else self.quirks.created_201
        wire = file_wire(stored.description, self.quirks)
        return reply(201, wire, {"location": self._location(call, wire["id"])}) if created else reply(200, wire)

    def _location(self, call: Call, name: str) -> str:
        query = "&".join(f"{key}={value}" for key, value in call.seen.query.items())
        host = call.seen.headers.get("host", "")
        return f"http://{host}{call.seen.path}/{name}" + (f"?{query}" if query else "")

    async def _get_file(self, call: Call) -> Reply:
        return reply(200, file_wire(self._files.read(self._stored(call.name)), self.quirks))

    async def _delete_file(self, call: Call) -> Reply:
        self._stored(call.name).deleted = True
        if self.quirks.delete_empty:
            return reply(204, b"")
        return reply(200, {"id": call.name, "object": "file", "deleted": True})

    async def _list_files(self, call: Call) -> Reply:
        query = call.seen.query
        if call.older:  # knows neither pages nor orders
            items = [one for _, one in self._files.matching(query.get("purpose")) if one]
            return reply(200, {"object": "list", "data": [file_wire(one, self.quirks) for one in items]})
        items, more = page(self._files.matching(query.get("purpose"), query.get("order", "desc")), query, 10000, 10000)
        return reply(200, list_wire([file_wire(one, self.quirks) for one in items], more, self.quirks))

    async def _content(self, call: Call) -> Reply:
        size, filename, body = self._bytes(call.name)
        headers = {
            "content-type": "application/octet-stream",
            "content-disposition": f'attachment; filename="{filename}"'.encode("ascii", "replace").decode(),
        }
        asked = call.seen.headers.get("range") if self.quirks.ranges else None
        try:
            span = contents.span(asked, size)
        except ValueError:
            unmet = {"content-range": f"bytes */{size}"}
            raise Refusal(416, "The requested range is not within the file.", headers=unmet) from None
        start, end = span or (0, size)
        if self.quirks.ranges:
            headers["accept-ranges"] = "bytes"
        if span:
            headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        if not self.quirks.content_chunked:
            headers["content-length"] = str(end - start)
        return Reply(206 if span else 200, headers, body(start, end))

    def _bytes(self, file_id: str) -> tuple[int, str, Callable[[int, int], Iterator[bytes]]]:
        """The size of a file's content, its filename, and a way to any range of it."""
        made_up = self.quirks.content_bytes
        stored = self._files.find(file_id) if made_up is not None else self._stored(file_id)
        if stored and (purpose := stored.description["purpose"]) not in {"batch", "batch_output"}:
            raise Refusal(400, f"Not allowed to download files of purpose: {purpose}")
        filename = stored.description["filename"] if stored else f"{file_id}.jsonl"
        if made_up is not None and (stored is None or stored.size):
            return made_up, filename, partial(contents.made_up, made_up)
        data = stored.data if stored else b""
        return len(data), filename, partial(contents.pieces, data)

    async def _create_batch(self, call: Call) -> Reply:
        asked, life = self._check_create(call.seen.body)
        if self.quirks.fail_fast_tokens:
            raise no_room(self.dialect)
        return reply(200, batch_wire(self._batches.create(asked, life), self.quirks))

    async def _get_batch(self, call: Call) -> Reply:
        batch = self._batch(call.name)
        self._look(batch)
        return reply(200, batch_wire(batch, self.quirks))

    async def _list_batches(self, call: Call) -> Reply:
        newest_first = list(self.batches.items())[::-1]
        items, more = page(newest_first, call.seen.query, 20, 100)
        for one in items:
            self._look(one)
        key = "value" if self.quirks.list_value_key else "data"
        wire = list_wire([batch_wire(one, self.quirks) for one in items], more, self.quirks, key=key)
        if call.older:
            del wire["object"]
        return reply(200, wire)

    async def _cancel_batch(self, call: Call) -> Reply:
        batch = self._batch(call.name)
        if batch["status"] in ENDED - {"cancelled"}:
            raise Refusal(409, f"Cannot cancel a batch with status '{batch['status']}'.")
        if batch["status"] not in {"cancelling", "cancelled"}:
            self._batches.cancel(call.name)
        return reply(200, batch_wire(batch, self.quirks))

    def _look(self, batch: Json) -> None:
        if self.quirks.auto:
            self._batches.step(batch["id"])

    def _stored(self, file_id: str) -> StoredFile:
        if stored := self._files.find(file_id):
            return stored
        raise self._no_file(file_id)

    def _no_file(self, file_id: str) -> Refusal:
        return unknown_file(file_id)

    def _batch(self, batch_id: str) -> Json:
        if batch := self.batches.get(batch_id):
            return batch
        raise self._no_batch(batch_id)
