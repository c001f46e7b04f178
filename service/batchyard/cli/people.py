"""The subcommands for people: a file's whole way through a batch, over gRPC."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from time import time
from typing import Any
from uuid import uuid4

from batchyard.cli import again, connection, files, inputs, interrupts, keys, results
from batchyard.cli.client import ENDED, CallError, Client, connected
from batchyard.cli.console import Console, age_of, time_of
from batchyard.cli.errors import RunError
from batchyard.cli.outputs import STDIO, Places, check_place, is_same, is_stdin, places
from batchyard.cli.progress import Follower, counts, status, transferred
from batchyard.v1 import Batch, BatchStatus, CreateBatchRequest, ExpiresAfter, File, UploadFileMetadata

ENDED_OTHERWISE, LINES_FAILED, NOT_ENDED, UNREAD = 3, 4, 5, 141


def run(given: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Runs a subcommand and returns its exit code: see `options.EXIT_CODES`. Raises RunError, KeyboardInterrupt."""
    interrupts.catch()
    console = Console(sys.stdout, sys.stderr, environ, quiet=given.quiet)
    try:
        _check(given)
        address, certificates = connection.address(given, environ), connection.certificates(given, environ)
        key, origin = connection.key(given, environ)
        provider = getattr(given, "provider", "")
        with connected(address, certificates, key, provider, given.patience, console.say) as client:
            try:
                return _COMMANDS[given.command](client, given, console)
            except CallError as error:
                raise RunError(
                    f"{error}{connection.advice_on_keys(error.code, origin, given.command)}", error.advice
                ) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python writes to it again, and complains
        return UNREAD
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise RunError(f"{where}{error.strerror or error}") from None
    except UnicodeEncodeError:
        raise RunError("an argument is not valid UTF-8") from None


def _upload(client: Client, given: argparse.Namespace, console: Console) -> int:
    with files.opened(given.file) as source, again.telling(console) as standing:
        file = _uploaded(client, source, given.purpose, given, standing, console)
    if given.json:
        console.print_json(file)
    else:
        console.print(file.id)
    return 0


def _submit(client: Client, given: argparse.Namespace, console: Console) -> int:
    places = _places(given, given.file, console)
    with again.telling(console) as standing:
        batch = _created(client, given, standing, console)
        if given.json and not given.wait:
            console.print_json(batch)
        elif not given.json:
            to_stdout = given.wait and STDIO in {places.output, places.errors}
            (console.say if to_stdout else console.print)(batch.id)
        if not given.wait:
            return 0
        if given.file == STDIO:
            places = _places(given, batch.id, console)
        return _finished(
            client, _followed(client, batch.id, given, standing, console), given, places, standing, console
        )


def _watch(client: Client, given: argparse.Namespace, console: Console) -> int:
    with again.telling(console) as standing:
        standing.reached(*again.follow(given, given.batch))
        return _outcome(_followed(client, given.batch, given, standing, console))


def _results(client: Client, given: argparse.Namespace, console: Console) -> int:
    places = _places(given, given.batch, console)
    with again.telling(console) as standing:
        standing.reached(
            f"nothing is written; again: {again.results(given, given.batch, wait=given.wait)}", passing=False
        )
        batch = client.batch(given.batch)
        if batch.status in ENDED or not given.wait:
            if given.json:
                console.print_json(batch)
            if batch.status not in ENDED:
                follow, *wait = again.follow(given, batch.id)
                for line in (follow.replace("goes on", f"is {status(batch)}, it has not ended"), *wait):
                    console.complain(line)
                return NOT_ENDED
            results.tell_end(batch, console)
        else:
            batch = _followed(client, batch.id, given, standing, console)
        return _finished(client, batch, given, places, standing, console)


def _cancel(client: Client, given: argparse.Namespace, console: Console) -> int:
    batch = client.cancel(given.batch)
    if given.json:
        console.print_json(batch)
    else:
        console.print(f"{batch.id} {status(batch)}")
    return 0


