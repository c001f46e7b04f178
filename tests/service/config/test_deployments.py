"""Deployments of other providers: what a file and the variables of OpenAI and Azure come to."""

import re

import pytest
from tests.service.conftest import EAST, LAST_DATED, LOCAL, WEST, Load, Problems, azure, entry, openai

from batchyard.service.config.loader import load_settings
from batchyard.service.config.names import RESERVED
from batchyard.service.config.settings import Deployment, Settings


def warnings(found: Settings) -> list[str]:
    """The warnings, without the folder of the test's file."""
    return [re.sub(r"\(/\S*/", "(", warning) for warning in found.warnings]


def model(model: str, **params: str) -> str:
    """A file with one entry of `model_list`, and a provider beside it."""
    inside = ", ".join(f"{key}: {value!r}" for key, value in {"model": model, **params}.items())
    return f"model_list: [{{model_name: m, litellm_params: {{{inside}}}}}]\n{LOCAL}"


class TestEntries:
    def test_files_settings_as_litellm_has_them(self, load: Load) -> None:
        text = (
            "files_settings:\n"
            f"- {{custom_llm_provider: azure, api_base: {EAST}, api_key: os.environ/KEY, api_version: 2024-10-21}}\n"
            "- {custom_llm_provider: openai, api_key: sk-hunter2, organization: org-1, project: proj_1}\n"
        )
        found = load(text + "batchyard: {default_provider: azure}", {"KEY": "hunter2"})
        assert found.deployments == (
            azure(api_key="hunter2", api_version="2024-10-21"),
            openai(api_key="sk-hunter2", organization="org-1", project="proj_1"),
        )
        assert (found.default_provider, found.warnings) == ("azure", ())

    @pytest.mark.parametrize(
        ("text", "made"),
        [
            (model("openai/gpt-4o-mini", api_key="k"), openai(api_key="k")),
            (model("gpt-4o-mini", api_key="k"), openai(api_key="k")),
            (model("ft:gpt-4o-mini:org::id", api_key="k"), openai(api_key="k")),
            (model("m", api_key="k", custom_llm_provider="openai"), openai(api_key="k")),
            (model("m", api_key="k", custom_llm_provider="os.environ/PROVIDER"), openai(api_key="k")),
            (model("os.environ/MODEL", api_key="k"), openai(api_key="k")),
            (model("openai/m", api_base="http://127.0.0.1:8000/v1/"), openai(api_base="http://127.0.0.1:8000/v1")),
            (model("azure/my-deployment", api_key="k", api_base=EAST), azure(api_key="k")),
            (model("azure/gpt", azure_ad_token="t", api_base=EAST), azure(ad_token="t")),
            (
                model("azure/gpt", tenant_id="t", client_id="c", client_secret="s", api_base=EAST),
                azure(tenant_id="t", client_id="c", client_secret="s"),
            ),
            (model("azure/gpt", client_id="c", api_base=EAST), azure(client_id="c")),
            (model("azure/gpt", api_base=EAST), azure()),
        ],
    )
    def test_an_entry_of_model_list_is_an_account_too(self, load: Load, text: str, made: Deployment) -> None:
        assert load(text, {"MODEL": "openai/gpt-4o", "PROVIDER": "openai"}).deployments == (made,)

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            (
                "files_settings: [{custom_llm_provider: openai, api_key: k, model: m, rpm: 1, model_info: {a: b}}]\n",
                "files_settings[0].model, files_settings[0].rpm, files_settings[0].model_info.a",
            ),
            (
                "model_list: [{model_name: m, litellm_params: {model: openai/m, api_key: k, rpm: 1}, note: x}]\n",
                "model_list[0].litellm_params.rpm, model_list[0].note",
            ),
        ],
    )
    def test_keys_that_make_no_deployment_are_named_in_one_warning(self, load: Load, text: str, names: str) -> None:
        assert warnings(load(text + LOCAL)) == [f"keys that are not used: {names} (config.yaml)"]

    def test_an_entry_that_misses_variables_is_disabled_with_one_warning(self, load: Load) -> None:
        text = (
            "files_settings:\n- {custom_llm_provider: openai, api_key: os.environ/K, organization: os.environ/O}\n"
            "model_list:\n- {model_name: m, litellm_params: {model: azure/m, api_base: os.environ/BASE}}\n"
        )
        assert warnings(load(text + LOCAL, {"K": ""})) == [
            "files_settings[0] is disabled: the variable K is not set, the variable O is not set (config.yaml line 2)",
            "model_list[0] is disabled: the variable BASE is not set (config.yaml line 4)",
        ]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (entry(custom_llm_provider="azur"), "there is no provider 'azur'; did you mean azure?"),
            (model("anthropic/claude", api_key="hunter2"), "there is no provider 'anthropic'"),
            (model("claude", api_key="hunter2"), "it names no provider; expected one of openai, azure"),
            (model("os.environ/MODEL"), "the variable MODEL is not set"),
            (entry(api_key="hunter2"), "it names no provider; expected one of openai, azure"),
            ("files_settings: [{custom_llm_provider: {a: hunter2}}]\n" + LOCAL, "it names no provider"),
        ],
    )
    def test_an_entry_of_no_provider_that_is_here_is_disabled_with_one_warning(
        self, load: Load, text: str, said: str
    ) -> None:
        (warning,) = warnings(load(text))
        assert f" is disabled: {said}" in warning

    @pytest.mark.parametrize(
        ("members", "made"),
        [
            (
                {"custom_llm_provider": "openai", "organization": "org"},
                openai(api_key="k", api_base="http://127.0.0.1:8000/v1", organization="org"),
            ),
            ({"custom_llm_provider": "azure"}, azure(api_key="a")),
            ({"custom_llm_provider": "azure", "azure_ad_token": "t"}, azure(ad_token="t")),
        ],
    )
    def test_an_entry_without_an_account_means_that_of_the_variables(
        self, load: Load, members: dict[str, str], made: Deployment
    ) -> None:
        environ = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}
        environ |= {"AZURE_API_BASE": EAST, "AZURE_API_KEY": "a"}
        assert load(entry(**members), environ).deployments[0] == made

    def test_a_key_of_the_variables_goes_to_no_address_of_the_file(self, load: Load) -> None:
        environ = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://other.example/v1"}
        found = load(entry(custom_llm_provider="openai", api_base="http://mine.example/v1"), environ)
        assert found.deployments[0] == openai(api_base="http://mine.example/v1")
        found = load(entry(custom_llm_provider="openai", api_key="mine"), environ)
        assert found.deployments[0] == openai(api_key="mine")

    @pytest.mark.parametrize(("provider", "name"), [("openai", "OPENAI_API_KEY"), ("azure", "AZURE_API_BASE")])
    def test_an_entry_without_an_account_is_disabled_where_there_are_no_variables(
        self, load: Load, provider: str, name: str
    ) -> None:
        assert warnings(load(entry(custom_llm_provider=provider))) == [
            f"files_settings[0] is disabled: the variable {name} is not set (config.yaml line 1)"
        ]

    @pytest.mark.parametrize(
        ("members", "said"),
        [
            ({"api_base": "ftp://hunter2"}, "api_base: expected an http:// or https:// URL"),
            ({"api_base": "https://u:hunter2@h"}, "api_base: expected an http:// or https:// URL"),
            ({"api_base": EAST + "?api-key=hunter2"}, "api_base: expected an http:// or https:// URL"),
            ({"api_base": EAST, "api_key": "hunter2 "}, "api_key: expected a key of visible ASCII"),
            ({"api_base": EAST, "azure_ad_token": "hunter2 x"}, "azure_ad_token: expected a key"),
            ({"api_base": EAST, "api_version": "hunter 2"}, "api_version: expected"),
            ({"api_base": EAST, "client_secret": "hunter2"}, "client_secret: needs tenant_id and client_id"),
        ],
    )
    def test_a_wrong_value_is_a_problem_with_its_place(
        self, problems: Problems, members: dict[str, str], said: str
    ) -> None:
        (problem,) = problems(entry(custom_llm_provider="azure", **members))
        assert problem.startswith(f"files_settings[0]: {said}")
        assert problem.endswith("(config.yaml line 1)")

    def test_a_secret_that_is_no_text_is_a_problem(self, problems: Problems) -> None:
        (problem,) = problems("files_settings: [{custom_llm_provider: openai, api_key: {a: hunter2}}]\n" + LOCAL)
        assert problem.startswith("files_settings[0]: api_key: expected a text")

    def test_a_shim_alone_has_none_and_warns_of_none(self) -> None:
        found = load_settings(None, {"OPENAI_API_KEY": "k", "AZURE_API_BASE": "nonsense"}, serves=False)
        assert (found.deployments, found.warnings) == ((), ())


