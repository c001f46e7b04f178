"""The page about TLS: what it shows is a configuration, and what it pastes works."""

from pathlib import Path

from tests.authority import Authority
from tests.harness import KEY
from tests.processes import process

from batchyard.service.config.loader import load_settings

from .blocks import block, blocks
from .test_commands import pasted

PAGE = "docs/tls.md"


def test_the_configurations_that_are_shown_are_some(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    environ = {"BATCHYARD_LOCAL__ECHO": "true", "BATCHYARD_MASTER_KEY": KEY}
    for one in blocks():
        if one.page == PAGE and one.language == "yaml":
            config.write_text(one.text)
            assert load_settings(config, environ).warnings == ()


async def test_the_commands_reach_a_server_over_tls(tmp_path: Path) -> None:
    shown = Authority(tmp_path).identity("tls")
    (tmp_path / "ca.pem").rename(tmp_path / "ca.crt")
    options = ["--data-dir", str(tmp_path / "data"), "--port", "0", "--grpc-port", "0"]
    files = {"BATCHYARD_TLS__CERT_FILE": str(shown.cert), "BATCHYARD_TLS__KEY_FILE": str(shown.key)}
    environ = {"BATCHYARD_LOCAL__ECHO": "true", "BATCHYARD_MASTER_KEY": KEY}
    with process(tmp_path / "log", "batchyard.cli.main", "serve", *options, environ=environ | files) as served:
        ports = await served.port("REST on"), await served.port("gRPC on")
        script = f"export BATCHYARD_MASTER_KEY={KEY}\n{block(PAGE, 'curl --cacert')}"
        printed = await pasted(script, ports, tmp_path)
    assert '"object":"list"' in printed
    assert "STATUS" in printed
