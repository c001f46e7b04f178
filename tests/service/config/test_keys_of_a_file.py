"""`batchyard.keys` and `batchyard.tenants` of the configuration file, and what is wrong with them."""

import pytest
from tests.service.conftest import Load, Problems

from batchyard.cli import report
from batchyard.service.config.settings import Key, Quotas, Tenant

SECRET = {"TEAM": "sk-hunter2"}
MASTER = "general_settings: {master_key: sk-hunter2-master}\n"


def text(*entries: str, host: str = "localhost") -> str:
    listed = "".join(f"  - {{{entry}}}\n" for entry in entries)
    return f"{MASTER}batchyard:\n  local: {{echo: true}}\n  host: {host}\n  keys:\n{listed}"


class TestKeys:
    def test_have_what_the_file_says(self, load: Load) -> None:
        more = "providers: local, model_groups: [], expires_at: 2030-01-31, limits: {requests_per_minute: 60}"
        more = more.replace("model_groups: [], ", "")
        (key,) = load(text(f"name: a, key: os.environ/TEAM, tenant: team-a, {more}"), SECRET).keys
        assert key == Key(
            name="a",
            key="sk-hunter2",
            tenant="team-a",
            providers=("local",),
            expires_at=1_896_048_000,
            limits=Quotas(requests_per_minute=60),
        )

    @pytest.mark.parametrize("time", ["2030-01-31T00:00:00Z", "2030-01-31T01:00:00+01:00", "1896048000"])
    def test_end_at_a_time_in_any_form(self, load: Load, time: str) -> None:
        (key,) = load(text(f"name: a, key: os.environ/TEAM, tenant: a, expires_at: {time}"), SECRET).keys
        assert key.expires_at == 1_896_048_000

    def test_are_reported_without_their_secrets(self, load: Load) -> None:
        limits = "limits: {lines_per_day: 5}"
        found = load(text(f"name: a, key: sk-hunter2, tenant: b, providers: [local], {limits}"))
        assert "key a: tenant b, may use local, lines_per_day 5\n" in report.settings(found)

    def test_let_a_service_listen_publicly_without_a_master_key(self, load: Load) -> None:
        public = text("name: a, key: sk-hunter2, tenant: b", host="0.0.0.0").removeprefix(MASTER)
        assert load(public, {"BATCHYARD_ALLOW_PLAINTEXT": "true"}).master_key is None

    def test_may_name_what_is_not_configured_with_a_warning(self, load: Load) -> None:
        found = load(text("name: a, key: sk-hunter2, tenant: b, providers: [moon], model_groups: [m]"))
        assert [warning.rpartition(" (")[0] for warning in found.warnings] == [
            "batchyard.keys[0].providers: 'moon' is not configured",
            "batchyard.keys[0].model_groups: 'm' is not configured",
        ]

    @pytest.mark.parametrize(
        ("entries", "wrong"),
        [
            (["name: a, tenant: b"], ["keys[0].key: is missing"]),
            (["3: 4"], ["keys[0].3: unknown key", *(f"keys[0].{n}: is missing" for n in ("name", "key", "tenant"))]),
            (["name: a/b, key: hunter2, tenant: b"], ["keys[0].name: expected up to 64 letters"]),
            (["name: a, key: hunter2, tenant: b c"], ["keys[0].tenant: expected up to 64 letters"]),
            (["name: a, key: 'hunter2 x', tenant: b"], ["keys[0].key: expected a key of visible ASCII characters"]),
            (["name: a, key: os.environ/NONE, tenant: b"], ["keys[0].key: the variable NONE is not set"]),
            (["name: a, key: hunter2, tenant: b, expires_at: soon"], ["keys[0].expires_at: expected a time"]),
            (["name: a, key: hunter2, tenant: b, expires_at: 0"], ["keys[0].expires_at: expected a time"]),
            (["name: a, key: hunter2, tenant: b, providers: []"], ["keys[0].providers: expected a list of texts"]),
            (["name: a, key: hunter2, tenant: b, limits: 5"], ["keys[0].limits: expected keys with values"]),
            (["name: a, key: hunter2, tenant: b, limits: {lines: 5}"], ["keys[0].limits.lines: unknown key"]),
            (
                ["name: a, key: hunter2, tenant: b, limits: {lines_per_day: 0}"],
                ["keys[0].limits.lines_per_day: expected an integer of at least 1"],
            ),
            (
                ["name: a, key: hunter2, tenant: b", "name: a, key: hunter2, tenant: b"],
                ["keys[1].name: is that of batchyard.keys[0]", "keys[1].key: is that of batchyard.keys[0] already"],
            ),
            (["name: a, key: sk-hunter2-master, tenant: b"], ["keys[0].key: is the master key"]),
        ],
    )
    def test_that_make_no_sense_are_named(self, problems: Problems, entries: list[str], wrong: list[str]) -> None:
        found = problems(text(*entries))
        assert len(found) == len(wrong)
        for line, start in zip(found, wrong, strict=True):
            assert line.startswith(f"batchyard.{start}")
            assert "(config.yaml line " in line

    def test_are_a_list(self, problems: Problems) -> None:
        assert problems("batchyard: {local: {echo: true}, keys: {a: b}}") == [
            "batchyard.keys: expected a list (- name: ...) (config.yaml line 1)"
        ]
        (wrong,) = problems(text() + "  - just text\n")
        assert wrong.startswith("batchyard.keys[0]: expected keys with values")

    def test_are_not_the_well_known_one_in_public(self, problems: Problems) -> None:
        public = {"BATCHYARD_ALLOW_PLAINTEXT": "true"}
        (wrong,) = problems(text("name: a, key: sk-1234, tenant: b", host="0.0.0.0"), public)
        assert wrong.startswith("batchyard.keys[0].key: is the well-known sk-1234")


