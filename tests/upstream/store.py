"""The server that both fakes are: it notes each request, and lets those go wrong that it is told to."""

import asyncio
import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from starlette.types import Receive, Scope, Send
from tests.upstream.account import Account
from tests.upstream.dialect import Dialect, Digests, no_room
from tests.upstream.exchange import ClientLeft, Exchange, Reply, Seen, reply
from tests.upstream.faults import (
    Answer,
    Broken,
    Changed,
    Deaf,
    Due,
    Fault,
    Hang,
    Held,
    Refuse,
    Reset,
    Slow,
    Stalled,
    Where,
    always,
)
from tests.upstream.quirks import Quirks
from tests.upstream.serving import on_a_free_port

_PATIENCE = 60.0


class Upstream(Account):
    """An account behind HTTP. `requests` is what it was asked, `faults` what is still to go wrong."""

    def __init__(self, dialect: Dialect, quirks: Quirks, key: str, clock: Callable[[], float]) -> None:
        super().__init__(dialect, quirks, key, clock)
        self.requests: list[Seen] = []
        self.faults: list[Due] = []
        self._marks = Digests(f"{type(self).__name__}/{key}/requests")
        self._defects: list[Exception] = []
        self._arrived = asyncio.Event()
        self._silent: bool | None = None  # while it is down: whether nothing comes, or connections break
        self._exchanges: set[Exchange] = set()

    def down(self, *, hang: bool = False) -> None:
        """Lets every request fail until `up`, those that run too: connections break, or (`hang`) nothing comes."""
        self._silent = hang
        for exchange in self._exchanges:
            exchange.lose(silent=hang)

    def up(self) -> None:
        """Answers again; the connections on which nothing came break."""
        self._silent = None
        for exchange in self._exchanges:
            exchange.revive()

    def fault(self, what: Fault, times: int = 1, where: Where = always) -> None:
        """Lets the next `times` requests that `where` is true of go wrong; of a form it sees the head alone."""
        self.faults.append(Due(what, times, where))

    def token_limit(self) -> Answer:
        """The answer to a create while too many tokens are enqueued."""
        refusal = no_room(self.dialect)
        return Answer(refusal.status, self._error_wire(refusal))

    async def arrival(self, where: Where = always) -> Seen:
        """The first request that `where` is true of, as soon as it has come; it must come before patience ends."""
        async with asyncio.timeout(_PATIENCE):
            while (found := next(filter(where, self.requests), None)) is None:
                await self._arrived.wait()
        return found

    @abstractmethod
    def _headers(self, seen: Seen) -> Mapping[str, str]:
        """What every answer has."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        self._exchanges.add(exchange)
        try:
            await self._serve(exchange)
        except ClientLeft:
            exchange.seen.left = True
        except Exception as defect:
            self._defects.append(defect)
            raise
        finally:
            self._exchanges.remove(exchange)
            exchange.seen.ended.set()

    async def _serve(self, exchange: Exchange) -> None:
        self._note(exchange.seen)
        if self._silent is not None:
            exchange.lose(silent=self._silent)
            await exchange.hold()
        if not exchange.is_form:
            await exchange.note_json()
        fault = self._due(exchange.seen)
        if not await self._instead(exchange, fault):
            answer = await self.act(exchange)
            await self._after(exchange, fault, answer)

    def _note(self, seen: Seen) -> None:
        self.requests.append(seen)
        self._arrived.set()
        self._arrived = asyncio.Event()

    def _due(self, seen: Seen) -> Fault | None:
        due = next((one for one in self.faults if one.where(seen)), None)
        if due is None:
            return None
        due.times -= 1
        if due.times < 1:
            self.faults.remove(due)
        return due.what

    async def _instead(self, exchange: Exchange, fault: Fault | None) -> bool:
        """Lets a request go wrong before it acts; tells whether that is all there is of it."""
        match fault:
            case Answer(acts=False):
                await exchange.drain()
                await self._send(exchange, self._told(fault))
            case Reset(acts=False):
                await exchange.skip(fault.after)
                await exchange.break_off(clean=fault.clean)
            case Hang(acts=False):
                await exchange.drain()
                await exchange.hold()
            case Deaf():
                await exchange.skip(fault.after)
                await exchange.hold()
            case Refuse():
                await exchange.skip(fault.after)
                answer = self._complete(exchange.seen, self._told(Answer(fault.status, fault.body)))
                await exchange.refuse(answer, abrupt=fault.abrupt)
            case Held(acts=False):
                await exchange.wait(fault.gate)
                return False
            case _:
                return False
        return True

    async def _after(self, exchange: Exchange, fault: Fault | None, answer: Reply) -> None:
        """Answers a request that has acted, or lets it go wrong."""
        match fault:
            case Answer():
                await self._send(exchange, self._told(fault))
            case Changed() if answer.status < 300:
                changed = fault.change(json.loads(b"".join(answer.pieces) or b"null"))
                await self._send(exchange, reply(answer.status, changed))
            case Reset():
                await exchange.break_off(clean=fault.clean)
            case Hang():
                await exchange.hold()
            case Held(acts=True):
                await exchange.wait(fault.gate)
                await self._send(exchange, answer)
            case Broken():
                if fault.chunked:
                    answer.headers.pop("content-length", None)
                await self._send(exchange, answer, most=fault.after)
                await exchange.break_off(clean=fault.clean)
            case Stalled():
                await self._send(exchange, answer, most=fault.after)
                await exchange.hold()
            case Slow():
                await exchange.answer_slowly(self._complete(exchange.seen, answer), fault.seconds, fault.piece)
            case _:
                await self._send(exchange, answer)

    async def _send(self, exchange: Exchange, answer: Reply, most: int | None = None) -> None:
        await exchange.answer(self._complete(exchange.seen, answer), most=most)

    def _complete(self, seen: Seen, answer: Reply) -> Reply:
        answer.headers = {**self._headers(seen), **answer.headers}
        return answer

    def _told(self, fault: Answer) -> Reply:
        """The answer of a fault; what it doesn't say is the provider's."""
        if fault.body is not None:
            return reply(fault.status, fault.body, fault.headers)
        answer = self.refused(self._stock(fault.status))
        answer.headers.update(fault.headers)
        return answer

    @asynccontextmanager
    async def serving(self, path: str) -> AsyncIterator[None]:
        """Serves the account, whose `api_base` ends in `path`; a defect of the fake itself fails the context."""
        async with on_a_free_port(self) as port:
            self.api_base = f"http://127.0.0.1:{port}{path}"
            yield
        if self._defects:
            raise self._defects[0]
