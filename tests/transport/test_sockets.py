"""Unix sockets: both servers on one, who may connect, and what is in the way."""

import socket
import stat
from pathlib import Path

import grpc
import pytest
from tests.authority import Identity
from tests.harness import KEY, Client, settings_for

from batchyard.cli import shim
from batchyard.cli.errors import RunError
from batchyard.common.metrics import Metrics
from batchyard.common.sockets import Access
from batchyard.common.tracing import OFF

from .conftest import Served, served, settings_with


async def answers(running: Served) -> None:
    """A file goes in over REST and is read over gRPC."""
    async with running.rest() as rest:
        made = await rest.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a", b"hello")})
        assert made.status_code == 200, made.text
    async with grpc.aio.insecure_channel(running.server.address) as channel:
        assert await Client(channel, KEY).read(made.json()["id"]) == b"hello"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestASocket:
    @pytest.mark.parametrize(("access", "bits"), [("owner", 0o600), ("group", 0o660), ("all", 0o666)])
    async def test_is_where_both_servers_listen(self, tmp_path: Path, access: Access, bits: int) -> None:
        rest, rpc = tmp_path / "rest", tmp_path / "grpc"
        async with served(settings_for(tmp_path, socket=rest, grpc_socket=rpc, socket_access=access)) as running:
            assert (running.listener.url, running.server.address) == (f"unix:{rest}", f"unix:{rpc}")
            assert (mode(rest), mode(rpc)) == (bits, bits)
            await answers(running)
        assert not rest.exists()
        assert not rpc.exists()

    async def test_is_in_clear_text_whatever_the_ports_speak(self, tmp_path: Path, server_files: Identity) -> None:
        sockets = {"socket": tmp_path / "rest", "grpc_socket": tmp_path / "grpc"}
        async with served(settings_with(tmp_path, server_files, server_files.cert, **sockets)) as running:
            await answers(running)

    async def test_is_found_by_a_shim_alone(self, tmp_path: Path) -> None:
        settings = settings_for(tmp_path, grpc_socket=tmp_path / "grpc")
        async with (
            served(settings) as running,
            shim.alone(settings, running.server.address, Metrics(), OFF) as listener,
            Served(listener, running.server).rest() as rest,
        ):
            assert (await rest.get("/health/readiness")).status_code == 200

    @pytest.mark.parametrize("name", ["socket", "grpc_socket"])
    async def test_of_a_dead_server_is_replaced(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / "stale"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        async with served(settings_for(tmp_path, **{name: path})) as running, running.rest() as rest:
            assert (await rest.get("/health/readiness")).status_code == 200
        assert not path.exists()

    @pytest.mark.parametrize("name", ["socket", "grpc_socket"])
    async def test_of_a_live_server_is_left_alone(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / "live"
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            other.listen()
            with pytest.raises(RunError, match=f"another process listens on {path}"):
                async with served(settings_for(tmp_path, **{name: path})):
                    pass
        assert path.exists()

    @pytest.mark.parametrize("name", ["socket", "grpc_socket"])
    async def test_never_replaces_another_kind_of_file(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / "precious"
        path.write_text("words")
        with pytest.raises(RunError, match=f"{path} is there and is no socket"):
            async with served(settings_for(tmp_path, **{name: path})):
                pass
        assert path.read_text() == "words"

    @pytest.mark.parametrize("name", ["socket", "grpc_socket"])
    async def test_needs_a_folder(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(RunError, match="can't listen"):
            async with served(settings_for(tmp_path, **{name: tmp_path / "nowhere" / "socket"})):
                pass