class TestAzure:
    @pytest.mark.parametrize(
        ("given", "base", "version"),
        [
            (EAST, EAST, LAST_DATED),
            (EAST + "/", EAST, LAST_DATED),
            (EAST + "/openai", EAST, LAST_DATED),
            (EAST + "/openai/", EAST, LAST_DATED),
            (EAST + "/openai/v1", EAST, "v1"),
            (EAST + "/openai/v1/", EAST, "v1"),
            (EAST + "/openai/deployments/gpt-4o-mini", EAST, LAST_DATED),
            (EAST + "/openai/deployments/v1/chat/completions", EAST, LAST_DATED),
            ("https://gateway.example/team/openai/v1", "https://gateway.example/team", "v1"),
            ("https://gateway.example/openai/east", "https://gateway.example/openai/east", LAST_DATED),
            ("https://gateway.example/openai/east/openai", "https://gateway.example/openai/east", LAST_DATED),
            ("https://gateway.example/openai/v1x/openai/v1", "https://gateway.example/openai/v1x", "v1"),
            ("https://gateway.example/openai/openai", "https://gateway.example/openai", LAST_DATED),
            (EAST + "/openai/batches", EAST, LAST_DATED),
            ("https://gateway.example/openai-east", "https://gateway.example/openai-east", LAST_DATED),
            ("https://gateway.example/openai-east/openai", "https://gateway.example/openai-east", LAST_DATED),
        ],
    )
    def test_the_resource_is_what_is_before_openai(self, load: Load, given: str, base: str, version: str) -> None:
        found = load(entry(custom_llm_provider="azure", api_base=given, api_key="k"))
        assert found.deployments == (azure(api_base=base, api_key="k", api_version=version),)

    @pytest.mark.parametrize(
        ("given", "version"),
        [("v1", "v1"), ("latest", "v1"), ("preview", "v1"), ("2024-10-21", "2024-10-21")],
    )
    def test_litellms_words_for_a_version_ask_for_the_newer_urls(self, load: Load, given: str, version: str) -> None:
        (found,) = load(entry(custom_llm_provider="azure", api_base=EAST, api_key="k", api_version=given)).deployments
        assert found.api_version == version

    def test_a_url_of_the_newer_family_wins_over_a_version(self, load: Load) -> None:
        text = entry(custom_llm_provider="azure", api_base=EAST + "/openai/v1", api_key="k", api_version="2024-10-21")
        assert load(text).deployments == (azure(api_key="k", api_version="v1"),)


