"""The variables of OpenAI and Azure, which are enough alone and add to a file; and the default of several providers."""

import re

import pytest
from tests.processes import ROOT
from tests.service.conftest import EAST, LOCAL, WEST, Load, Problems, azure, entry, openai

from batchyard.service.config.account_words import READ
from batchyard.service.config.deployments import VARIABLES
from batchyard.service.config.loader import choose_default, load_settings
from batchyard.service.config.names import AZURE, OPENAI
from batchyard.service.config.settings import Deployment

REFERENCE = ROOT / "docs" / "configuration.md"
DEVELOPMENT = ROOT / "service" / "batchyard" / "cli" / "development.yaml"


class TestVariables:
    @pytest.mark.parametrize(
        ("environ", "made"),
        [
            ({"OPENAI_API_KEY": "k"}, openai(api_key="k")),
            (
                {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://a.example/v1", "OPENAI_API_BASE": "http://b.example"},
                openai(api_key="k", api_base="http://a.example/v1"),
            ),
            (
                {"OPENAI_API_KEY": "k", "OPENAI_API_BASE": "http://b.example"},
                openai(api_key="k", api_base="http://b.example"),
            ),
            (
                {"OPENAI_API_KEY": "k", "OPENAI_ORGANIZATION": "o", "OPENAI_PROJECT": "p"},
                openai(api_key="k", organization="o", project="p"),
            ),
            (
                {"OPENAI_API_KEY": "k", "OPENAI_ORG_ID": "o", "OPENAI_PROJECT_ID": "p"},
                openai(api_key="k", organization="o", project="p"),
            ),
            ({"AZURE_API_BASE": EAST, "AZURE_API_KEY": "k"}, azure(api_key="k")),
            (
                {"AZURE_API_BASE": EAST, "AZURE_API_KEY": "k", "AZURE_OPENAI_API_KEY": "first"},
                azure(api_key="first"),
            ),
            (
                {"AZURE_API_BASE": EAST, "AZURE_OPENAI_ENDPOINT": WEST, "AZURE_API_KEY": "k"},
                azure(api_key="k"),
            ),
            (
                {"AZURE_OPENAI_ENDPOINT": WEST, "AZURE_API_KEY": "k", "OPENAI_API_VERSION": "2024-10-21"},
                azure(api_base=WEST, api_key="k", api_version="2024-10-21"),
            ),
            (
                {
                    "AZURE_API_BASE": EAST, "AZURE_API_KEY": "k",
                    "AZURE_API_VERSION": "2025-03-01-preview", "OPENAI_API_VERSION": "2024-10-21",
                },
                azure(api_key="k", api_version="2025-03-01-preview"),
            ),
            ({"AZURE_API_BASE": EAST, "AZURE_AD_TOKEN": "t"}, azure(ad_token="t")),
            ({"AZURE_API_BASE": EAST, "AZURE_OPENAI_AD_TOKEN": "t"}, azure(ad_token="t")),
            (
                {
                    "AZURE_API_BASE": EAST, "AZURE_TENANT_ID": "t",
                    "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s",
                },
                azure(tenant_id="t", client_id="c", client_secret="s"),
            ),
            (
                {"AZURE_API_BASE": EAST, "AZURE_API_KEY": "k", "AZURE_AD_TOKEN": "a b", "AZURE_CLIENT_SECRET": "s"},
                azure(api_key="k"),
            ),
        ],
    )  # fmt: skip
    def test_they_are_enough(self, environ: dict[str, str], made: Deployment) -> None:
        found = load_settings(None, environ)
        assert (found.deployments, found.default_provider, found.warnings) == ((made,), made.provider, ())

    @pytest.mark.parametrize(
        ("environ", "said"),
        [
            ({"OPENAI_API_KEY": "hunter2 hunter2"}, "OPENAI_* variables make no deployment: api_key: expected a key"),
            (
                {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "hunter2://"},
                "OPENAI_* variables make no deployment: api_base: expected an http:// or https:// URL",
            ),
            (
                {"OPENAI_API_KEY": "k", "OPENAI_ORGANIZATION": "hunter2 \n"},
                "OPENAI_* variables make no deployment: organization: expected",
            ),
            (
                {"OPENAI_BASE_URL": "http://h/v1"},
                "OPENAI_* variables make no deployment: the variable OPENAI_API_KEY is not set",
            ),
            (
                {"AZURE_API_BASE": EAST},
                "AZURE_* variables make no deployment: neither AZURE_API_KEY, AZURE_AD_TOKEN nor a tenant",
            ),
            (
                {"AZURE_API_BASE": EAST, "AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c"},
                "AZURE_* variables make no deployment: neither AZURE_API_KEY, AZURE_AD_TOKEN nor a tenant",
            ),
            (
                {"AZURE_API_BASE": EAST, "AZURE_CLIENT_SECRET": "hunter2"},
                "AZURE_* variables make no deployment: client_secret: needs tenant_id and client_id",
            ),
            (
                {"AZURE_API_KEY": "hunter2"},
                "AZURE_* variables make no deployment: the variable AZURE_API_BASE is not set",
            ),
            (
                {"AZURE_API_BASE": "hunter2", "AZURE_API_KEY": "hunter2"},
                "AZURE_* variables make no deployment: api_base: expected an http:// or https:// URL",
            ),
        ],
    )
    def test_those_that_make_no_deployment_are_one_warning(
        self, load: Load, environ: dict[str, str], said: str
    ) -> None:
        found = load(LOCAL, environ)
        assert found.deployments == ()
        assert [warning.startswith(f"the {said}") for warning in found.warnings] == [True]

    @pytest.mark.parametrize(
        "environ",
        [
            {name: "" for _, _, names in VARIABLES.values() for several in names.values() for name in several},
            {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "hunter2"},
            {"OPENAI_ORGANIZATION": "o", "OPENAI_API_VERSION": "x", "AZURE_CONFIG_DIR": "/"},
        ],
    )
    def test_those_of_other_programs_are_nothing(self, load: Load, environ: dict[str, str]) -> None:
        found = load(LOCAL, environ)
        assert (found.deployments, found.warnings) == ((), ())

    def test_if_nothing_else_is_configured_their_warnings_say_why(self, problems: Problems) -> None:
        why, because = problems("", {"AZURE_API_BASE": EAST})
        assert why.startswith("batchyard.default_provider: no provider is configured; set OPENAI_API_KEY")
        assert because.startswith("the AZURE_* variables make no deployment: neither AZURE_API_KEY")

    @pytest.mark.parametrize(
        ("base", "port"),
        [
            ("http://localhost:4000/v1", None),
            ("http://LOCALHOST:4000", None),
            ("http://127.0.0.1:4000/local/v1", "4000"),
            ("http://127.1.2.3:4001/v1", "4001"),
            ("http://[::1]:4000/v1", None),
            ("http://0.0.0.0:4000/v1", None),
            ("http://localhost/v1", "80"),
        ],
    )
    def test_this_very_server_is_no_deployment_of_its_own(
        self, load: Load, problems: Problems, base: str, port: str | None
    ) -> None:
        found = load(LOCAL, {"OPENAI_API_KEY": "hunter2", "OPENAI_BASE_URL": base}, port=port)
        assert found.deployments == ()
        assert found.warnings == (
            "the OPENAI_* variables make no deployment: api_base: is this very server, which would call itself",
        )
        (problem,) = problems(entry(custom_llm_provider="openai", api_base=base), port=port)
        assert problem.startswith("files_settings[0]: api_base: is this very server")

    def test_this_very_server_has_the_address_that_it_listens_on(self, load: Load) -> None:
        environ = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://batch.example:4000", "BATCHYARD_MASTER_KEY": "s"}
        environ["BATCHYARD_ALLOW_PLAINTEXT"] = "true"
        assert load(LOCAL, environ, host="batch.example").deployments == ()

    @pytest.mark.parametrize(
        ("base", "port"),
        [
            ("http://localhost:4001/v1", None),
            ("http://localhost:4000/v1", "4001"),
            ("http://localhost:4000/v1", "0"),
            ("http://gateway.example:4000/v1", None),
            ("https://localhost/v1", "80"),
        ],
    )
    def test_another_server_is_one(self, load: Load, base: str, port: str | None) -> None:
        found = load(LOCAL, {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": base}, port=port)
        assert [one.api_base for one in found.deployments] == [base]


class TestDefault:
    @pytest.mark.parametrize(
        ("name", "in_file", "others", "chosen"),
        [
            (None, ["local"], [], "local"),
            (None, ["azure"], ["azure", "openai"], "azure"),
            (None, [], ["azure"], "azure"),
            (None, [], ["azure", "openai"], "openai"),
            ("azure", ["local"], ["azure", "openai"], "azure"),
            ("b", ["a", "b"], [], "b"),
        ],
    )
    def test_it_is_the_one_named_or_the_only_one_of_the_file_or_of_the_variables(
        self, name: str | None, in_file: list[str], others: list[str], chosen: str
    ) -> None:
        assert choose_default(name, in_file, others) == chosen

    @pytest.mark.parametrize(
        ("name", "in_file", "others", "said"),
        [
            (None, [], [], "no provider is configured"),
            (None, ["a", "b"], ["openai"], "several providers are configured; name one of a, b"),
            ("azure", ["local"], ["openai"], "azure is not configured; configured: local, openai"),
        ],
    )
    def test_it_has_to_be_clear(self, name: str | None, in_file: list[str], others: list[str], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            choose_default(name, in_file, others)

    @pytest.mark.parametrize(("name", "chosen"), [(None, "groups"), ("groups", "groups"), ("b", "b")])
    def test_groups_come_before_others_that_are_not_named(self, name: str | None, chosen: str) -> None:
        assert choose_default(name, ["a", "b"], ["openai"], grouped=True) == chosen

    def test_of_several_in_the_environment_it_is_openai(self) -> None:
        environ = {"OPENAI_API_KEY": "k", "AZURE_API_BASE": EAST, "AZURE_API_KEY": "k"}
        found = load_settings(None, environ)
        assert (found.default_provider, len(found.deployments)) == ("openai", 2)

    def test_variables_add_to_a_file_and_leave_its_default(self, load: Load) -> None:
        found = load(LOCAL, {"OPENAI_API_KEY": "k"})
        assert (found.default_provider, found.deployments) == ("local", (openai(api_key="k"),))
        found = load(entry(custom_llm_provider="azure", api_base=EAST).replace(LOCAL, ""), {"OPENAI_API_KEY": "k"})
        assert (found.default_provider, len(found.deployments)) == ("azure", 2)

    def test_the_development_configuration_keeps_local(self) -> None:
        found = load_settings(DEVELOPMENT, {"OPENAI_API_KEY": "sk-x", "AZURE_API_KEY": "y", "AZURE_API_BASE": EAST})
        assert (found.default_provider, [one.name for one in found.deployments]) == ("local", ["openai", "azure"])

    def test_a_file_of_several_providers_must_name_one(self, problems: Problems) -> None:
        text = entry(custom_llm_provider="openai", api_key="k").replace(", default_provider: local", "")
        (problem,) = problems(text)
        assert problem.startswith("batchyard.default_provider: several providers are configured; name one of local,")


class TestReference:
    def test_every_key_of_an_entry_is_there_with_its_variables_in_their_order(self) -> None:
        rows = re.findall(r"^\| (`[a-z_`, ]+`) \|([^|]*)\|([^|]*)\|", REFERENCE.read_text(), re.MULTILINE)
        names = {OPENAI: 1, AZURE: 2}
        for provider, column in names.items():
            listed = [name for row in rows for name in re.findall(r"[A-Z_]+", row[column])]
            assert listed == [name for row in rows for key in re.findall(r"\w+", row[0]) for name in _of(provider, key)]
        assert {key for row in rows for key in re.findall(r"\w+", row[0])} | {"custom_llm_provider"} == READ


def _of(provider: str, key: str) -> tuple[str, ...]:
    return VARIABLES[provider].names.get(key, ())
