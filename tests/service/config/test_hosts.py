"""What settings say of who can reach a listener, and what one must have that other machines reach."""

from pathlib import Path

import pytest
from tests.service.conftest import Load, Problems

from batchyard.common.pem import CertificateFiles
from batchyard.service.config.hosts import is_loopback
from batchyard.service.config.loader import load_settings
from batchyard.service.config.settings import SettingsError, Tls

ECHO = "batchyard: {local: {echo: true}}\n"
PLAIN = {"BATCHYARD_ALLOW_PLAINTEXT": "true"}


class TestHost:
    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.255.0.9", "::1"])
    def test_loopback_needs_no_key_and_no_tls(self, load: Load, host: str) -> None:
        assert is_loopback(host)
        assert load(ECHO, host=host).master_key is None

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "batch.example", "128.0.0.1"])
    def test_another_address_needs_a_key_that_is_not_well_known(
        self, load: Load, problems: Problems, host: str
    ) -> None:
        (problem,) = problems(ECHO, PLAIN, host=host)
        assert "BATCHYARD_MASTER_KEY" in problem
        (problem,) = problems(ECHO, {**PLAIN, "LITELLM_MASTER_KEY": "sk-1234"}, host=host)
        assert "well-known" in problem
        assert load(ECHO, {**PLAIN, "BATCHYARD_MASTER_KEY": "sk-own"}, host=host).host == host

    @pytest.mark.parametrize("serves", [True, False])
    def test_another_address_needs_tls_or_a_word_that_it_may_do_without(self, serves: bool) -> None:
        environ = {"BATCHYARD_LOCAL__ECHO": "true", "BATCHYARD_MASTER_KEY": "sk-own", "BATCHYARD_HOST": "::"}
        with pytest.raises(SettingsError) as refused:
            load_settings(None, environ, serves=serves)
        (problem,) = refused.value.problems
        assert (problem.subject, problem.where) == ("batchyard.host", "BATCHYARD_HOST")
        assert "batchyard.tls.cert_file" in problem.message
        assert "batchyard.allow_plaintext: true" in problem.message
        for more in ({"BATCHYARD_TLS__CERT_FILE": "c", "BATCHYARD_TLS__KEY_FILE": "k"}, PLAIN):
            assert load_settings(None, {**environ, **more}, serves=serves).host == "::"

    def test_a_shim_alone_needs_no_key(self) -> None:
        assert load_settings(None, {"BATCHYARD_HOST": "::", **PLAIN}, serves=False).master_key is None

    def test_what_listens_on_sockets_alone_reaches_no_other_machine(self, load: Load, problems: Problems) -> None:
        sockets = {"BATCHYARD_SOCKET": "rest.sock", "BATCHYARD_GRPC_SOCKET": "grpc.sock", "BATCHYARD_HOST": "::"}
        assert load(ECHO, sockets).master_key is None
        assert len(problems(ECHO, {**sockets, "BATCHYARD_METRICS_PORT": "0"})) == 2
        assert len(problems(ECHO, {**sockets, "BATCHYARD_SOCKET": ""})) == 2


class TestSockets:
    def test_a_path_is_no_longer_than_the_kernel_takes(self, load: Load, problems: Problems) -> None:
        assert load(ECHO, {"BATCHYARD_SOCKET": "s" * 107}).socket == Path("s" * 107)
        (problem,) = problems(ECHO, {"BATCHYARD_SOCKET": "s" * 108})
        assert problem.startswith("batchyard.socket: expected a path of at most 107 bytes, for a socket, got 'sss")

    def test_rest_and_grpc_have_one_each(self, problems: Problems) -> None:
        (problem,) = problems(ECHO, {"BATCHYARD_SOCKET": "s", "BATCHYARD_GRPC_SOCKET": "s"})
        assert problem.startswith("batchyard.grpc_socket: expected another path than")

    @pytest.mark.parametrize(
        "address", ["unix:", "unix:a:b", "unix:a?b", "unix:a%b", "unix://h:1", "h", "a/b:1", "h:0"]
    )
    def test_another_kind_of_address_is_refused(self, address: str) -> None:
        with pytest.raises(SettingsError, match="expected HOST:PORT or unix:PATH"):
            load_settings(None, {"BATCHYARD_SERVICE_ADDRESS": address}, serves=False)

    def test_a_service_may_be_on_one(self) -> None:
        found = load_settings(None, {"BATCHYARD_SERVICE_ADDRESS": "unix:/run/batchyard/grpc"}, serves=False)
        assert found.service_address == "unix:/run/batchyard/grpc"


class TestTls:
    @pytest.mark.parametrize(
        ("given", "alone", "needed"),
        [
            ("cert_file: c", "cert_file", "key_file"),
            ("key_file: k", "key_file", "cert_file"),
            ("client_ca_file: a", "client_ca_file", "cert_file"),
            ("cert_file: c, key_file: k, admin_names: [ops]", "admin_names", "client_ca_file"),
            ("ca_file: a, client_cert_file: c", "client_cert_file", "client_key_file"),
            ("ca_file: a, client_key_file: k", "client_key_file", "client_cert_file"),
            ("client_cert_file: c, client_key_file: k", "client_cert_file", "ca_file"),
        ],
    )
    def test_what_belongs_together_is_set_together(
        self, problems: Problems, given: str, alone: str, needed: str
    ) -> None:
        (problem,) = problems(f"batchyard: {{local: {{echo: true}}, tls: {{{given}}}}}")
        assert problem == f"batchyard.tls.{alone}: set batchyard.tls.{needed} too (config.yaml line 1)"

    def test_each_side_has_its_files(self, load: Load) -> None:
        inside = "cert_file: c, key_file: k, client_ca_file: a, admin_names: [ops], ca_file: b"
        tls = load(f"batchyard: {{local: {{echo: true}}, tls: {{{inside}}}}}").tls
        assert tls.server == CertificateFiles(cert=Path("c"), key=Path("k"), ca=Path("a"))
        assert tls.client == CertificateFiles(ca=Path("b"))
        assert tls.admin_names == ("ops",)
        assert (Tls().server, Tls().client) == (None, None)
