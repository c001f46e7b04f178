"""A service that can't be reached as it was named: the command says what stands there, at once, and what to do."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.authority import Authority, Identity
from tests.harness import KEY
from tests.people import Person, Ran
from tests.processes import batchyard, configure
from tests.sockets import held_port


class Scene(NamedTuple):
    """Ports of a service in clear text and of one over TLS, REST's and gRPC's, and who signs."""

    person: Person
    clear: tuple[int, int]
    secure: tuple[int, int]
    authority: Authority
    stranger: Authority

    async def list(self, port: int, *options: str, key: str = KEY, master: str = "", ca: str = "") -> Ran:
        environ: dict[str, Any] = {"BATCHYARD_API_KEY": key, "BATCHYARD_MASTER_KEY": master}
        return await self.person.run(
            "list", "--server", f"localhost:{port}", *options, BATCHYARD_TLS__CA_FILE=ca, **environ
        )


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    folders = tmp_path / "clear", tmp_path / "secure"
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    shown = authority.identity("server")
    for folder in folders:
        folder.mkdir()
        configure(folder, echo=True)
    tls = {"BATCHYARD_TLS__CERT_FILE": str(shown.cert), "BATCHYARD_TLS__KEY_FILE": str(shown.key)}
    with batchyard(folders[0], "serve") as clear, batchyard(folders[1], "serve", environ=tls) as secure:
        ports = [(await one.port("REST on"), await one.port("gRPC on")) for one in (clear, secure)]
        yield Scene(Person(0, tmp_path), ports[0], ports[1], authority, stranger)


def told(ran: Ran, *words: str) -> None:
    """That it ended without a second try, with what is wrong and what to do."""
    assert (ran.code, ran.err.count("\n"), "trying again" in ran.err) == (1, 2, False), ran.err
    assert [word for word in words if word not in ran.err] == []


async def test_what_stands_there_is_named_at_once(scene: Scene, tmp_path: Path) -> None:
    ca = ("--ca-file", str(tmp_path / "ca.pem"))
    assert (await scene.list(scene.clear[1])).code == 0
    assert (await scene.list(scene.secure[1], *ca)).code == 0
    told(await scene.list(scene.clear[0]), "this is a REST port", "--server: 50051")
    told(await scene.list(scene.clear[0], *ca), "this is a REST port", "--server: 50051")
    told(await scene.list(scene.secure[0]), "this is a REST port", "over TLS", "--ca-file")
    told(await scene.list(scene.secure[0], *ca), "this is a REST port", "over TLS")
    told(await scene.list(scene.secure[1]), "it speaks TLS", "--ca-file FILE")
    told(await scene.list(scene.clear[1], *ca), "it speaks clear text", "Leave out --ca-file")
    told(
        await scene.list(scene.clear[1], ca=ca[1]),
        "it speaks clear text",
        "$BATCHYARD_TLS__CA_FILE",
    )


async def test_a_certificate_that_does_not_pass_is_named(scene: Scene, tmp_path: Path) -> None:
    told(
        await scene.list(scene.secure[1], "--ca-file", str(tmp_path / "stranger.pem")),
        "its certificate does not pass",
        "--ca-file",
    )


async def test_a_certificate_that_is_wanted_is_named(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    shown, other = authority.identity("server"), stranger.identity("other")
    configure(tmp_path, echo=True)
    tls = {"CERT_FILE": str(shown.cert), "KEY_FILE": str(shown.key), "CLIENT_CA_FILE": str(tmp_path / "ca.pem")}
    with batchyard(
        tmp_path, "service", environ={f"BATCHYARD_TLS__{name}": value for name, value in tls.items()}
    ) as one:
        person = Person(await one.port(), tmp_path)
        ca = ("--ca-file", str(tmp_path / "ca.pem"))
        told(await person.run("list", *ca), "it wants a client's certificate", "--client-cert-file")
        wrong = await person.run("list", *ca, *with_certificate(other))
        told(wrong, "it refuses the certificate", "--client-cert-file")
        assert (await person.run("list", *ca, *with_certificate(shown))).code == 0


def with_certificate(shown: Identity) -> tuple[str, ...]:
    return ("--client-cert-file", str(shown.cert), "--client-key-file", str(shown.key))


async def test_who_is_not_there_is_waited_for_and_then_named(tmp_path: Path) -> None:
    with held_port() as port:
        ran = await Person(port, tmp_path).run("list", "--patience", "0.2", "--quiet")
    said, advice = ran.err.splitlines()
    assert (ran.code, said) == (1, f"batchyard: no answer from the service at localhost:{port}: Connection refused")
    assert "`make run`" in advice
    assert "--server HOST:PORT" in advice
    ran = await Person(1, tmp_path).run("list", "--patience", "0", "--server", "nowhere.invalid:1")
    assert "there is no host 'nowhere.invalid'" in ran.err
    ran = await Person(1, tmp_path).run("list", "--patience", "0", "--server", f"unix:{tmp_path}/none")
    assert "No such file or directory" in ran.err


async def test_a_url_is_no_address(tmp_path: Path) -> None:
    ran = await Person(1, tmp_path).run("list", "--server", "http://localhost:4000")
    assert (ran.code, "HOST:PORT of the gRPC port" in ran.err) == (2, True)
    ran = await Person(1, tmp_path).run("list", BATCHYARD_SERVICE_ADDRESS="http://localhost:4000")
    assert (ran.code, "BATCHYARD_SERVICE_ADDRESS: expected HOST:PORT of the gRPC port" in ran.err) == (1, True)


async def test_a_key_that_is_missing_or_wrong_says_where_it_is_from(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-wrong\n")
    missing = await scene.list(scene.clear[1], key="")
    assert (missing.code, "Set BATCHYARD_API_KEY, or name a file" in missing.err) == (1, True)
    for origin, ran in {
        "BATCHYARD_API_KEY": await scene.list(scene.clear[1], key="sk-wrong"),
        "BATCHYARD_MASTER_KEY": await scene.list(scene.clear[1], key="", master="sk-wrong"),
        "key": await scene.list(scene.clear[1], "--key-file", "key"),
    }.items():
        assert (ran.code, f"The key is from {origin};" in ran.err, "sk-wrong" in ran.err) == (1, True, False)
