"""The subcommands for people: a file's whole way through a batch, over gRPC."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from batchyard.cli import files, keys, options
from batchyard.cli.client import ENDED, CallError, Client, connected
from batchyard.cli.console import Console, time_of
from batchyard.cli.errors import RunError
from batchyard.cli.progress import Follower, counts, status, transferred
from batchyard.common.pem import CertificateFiles
from batchyard.service.kinds import Form
from batchyard.service.parsing import UnfitError, parse
from batchyard.v1 import Batch, BatchStatus, CreateBatchRequest, ExpiresAfter, File, UploadFileMetadata

ENDED_OTHERWISE, LINES_FAILED, NOT_ENDED, INTERRUPTED, UNREAD = 3, 4, 5, 130, 141
_LISTED_REASONS = 10


def run(given: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Runs a subcommand and returns its exit code: see `options.EXIT_CODES`. Raises RunError."""
    console = Console(sys.stdout, sys.stderr, environ, quiet=given.quiet)
    try:
        _check(given)
        address, key, certificates = _address(given, environ), _key(given, environ), _certificates(given, environ)
        provider = getattr(given, "provider", "")
        with connected(address, certificates, key, provider, given.patience, console.say) as client:
            return _COMMANDS[given.command](client, given, console)
    except KeyboardInterrupt:
        console.complain("batchyard: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python writes to it again, and complains
        return UNREAD
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise RunError(f"{where}{error.strerror or error}") from None
    except UnicodeEncodeError:
        raise RunError("an argument is not valid UTF-8") from None


def _upload(client: Client, given: argparse.Namespace, console: Console) -> int:
    with files.opened(given.file) as source:
        file = _uploaded(client, source, given.purpose, given, console)
    if given.json:
        console.print_json(file)
    else:
        console.print(file.id)
    return 0


def _submit(client: Client, given: argparse.Namespace, console: Console) -> int:
    batch = _created(client, given, console)
    if given.json and not given.wait:
        console.print_json(batch)
    elif not given.json:
        to_stdout = given.wait and files.STDIO in {given.output or files.STDIO, given.errors}
        (console.say if to_stdout else console.print)(batch.id)
    if not given.wait:
        return 0
    batch = _followed(client, batch.id, given, console)
    with _advice(f"{batch.id} has ended; to have its results: batchyard results {batch.id}", console):
        _write_results(client, batch, given, console)
    return _outcome(batch)


def _watch(client: Client, given: argparse.Namespace, console: Console) -> int:
    return _outcome(_followed(client, given.batch, given, console))


def _results(client: Client, given: argparse.Namespace, console: Console) -> int:
    batch = client.batch(given.batch)
    if given.json:
        console.print_json(batch)
    if batch.status not in ENDED:
        console.complain(f"{batch.id} is {status(batch)}, it has not ended; to follow it: batchyard watch {batch.id}")
        return NOT_ENDED
    _tell_end(batch, console)
    _write_results(client, batch, given, console)
    return _outcome(batch)


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
        _print_list(rows, console, of_files=given.files)
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
    places = [path for path in (getattr(given, name, None) for name in ("output", "errors")) if path]
    if given.command == "submit" and places and not given.wait:
        given.refuse("-o and --errors need --wait; later, `batchyard results` writes them")
    if len(places) == 2 and os.path.realpath(places[0]) == os.path.realpath(places[1]):
        given.refuse("-o and --errors name the same file")
    for path in places:
        if path != files.STDIO:
            files.check_place(path)


def _address(given: argparse.Namespace, environ: Mapping[str, str]) -> str:
    variable = "BATCHYARD_SERVICE_ADDRESS"
    try:
        return given.server or options.address(environ.get(variable) or "localhost:50051")
    except argparse.ArgumentTypeError as unfit:
        raise RunError(f"{variable}: {unfit}") from None


def _certificates(given: argparse.Namespace, environ: Mapping[str, str]) -> CertificateFiles:
    """The files for TLS; without a CA the service is called in clear text. Raises RunError."""
    named = (getattr(given, option) or environ.get(variable) for option, variable, _ in options.CERTIFICATES)
    ca, cert, key = (Path(name) if name else None for name in named)
    if bool(cert) != bool(key) or (cert and not ca):
        raise RunError("a client's certificate needs --ca-file, --client-cert-file and --client-key-file, all three")
    return CertificateFiles(cert=cert, key=key, ca=ca)


def _key(given: argparse.Namespace, environ: Mapping[str, str]) -> str | None:
    """The caller's key, from where no other user of the machine sees it. Raises RunError for one that can't be sent."""
    where = str(given.key_file)
    key = given.key_file.read_text(errors="replace").strip() if given.key_file else None
    for variable in ("BATCHYARD_API_KEY", "BATCHYARD_MASTER_KEY"):
        if key is None and environ.get(variable):
            key, where = environ[variable], variable
    try:
        return key if key is None else str(parse(Annotated[str, Form.SECRET], key, hidden=True))
    except UnfitError as unfit:
        raise RunError(f"{where}: {unfit}") from None


def _uploaded(client: Client, source: files.Source, purpose: str, given: argparse.Namespace, console: Console) -> File:
    metadata = UploadFileMetadata(
        provider=given.provider, purpose=purpose, filename=source.name, expires_after=_expiry(given.expires_after)
    )

    def pieces() -> Iterator[bytes]:
        done = 0
        for piece in source:
            yield piece
            done += len(piece)
            draw(transferred("upload", done, source.size))

    with console.moving() as draw:
        return client.upload(pieces(), metadata)


def _created(client: Client, given: argparse.Namespace, console: Console) -> Batch:
    """The new batch. Its key is this run's own: a second try gets the same batch, a second run another."""
    file_id, endpoint = _input(client, given, console)
    request = CreateBatchRequest(
        provider=given.provider,
        input_file_id=file_id,
        endpoint=endpoint,
        completion_window=given.window,
        metadata=dict(given.metadata),
        output_expires_after=_expiry(given.output_expires_after),
        idempotency_key=given.idempotency_key or uuid4().hex,
    )
    return client.create(request)


def _input(client: Client, given: argparse.Namespace, console: Console) -> tuple[str, str]:
    """The input file's id, and the endpoint that was named or that its first line names."""
    if given.file.startswith("file-") and not os.path.exists(given.file):
        if given.endpoint:
            return given.file, given.endpoint
        content = files.head(client.download(client.file(given.file)))
        return given.file, files.endpoint(content, given.file)
    with files.opened(given.file) as source:
        endpoint = given.endpoint or source.endpoint()
        return _uploaded(client, source, "batch", given, console).id, endpoint


def _expiry(seconds: int | None) -> ExpiresAfter | None:
    return None if seconds is None else ExpiresAfter(anchor="created_at", seconds=seconds)


def _followed(client: Client, batch_id: str, given: argparse.Namespace, console: Console) -> Batch:
    """The batch when it has ended; until then its states are told."""
    with _advice(f"{batch_id} goes on; to follow it: batchyard watch {batch_id}", console), console.moving() as draw:
        follower = Follower(console, draw)
        for batch in client.watch(batch_id):
            if given.json:
                console.print_json(batch)
            follower.tell(batch)
    _tell_end(batch, console)
    return batch


@contextmanager
def _advice(text: str, console: Console) -> Iterator[None]:
    """Says how to go on, where Ctrl-C, the network or the disk ends what is inside."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, OSError, CallError) as error:
        if not isinstance(error, CallError) or error.passing:
            console.complain(text)
        raise


def _tell_end(batch: Batch, console: Console) -> None:
    console.say(f"{batch.id} {status(batch)}: {counts(batch)}")
    reasons = batch.errors.data
    for reason in reasons[:_LISTED_REASONS]:
        console.say(f"  line {reason.line}: {reason.message}" if reason.HasField("line") else f"  {reason.message}")
    if len(reasons) > _LISTED_REASONS:
        console.say(f"  and {len(reasons) - _LISTED_REASONS} more; --json has them all")


def _write_results(client: Client, batch: Batch, given: argparse.Namespace, console: Console) -> None:
    """Each file that was named; one without lines is empty. With --json stdout is for objects, unless it is named."""
    if given.output or not given.json:
        _save(client, batch.output_file_id, given.output or files.STDIO, console)
    if given.errors:
        _save(client, batch.error_file_id, given.errors, console)
    elif batch.error_file_id:
        console.say(f"some lines failed or never ran; to have them: batchyard results {batch.id} --errors FILE")


def _save(client: Client, file_id: str, path: str, console: Console) -> None:
    file = client.file(file_id) if file_id else File()
    if path == files.STDIO:
        with console.bytes_out() as out:
            for piece in client.download(file):
                out.write(piece)
        return
    done = 0
    with files.replacing(path) as out, console.moving() as draw:
        for piece in client.download(file):
            done += out.write(piece)
            draw(transferred("download", done, file.bytes))


def _outcome(batch: Batch) -> int:
    if batch.status != BatchStatus.BATCH_STATUS_COMPLETED:
        return ENDED_OTHERWISE
    return LINES_FAILED if batch.request_counts.failed else 0


def _print_list(rows: list[Any], console: Console, *, of_files: bool) -> None:
    if of_files:
        head = ("ID", "PURPOSE", "BYTES", "CREATED", "NAME")
        console.print_table(
            head, [(file.id, file.purpose, str(file.bytes), time_of(file.created_at), file.filename) for file in rows]
        )
        return
    head = ("ID", "STATUS", "PROGRESS", "CREATED", "ENDPOINT")
    console.print_table(
        head, [(batch.id, status(batch), counts(batch), time_of(batch.created_at), batch.endpoint) for batch in rows]
    )