class TestSeveral:
    BOTH = (
        "files_settings:\n"
        f"- {{custom_llm_provider: azure, api_base: {EAST}, api_key: e}}\n"
        f"- {{custom_llm_provider: azure, api_base: {WEST}, api_key: w}}\n"
    )

    def test_names_count_within_a_provider(self, load: Load) -> None:
        found = load(self.BOTH, {"OPENAI_API_KEY": "k"})
        assert [one.name for one in found.deployments] == ["azure", "azure-2", "openai"]

    def test_model_info_names_one_and_a_name_that_is_taken_is_passed_over(self, load: Load) -> None:
        text = (
            "model_list:\n"
            f"- {{model_name: a, litellm_params: {{model: azure/a, api_base: {EAST}}}, model_info: {{id: azure-2}}}}\n"
            f"- {{model_name: b, litellm_params: {{model: azure/b, api_base: {WEST}}}}}\n"
            "- {model_name: c, litellm_params: {model: openai/c, api_key: k}, model_info: {id: openai}}\n"
        )
        found = load(text + LOCAL)
        assert [one.name for one in found.deployments] == ["azure-2", "azure-3", "openai"]

    @pytest.mark.parametrize(
        "name",
        ["''", "1", "-x", "a/b", "'a b'", "é", "x" * 65, "[a]", "azure-2", "openai", *sorted(RESERVED)],
    )
    def test_a_name_that_could_not_be_called_is_a_problem(self, problems: Problems, name: str) -> None:
        text = (
            "files_settings:\n"
            f"- {{custom_llm_provider: azure, api_base: {EAST}, api_key: k, model_info: {{id: azure-2}}}}\n"
            f"- {{custom_llm_provider: azure, api_base: {WEST}, api_key: k, model_info: {{id: {name}}}}}\n"
        )
        (problem,) = problems(text + LOCAL)
        assert problem.startswith("files_settings[1]: model_info.id: expected a name that nothing else has")

    def test_an_account_found_twice_is_one_whatever_its_version(self, load: Load) -> None:
        text = (
            f"files_settings: [{{custom_llm_provider: azure, api_base: {EAST}, api_key: k, api_version: 2024-10-21}}]\n"
            "model_list:\n"
            f"- {{model_name: a, litellm_params: {{model: azure/a, api_base: {EAST}/, api_key: k}}}}\n"
            f"- {{model_name: b, litellm_params: {{model: azure/b, api_base: {EAST}/openai/v1, api_key: k}}}}\n"
            "- {model_name: c, litellm_params: {model: openai/c, api_key: os.environ/OPENAI_API_KEY}}\n"
        )
        environ = {"AZURE_API_BASE": EAST, "AZURE_API_KEY": "k", "AZURE_TENANT_ID": "t", "OPENAI_API_KEY": "o"}
        assert load(text + LOCAL, environ).deployments == (
            azure(api_key="k", api_version="2024-10-21"),
            openai(api_key="o"),
        )

    def test_another_key_is_another_account(self, load: Load) -> None:
        text = entry(custom_llm_provider="openai", api_key="mine")
        found = load(text, {"OPENAI_API_KEY": "theirs"})
        assert found.deployments == (openai(api_key="mine"), openai("openai-2", api_key="theirs"))

    def test_the_file_s_uploads_come_before_variables_before_models(self, load: Load) -> None:
        text = (
            f"files_settings: [{{custom_llm_provider: azure, api_base: {EAST}, api_key: k}}]\n"
            f"model_list: [{{model_name: a, litellm_params: {{model: azure/a, api_base: {WEST}, api_key: k}}}}]\n"
        )
        found = load(text, {"AZURE_API_BASE": "https://north.example", "AZURE_API_KEY": "k"})
        assert [one.api_base for one in found.deployments] == [EAST, "https://north.example", WEST]