def _list(client: Client, given: argparse.Namespace, console: Console) -> int:
    ask: Callable[[str, int], Any] = client.files if given.files else client.batches
    limit = given.limit or (100 if given.all else 20)
    after, rows, more = given.after, [], True
    while more:
        page = ask(after, limit)
        if given.json:
            console.print_json(page)
        else:
            rows += page.data
        after, more = page.last_id, page.has_more and given.all
    if not given.json:
        (_print_files if given.files else _print_batches)(rows, console)
        if page.has_more:
            console.say(f"there are more: --after {after}")
    return 0


def _keys(client: Client, given: argparse.Namespace, console: Console) -> int:
    keys.ACTIONS[given.action](client, given, console)
    return 0


_COMMANDS: Mapping[str, Callable[[Client, argparse.Namespace, Console], int]] = {
    "upload": _upload,
    "submit": _submit,
    "watch": _watch,
    "results": _results,
    "cancel": _cancel,
    "list": _list,
    "keys": _keys,
}


def _check(given: argparse.Namespace) -> None:
    """Finds what would only fail after the work. Raises RunError, and SystemExit for wrong usage."""
    options = {"-o": getattr(given, "output", None), "--errors": getattr(given, "errors", None)}
    named: dict[str, str] = {option: path for option, path in options.items() if path is not None}
    for option, path in named.items():
        if not path:
            given.refuse(f"{option} names no file; is a variable empty?")
    if given.command == "submit" and named and not given.wait:
        given.refuse("-o and --errors need --wait; later, `batchyard results` writes them")
    if len(named) == 2 and is_same(*named.values()):
        given.refuse("-o and --errors name the same file")
    source = getattr(given, "file", "")
    for option, path in named.items():
        if path != STDIO and (is_stdin(path) if source == STDIO else source and is_same(source, path)):
            given.refuse(f"{option} names the input itself, {path}")
        if path != STDIO:
            check_place(path)


def _places(given: argparse.Namespace, stem: str, console: Console) -> Places:
    """Where results go. Raises RunError where nobody has named a place and none can be made beside the input."""
    found = places(given, stem, terminal=console.terminal and (given.command == "results" or given.wait))
    if found.chosen:
        check_place(str(found.output))
    return found


def _uploaded(
    client: Client,
    source: files.Source,
    purpose: str,
    given: argparse.Namespace,
    standing: again.Standing,
    console: Console,
) -> File:
    """Raises RunError for a batch's input that can't be one, before anything of it is sent."""
    standing.reached(f"nothing is stored; again: {again.repeated()}", passing=False)
    of_batch = purpose == "batch"
    if of_batch:
        source.check()
    metadata = UploadFileMetadata(
        provider=given.provider,
        purpose=purpose,
        filename=source.name,
        expires_after=_expiry(given.expires_after),
    )
    lines = inputs.Lines()
    bounds: list[inputs.Bounds | None] = [None]

    def check(header: str) -> None:
        bounds[0] = inputs.bounds_in(header, given.provider) if of_batch else None
        source.check_size(bounds[0])

    def pieces() -> Iterator[bytes]:
        for piece in source:
            lines.add(piece)
            lines.check(bounds[0], source.path)
            yield piece
            draw(transferred("upload", lines.size, source.size))
        standing.reached(
            f"the upload was done, and may be stored: {again.command(given, 'list', '--files')}", passing=False
        )

    with console.moving() as draw:
        return client.upload(pieces(), metadata, check)


def _created(client: Client, given: argparse.Namespace, standing: again.Standing, console: Console) -> Batch:
    """The new batch. Its key is this run's own: a second try gets the same batch, a second run another."""
    file_id, endpoint, stored = _input(client, given, standing, console)
    request = CreateBatchRequest(
        provider=given.provider,
        input_file_id=file_id,
        endpoint=endpoint,
        completion_window=given.window,
        metadata=dict(given.metadata),
        output_expires_after=_expiry(given.output_expires_after),
        idempotency_key=given.idempotency_key or uuid4().hex,
    )
    command = again.same(given, file_id, endpoint, request.idempotency_key)
    standing.reached(f"{file_id} is stored; to go on, with one batch whatever happened: {command}")
    try:
        batch = client.create(request)
    except CallError as error:
        if stored and not (error.passing or error.unsure):
            again_by_id = again.command(given, "submit", file_id)
            error.advice = f"No batch was started. {file_id} is stored, and can be submitted by its id: {again_by_id}"
        raise
    standing.reached(*again.follow(given, batch.id))
    return batch