class TestTenants:
    def test_have_what_the_file_says(self, load: Load) -> None:
        limits = "tenant_limits: {lines_per_day: 5}, tenants: {a: {limits: {stored_bytes: 7}}, 2: {}, c: }"
        found = load(f"batchyard: {{local: {{echo: true}}, {limits}}}", {"BATCHYARD_TENANT_LIMITS__STORED_BYTES": "9"})
        assert found.tenant_limits == Quotas(lines_per_day=5, stored_bytes=9)
        assert found.tenants == (
            Tenant(name="a", limits=Quotas(stored_bytes=7)),
            Tenant(name="2"),
            Tenant(name="c"),
        )
        shown = report.settings(found)
        assert "tenant a: stored_bytes 7\ntenant 2: the limits of all\n" in shown
        assert "batchyard.tenant_limits.lines_per_day: 5\n" in shown

    @pytest.mark.parametrize(
        ("tenants", "wrong"),
        [
            ("[a]", "tenants: expected tenants' names with values"),
            ("{a: 5}", "tenants.a: expected keys with values"),
            ("{a b: {}}", "tenants.a b: expected up to 64 letters"),
            ("{a: {limit: {}}}", "tenants.a.limit: unknown key; did you mean limits?"),
            ("{a: {limits: {lines_per_hour: 5}}}", "tenants.a.limits.lines_per_hour: unknown key; did you mean"),
            ("{a: {limits: {lines_per_day: 0}}}", "tenants.a.limits.lines_per_day: expected an integer of at least 1"),
            ("{a: {limits: {lines_per_day: many}}}", "tenants.a.limits.lines_per_day: expected an integer"),
        ],
    )
    def test_that_make_no_sense_are_named(self, problems: Problems, tenants: str, wrong: str) -> None:
        (found,) = problems(f"batchyard:\n  local: {{echo: true}}\n  tenants: {tenants}\n")
        assert found.startswith(f"batchyard.{wrong}")
        assert found.endswith("(config.yaml line 3)")

    def test_are_near_what_is_misspelled(self, problems: Problems) -> None:
        (found,) = problems("batchyard: {local: {echo: true}, tenant: {}}")
        assert "did you mean tenants?" in found
