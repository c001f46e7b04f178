"""The batches of an account, and how they move."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.upstream.census import Census
from tests.upstream.dialect import Dialect, Digests, no_room
from tests.upstream.files import Files, StoredFile, kept
from tests.upstream.lines import Line, Outcome, batch_error, check, execute, glance, unexecuted, usage_of
from tests.upstream.quirks import Quirks
from tests.upstream.quota import Quotas
from tests.upstream.refusals import DAY, Json, Refusal

ENDED = {"completed", "failed", "expired", "cancelled"}
_STAMPS = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


@dataclass
class _Work:
    """What a batch has beside what is told of it."""

    life: int | None  # of its output files
    custom_ids: list[str] = field(default_factory=list)
    tokens: Counter[str] = field(default_factory=Counter)  # by model
    beyond: Refusal | None = None  # why it will fail for want of tokens
    lines: list[Line] = field(default_factory=list)
    unread: int = 0  # lines of an input that was discarded
    outputs: tuple[str | None, str | None] | None = None
    folder: str = ""  # of a batch over a blob

    @property
    def total(self) -> int:
        return len(self.lines) + self.unread


class Batches:
    """Batches as the provider tells of them, before quirks; a step at a time they come to their end.

    `models` are those that lines may name, None: any. `executed` counts how often each custom_id was executed.
    """

    def __init__(
        self, dialect: Dialect, quirks: Quirks, files: Files, digests: Digests, clock: Callable[[], float]
    ) -> None:
        self.told: dict[str, Json] = {}
        self.unsupported: set[str] = set()
        self.models: set[str] | None = None
        self.quotas = Quotas()
        self.executed: Counter[str] = Counter()
        self.watchers: list[Census] = []
        self.done: Callable[[int], int] = lambda total: total // 2
        self._work: dict[str, _Work] = {}
        self._dialect = dialect
        self._quirks = quirks
        self._files = files
        self._digests = digests
        self._clock = clock
        self._steps: dict[str, Callable[[Json], None]] = {
            "validating": self._validate,
            "in_progress": self._execute,
            "paused": self._finalize,
            "finalizing": self._complete,
            "cancelling": self._cancelled,
        }

    def create(self, asked: Json, life: int | None) -> Json:
        """A new batch; its output files expire after `life` seconds. Raises Refusal for want of tokens."""
        work = self._entered(asked["input_file_id"], life)
        batch_id = self._dialect.batch_id(self._digests())
        now = int(self._clock())
        usage = {} if self._quirks.no_usage else {"model": None, "usage": usage_of([])}
        self._work[batch_id] = work
        self.told[batch_id] = {
            "id": batch_id,
            "object": "batch",
            "endpoint": asked["endpoint"],
            "errors": None,
            "input_file_id": asked["input_file_id"],
            "completion_window": asked["completion_window"],
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "expires_at": now + DAY,
            **{f"{status}_at": None for status in _STAMPS},
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": asked.get("metadata"),
            **usage,
        }
        if folder := asked.get("output_folder"):  # the input is a blob, and so will be the results
            blobs = {"input_blob": asked["input_file_id"], "output_blob": "", "error_blob": ""}
            self.told[batch_id] |= {"input_file_id": None, **blobs}
            work.folder = folder["url"]
        return self.told[batch_id]

    def _entered(self, source: str, life: int | None) -> _Work:
        """What a new batch has, counted among what waits; one that has no room only where it fails late."""
        stored = self._files.find(source)
        work = _Work(life, *glance(stored.data if stored else b""))
        if found := self.quotas.exceeded(work.tokens):
            model, quota = found
            work.beyond = no_room(self._dialect, model, quota.tokens)
            if quota.fail_fast:
                raise work.beyond
            work.tokens.clear()
        self.quotas.enqueued += work.tokens
        for one in self.watchers:
            one.began(work.custom_ids)
        return work

    def step(self, batch_id: str) -> None:
        """Moves a batch to its next status, if there is one."""
        batch = self.told[batch_id]
        if step := self._steps.get(batch["status"]):
            step(batch)

    def run(self, batch_id: str) -> None:
        """Moves a batch to its end."""
        batch = self.told[batch_id]
        while batch["status"] not in ENDED:
            self._steps[batch["status"]](batch)

    def fail(self, batch_id: str, errors: Sequence[Json]) -> None:
        batch = self.told[batch_id]
        self._set(batch, "failed")
        batch["errors"] = {"object": "list", "data": list(errors)}
        if self._quirks.failed_as_completed:
            empty = [self._store(batch_id, what, [], self._work[batch_id].life) for what in ("output", "error")]
            batch.update(failed_at=None, completed_at=int(self._clock()))
            batch.update(output_file_id=empty[0], error_file_id=empty[1])

    def expire(self, batch_id: str, done: int | None = None) -> None:
        """Ends a batch for want of time, after `done` of its lines."""
        self._cut_short(batch_id, "batch_expired", done)
        self._set(self.told[batch_id], "expired")

    def cancel(self, batch_id: str) -> None:
        self._set(self.told[batch_id], "cancelling")

    def _validate(self, batch: Json) -> None:
        batch_id, work = batch["id"], self._work[batch["id"]]
        source = batch.get("input_blob") or batch["input_file_id"]
        stored = self._files.find(source)
        if stored is None:
            self.fail(batch_id, [self._dialect.missing_file(source)])
        elif batch["completion_window"] != "24h":
            text = f"Invalid value: '{batch['completion_window']}'. Supported values are: '24h'."
            self.fail(batch_id, [batch_error("invalid_request", text, "completion_window")])
        elif beyond := no_room(self._dialect) if self._quirks.late_tokens else work.beyond:
            self.fail(batch_id, [batch_error("token_limit_exceeded", beyond.message)])
        elif errors := self._read(batch, work, stored):
            self.fail(batch_id, errors)
        else:
            self._set(batch, "in_progress")
            batch["request_counts"]["total"] = work.total
            if "model" in batch and work.lines:
                batch["model"] = f"{work.lines[0].body.get('model')}-2026-03-05"  # the provider's name for a snapshot

    def _read(self, batch: Json, work: _Work, stored: StoredFile) -> list[Json]:
        if self._quirks.discard and stored.size > len(stored.data):
            work.unread = stored.lines
            return []
        work.lines, errors = check(stored.data, batch["endpoint"], self._dialect.rules, self._known)
        return errors

    def _known(self, model: Any) -> bool:
        return model not in self.unsupported and (self.models is None or model in self.models)

    def _execute(self, batch: Json) -> None:
        if self._quirks.unknown_status:
            batch["status"] = "paused"
        else:
            self._finalize(batch)

    def _finalize(self, batch: Json) -> None:
        self._set(batch, "finalizing")
        self._finish(batch["id"], self._work[batch["id"]].total, "")

    def _complete(self, batch: Json) -> None:
        self._show(batch["id"])
        self._set(batch, "completed")

    def _cancelled(self, batch: Json) -> None:
        self._cut_short(batch["id"], "batch_cancelled", None)
        self._set(batch, "cancelled")

    def _cut_short(self, batch_id: str, code: str, done: int | None) -> None:
        work = self._work[batch_id]
        if work.total and not work.outputs:
            self._finish(batch_id, self.done(work.total) if done is None else done, code)
        if work.outputs:
            self._show(batch_id)

    def _finish(self, batch_id: str, done: int, code: str) -> None:
        """Executes the first `done` lines, and stores what came of all."""
        batch, work = self.told[batch_id], self._work[batch_id]
        self.executed.update(line.custom_id for line in work.lines[:done])
        came = [execute(line, batch["endpoint"]) for line in work.lines[:done]]
        rest = [unexecuted(line, code) for line in work.lines[done:]]
        good = [one for one in came if one.succeeded]
        bad = [one for one in came if not one.succeeded]
        counts = batch["request_counts"]
        counts.update(completed=len(good) + min(done, work.unread), failed=len(bad))
        if "usage" in batch:
            batch["usage"] = usage_of(good)
        always = bool(self._quirks.zero_byte_error_file)
        output = self._store(batch_id, "output", good, work.life) if counts["completed"] else None
        errors = self._store(batch_id, "error", bad + rest, work.life) if bad or rest or always else None
        work.outputs = (output, errors)
        work.lines.clear()  # they may be many

    def _show(self, batch_id: str) -> None:
        outputs = self._work[batch_id].outputs or (None, None)
        if folder := self._work[batch_id].folder:
            made = {
                "output_blob": f"{folder}/{batch_id}/results.jsonl",
                "error_blob": f"{folder}/{batch_id}/errors.jsonl",
            }
            self.told[batch_id] |= made
            return
        self.told[batch_id].update(zip(("output_file_id", "error_file_id"), outputs, strict=True))

    def _store(self, batch_id: str, what: str, outcomes: Sequence[Outcome], life: int | None) -> str:
        data = b"".join(json.dumps(self._dialect.result(batch_id, one)).encode() + b"\n" for one in outcomes)
        upload = kept(data, f"{batch_id}_{what}.jsonl")
        if self._quirks.content_bytes is not None and (outcomes or what == "output"):
            upload.size = self._quirks.content_bytes
        stored = self._files.add(upload, "batch_output", life=life)
        file_id: str = stored.description["id"]
        return file_id

    def _set(self, batch: Json, status: str) -> None:
        batch["status"] = status
        batch[f"{status}_at"] = int(self._clock())
        if status in ENDED:
            self._leave(self._work[batch["id"]])

    def _leave(self, work: _Work) -> None:
        self.quotas.enqueued -= work.tokens
        for one in self.watchers:
            one.ended(work.custom_ids)
        work.tokens.clear()
        work.custom_ids.clear()