def _input(
    client: Client, given: argparse.Namespace, standing: again.Standing, console: Console
) -> tuple[str, str, bool]:
    """The input file's id, the endpoint that was named or that its first line names, and whether it was stored now."""
    if given.file.startswith("file-") and not os.path.exists(given.file):
        standing.reached(f"nothing was begun; again: {again.repeated()}", passing=False)
        if given.endpoint:
            return given.file, given.endpoint, False
        content = files.head(client.download(client.file(given.file)))
        return given.file, files.endpoint(content, given.file), False
    with files.opened(given.file) as source:
        standing.reached(f"nothing is stored; again: {again.repeated()}", passing=False)
        source.check()
        endpoint = given.endpoint or source.endpoint()
        return _uploaded(client, source, "batch", given, standing, console).id, endpoint, True


def _expiry(seconds: int | None) -> ExpiresAfter | None:
    return None if seconds is None else ExpiresAfter(anchor="created_at", seconds=seconds)


def _followed(
    client: Client, batch_id: str, given: argparse.Namespace, standing: again.Standing, console: Console
) -> Batch:
    """The batch when it has ended; until then its states are told."""
    if given.command == "results":
        standing.reached(*again.follow(given, batch_id))
    with console.moving() as draw:
        follower = Follower(console, draw)
        for batch in client.watch(batch_id):
            if given.json:
                console.print_json(batch)
            follower.tell(batch)
    results.tell_end(batch, console)
    return batch


def _finished(
    client: Client,
    batch: Batch,
    given: argparse.Namespace,
    places: Places,
    standing: again.Standing,
    console: Console,
) -> int:
    """The exit code of a batch that has ended, once its results are written."""
    to_have = f"{batch.id} has ended; to have its results: {again.results(given, batch.id, wait=False)}"
    standing.reached(to_have, passing=given.command == "submit")
    failed = f"{again.command(given, 'results', batch.id)} --errors FILE"
    results.write(client, batch, places, failed, console)
    return _outcome(batch)


def _outcome(batch: Batch) -> int:
    if batch.status != BatchStatus.BATCH_STATUS_COMPLETED:
        return ENDED_OTHERWISE
    return LINES_FAILED if batch.request_counts.failed else 0


def _print_files(rows: list[File], console: Console) -> None:
    now = time()
    console.print_table(
        [
            ("ID", "PURPOSE", "BYTES", "CREATED", "NAME"),
            *((file.id, file.purpose, str(file.bytes), time_of(file.created_at), file.filename) for file in rows),
        ],
        [
            ("ID", "PURPOSE", "BYTES", "AGE", "NAME"),
            *((file.id, file.purpose, str(file.bytes), age_of(file.created_at, now), file.filename) for file in rows),
        ],
    )


def _print_batches(rows: list[Batch], console: Console) -> None:
    """Ids stay whole in each form, since they are what the next command needs."""
    now = time()
    whole = [("ID", "STATUS", "PROGRESS", "CREATED", "ENDPOINT")]
    narrow = [("ID", "STATUS", "LINES", "FAILED", "AGE")]
    for batch in rows:
        lines, began = batch.request_counts, batch.created_at
        done = f"{lines.completed + lines.failed:,}/{lines.total:,}" if lines.total else "-"
        whole.append((batch.id, status(batch), counts(batch) or "-", time_of(began), batch.endpoint))
        narrow.append((batch.id, status(batch), done, f"{lines.failed:,}", age_of(began, now)))
    console.print_table(whole, narrow, [row[:3] + row[4:] for row in narrow])
