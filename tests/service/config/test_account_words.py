"""No entry is used whose address, account or identity is said in words that are not read."""

import re

import pytest
from tests.service.conftest import EAST, LOCAL, WEST, Load, Problems, azure, openai

from batchyard.cli import report
from batchyard.service.config.settings import Deployment

# An account of somebody else, which is where keys and data went.
THEIRS = {
    "OPENAI_API_KEY": "sk-hunter2",
    "AZURE_API_BASE": "https://theirs.openai.azure.com",
    "AZURE_API_KEY": "hunter2",
}
OURS = "https://ours.example/v1"


def model(params: str, beside: str = "", info: str = "", more: str = "") -> str:
    """A file with one entry of `model_list`, on its second line, and a provider beside it."""
    entry = f"model_name: g, litellm_params: {{{params}}}, model_info: {{{info}}}"
    return f"model_list:\n- {{{entry}{', ' if beside else ''}{beside}}}\n{more}{LOCAL}"


def files(entry: str, more: str = "") -> str:
    """A file with one entry of `files_settings`, on its second line, and a provider beside it."""
    return f"files_settings:\n- {{{entry}}}\n{more}{LOCAL}"


def credential(values: str, name: str = "shared") -> str:
    return f"credential_list:\n- {{credential_name: {name}, credential_values: {{{values}}}, credential_info: {{}}}}\n"


class TestSynonyms:
    @pytest.mark.parametrize(
        ("text", "made"),
        [
            (model(f"model: openai/m, api_key: k, base_url: '{OURS}'"), openai(api_base=OURS, api_key="k")),
            (
                files(f"custom_llm_provider: openai, api_key: k, base_url: '{OURS}/'"),
                openai(api_base=OURS, api_key="k"),
            ),
            (model(f"model: openai/m, api_base: '{OURS}', base_url: '{OURS}/'"), openai(api_base=OURS)),
            (model(f"model: azure/m, api_key: k, base_url: '{EAST}'"), azure(api_key="k")),
            (model(f"model: azure/m, api_key: k, azure_endpoint: '{EAST}'"), azure(api_key="k")),
            (files(f"custom_llm_provider: azure, azure_endpoint: '{EAST}/', api_key: k"), azure(api_key="k")),
            (model("model: openai/m, base_url: os.environ/BASE"), openai(api_base=OURS)),
            (
                model(f"model: azure/m, api_base: '{EAST}', client_id: c, azure_scope: https://x.us/.default"),
                azure(client_id="c", scope="https://x.us/.default"),
            ),
        ],
    )
    def test_say_the_address(self, load: Load, text: str, made: Deployment) -> None:
        assert load(text, {"BASE": OURS}).deployments == (made,)

    @pytest.mark.parametrize(
        "words",
        [
            f"base_url: '{OURS}', api_base: '{EAST}'",
            f"api_base: '{EAST}', azure_endpoint: '{WEST}'",
            f"base_url: '{OURS}', azure_endpoint: os.environ/BASE",
        ],
    )
    def test_that_differ_are_refused(self, problems: Problems, words: str) -> None:
        (problem,) = problems(model(f"model: azure/m, api_key: hunter2, {words}"), {"BASE": EAST})
        assert "differs from the other word for api_base; give one of them" in problem
        assert problem.endswith("(config.yaml line 2)")


class TestCredentials:
    @pytest.mark.parametrize("kind", ["azure", "Azure", "cohere", "[]"])
    def test_may_say_of_which_provider_they_are(self, load: Load, kind: str) -> None:
        """LiteLLM's UI writes it there."""
        text = credential(f"api_key: k, api_base: '{EAST}'").replace(
            "credential_info: {}", f"credential_info: {{description: x, custom_llm_provider: {kind}}}"
        )
        found = load(text + model("model: azure/m, litellm_credential_name: shared"), {})
        assert (found.deployments, found.warnings) == ((azure(api_key="k"),), ())

    def test_of_another_provider_are_refused(self, problems: Problems) -> None:
        text = credential("api_key: hunter2").replace("{}}", "{custom_llm_provider: Azure}}")
        (problem,) = problems(text + model("model: openai/m, litellm_credential_name: shared"), THEIRS)
        assert problem.startswith("model_list[0].litellm_params.litellm_credential_name: names a credential of azure")

    @pytest.mark.parametrize(
        ("text", "made"),
        [
            (model("model: azure/m, litellm_credential_name: shared"), azure(api_key="k")),
            (files("custom_llm_provider: azure, litellm_credential_name: shared"), azure(api_key="k")),
            (model("model: azure/m, api_key: own, litellm_credential_name: shared"), azure(api_key="own")),
            (
                model(f"model: azure/m, api_base: '{WEST}', litellm_credential_name: shared"),
                azure(api_base=WEST, api_key="k"),
            ),
            (
                model("model: m, custom_llm_provider: azure, litellm_credential_name: os.environ/NAME"),
                azure(api_key="k"),
            ),
        ],
    )
    def test_give_what_an_entry_does_not_say(self, load: Load, text: str, made: Deployment) -> None:
        environ = {"KEY": "k", "NAME": "shared"}
        found = load(credential(f"api_base: '{EAST}', api_key: os.environ/KEY") + text, environ)
        assert (found.deployments, found.warnings) == ((made,), ())

    def test_that_are_not_there_disable_a_model_and_refuse_the_place_of_uploads(
        self, load: Load, problems: Problems
    ) -> None:
        found = load(model("model: azure/m, litellm_credential_name: missing"), {})
        assert found.deployments == ()
        assert "litellm_credential_name names no entry of credential_list" in found.warnings[0]
        (problem,) = problems(
            credential("api_key: k", "mising") + files("custom_llm_provider: azure, litellm_credential_name: missing"),
        )
        assert problem.startswith(
            "files_settings[0].litellm_credential_name: names no entry of credential_list; did you"
        )

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ("api_bse: x", "credential_list[0].credential_values.api_bse: unknown key; did you mean api_base?"),
            (f"api_key: k, base_url: '{OURS}', api_base: '{EAST}'", "differs from the other word for api_base"),
        ],
    )
    def test_with_mistakes_are_refused_where_they_stand(self, problems: Problems, values: str, said: str) -> None:
        (problem,) = problems(credential(values) + model("model: azure/m, litellm_credential_name: shared"), THEIRS)
        assert said in problem
        assert problem.endswith("(config.yaml line 2)")

    @pytest.mark.parametrize(
        "text",
        [
            "credential_list: {}\n",
            "credential_list: [hunter2]\n",
            "credential_list: [{credential_name: a}]\n",
            "credential_list: [{credential_name: a, credential_values: {}, api_key: hunter2}]\n",
            credential("api_key: hunter2") + "- {credential_name: shared, credential_values: {}}\n",
        ],
    )
    def test_of_another_form_are_refused(self, problems: Problems, text: str) -> None:
        (problem,) = problems(text + LOCAL)
        assert problem.startswith("credential_list")


UNREAD = [
    "api_key: [a, hunter2]",
    "azure_username: u, azure_password: hunter2, client_id: c",
    "azure_ad_token: oidc/google/https://x",
    "azure_ad_token: os.environ/TOKEN",
    "azure_ad_token_provider: x",
    "azure_deployment: d",
    "api_key: oidc/hunter2",
    "api_type: azure",
    "region_name: eu",
    "vertex_project: p",
    "vertex_credentials: {a: b}",
    "aws_access_key_id: hunter2",
    "extra_headers: {x-team: hunter2}",
    "default_headers: {x: y}",
    "headers: {x: y}",
    "extra_body: {x: y}",
    "default_query: {x: y}",
    "configurable_clientside_auth_params: [api_base]",
    "use_litellm_proxy: true",
    "gateway: x",
    "endpoint: x",
    "organization: o",
    "sk-hunter2: ",
]


class TestUnread:
    @pytest.mark.parametrize("words", UNREAD[:-2])
    def test_words_disable_a_model(self, load: Load, words: str) -> None:
        text = model(f"model: azure/m, api_base: '{EAST}', {words}")
        found = load(text, THEIRS | {"TOKEN": "oidc/env/hunter2"})
        assert [one.api_base for one in found.deployments if one.provider == "azure"] == [THEIRS["AZURE_API_BASE"]]
        (warning,) = [line for line in found.warnings if "is disabled" in line]
        key = re.split(r"[ :]", words)[0]
        assert warning.startswith(f"model_list[0] is disabled: litellm_params.{key} ")
        assert warning.endswith("line 2)")
        assert f"warning: {warning}\n" in report.settings(found)

    @pytest.mark.parametrize("words", UNREAD[:-2])
    def test_words_refuse_the_place_of_uploads(self, problems: Problems, words: str) -> None:
        text = files(f"custom_llm_provider: azure, api_base: '{EAST}', {words}")
        found = problems(text, THEIRS | {"TOKEN": "oidc/env/hunter2"})
        assert found[0].startswith(f"files_settings[0].{re.split('[ :]', words)[0]}: ")
        assert found[0].endswith("(config.yaml line 2)")

    @pytest.mark.parametrize(
        "words",
        [
            "rpm: 1, tpm: 2, timeout: 3, stream_timeout: 4, max_retries: 5",
            "num_retries: 1",
            "tags: [a]",
            "temperature: 0, max_tokens: 5",
            "input_cost_per_token: 1",
            "drop_params: true",
            "metadata: {team: x}",
            "merge_reasoning_content_in_choices: true",
            "max_parallel_requests: 7",
            "output_cost_per_token_batches: 0.1",
            "mock_response: hi",
            "cooldown_time: 3",
        ],
    )
    def test_words_that_choose_no_account_stay_a_warning(self, load: Load, words: str) -> None:
        found = load(model(f"model: openai/m, api_key: k, {words}"))
        assert found.deployments == (openai(api_key="k"),)
        (warning,) = found.warnings
        assert warning.startswith("keys that are not used: ")

    @pytest.mark.parametrize("key", ["api_base", "azure_endpoint", "azure_username", "vertex_project", "gateway"])
    def test_a_key_without_a_value_is_not_there(self, load: Load, key: str) -> None:
        assert load(model(f"model: openai/m, api_key: k, {key}: ")).deployments == (openai(api_key="k"),)

    @pytest.mark.parametrize(
        ("words", "key"),
        [
            ("model: azure/m, organization: o", "organization"),
            ("model: azure/m, project: p", "project"),
            ("model: openai/m, api_key: k, azure_ad_token: hunter2", "azure_ad_token"),
            (f"model: openai/m, api_key: k, azure_endpoint: '{EAST}'", "azure_endpoint"),
            ("model: openai/m, api_key: k, tenant_id: t", "tenant_id"),
            (f"model: azure/m, api_base: '{EAST}', tenant_id: t, client_id: c", "tenant_id"),
        ],
    )
    def test_a_word_of_the_other_provider_is_refused(self, problems: Problems, words: str, key: str) -> None:
        (problem,) = problems(model(words), THEIRS)
        assert problem.startswith(f"model_list[0].litellm_params.{key}: ")
        assert problem.endswith("(config.yaml line 2)")

    def test_an_entry_of_another_provider_is_disabled_for_that_alone(self, load: Load) -> None:
        found = load(model("model: vertex_ai/m, vertex_project: p, api_bse: x"))
        (warning, _) = found.warnings
        assert "there is no provider 'vertex_ai'" in warning

    def test_a_token_of_the_variables_that_is_a_reference_makes_no_deployment(self, load: Load) -> None:
        found = load(LOCAL, {"AZURE_API_BASE": EAST, "AZURE_AD_TOKEN": "oidc/hunter2"})
        assert found.deployments == ()
        assert "azure_ad_token: is a reference (oidc/) that is not read" in found.warnings[0]


MISSPELLED = [
    "api_bse", "apibase", "API_BASE", "api-base", "Api Base", "apiBase", "api_bas", "api_basee", "ap_base", "baseurl",
    "base_ur", "Base-URL", "api_kye", "apikey", "API_KEY", "azure_endpont", "azure-endpoint", "organisation",
    "orgnization", "custom_llm_provder", "litellm_credential_nme", "tenantid", "client_secrt", "azure_ad_tokn",
    "\uff41pi_base",
]  # fmt: skip


class TestMisspelled:
    @pytest.mark.parametrize("key", MISSPELLED)
    def test_keys_are_refused(self, problems: Problems, key: str) -> None:
        for text, path in (
            (model(f"model: openai/m, api_key: k, '{key}': '{OURS}'"), "model_list[0].litellm_params"),
            (files(f"custom_llm_provider: openai, '{key}': '{OURS}'"), "files_settings[0]"),
        ):
            (problem,) = problems(text, THEIRS)
            assert re.match(rf"{re.escape(path)}\.\S+( \w+)?: unknown key; did you mean \w+\?", problem)
            assert problem.endswith("(config.yaml line 2)")

    @pytest.mark.parametrize("key", [*MISSPELLED, "api_base", "base_url", "api_key", "azure_endpoint", "organization"])
    def test_or_misplaced_keys_are_refused(self, problems: Problems, key: str) -> None:
        good, wrong = "model: openai/m, api_key: k", f"'{key}': '{OURS}'"
        for text in (
            model(good, beside=wrong),
            model(good, info=wrong),
            model(good, info=f"x: {{{wrong}}}"),
            model(f"{good}, metadata: {{{wrong}}}"),
            model(f"{good}, model_info: {{{wrong}}}"),
            model(f"{good}, x: {{y: [{{{wrong}}}]}}"),
            model(good, beside=f"litellm_parms: {{{wrong}}}"),
            files("custom_llm_provider: openai, model_info: {" + wrong + "}"),
            files("custom_llm_provider: openai, litellm_params: {" + wrong + "}"),
        ):
            found = problems(text, THEIRS)
            assert all("belongs " in problem for problem in found), found
            assert found[0].endswith("(config.yaml line 2)")

    @pytest.mark.parametrize("key", [*MISSPELLED, "api_base", "base_url", "azure_endpoint", "organization"])
    def test_or_keys_at_the_top_level_are_told_where_they_belong(self, problems: Problems, key: str) -> None:
        (problem,) = problems(f"'{key}': '{OURS}'\n" + model("model: openai/m, api_key: k"), THEIRS)
        assert "not at the top level: " in problem
        assert problem.endswith("(config.yaml line 1)")

    @pytest.mark.parametrize(
        "key", ["file_settings", "files_setting", "modellist", "model-list", "Model_List", "FILES-SETTINGS"]
    )
    def test_sections_are_refused(self, problems: Problems, key: str) -> None:
        (problem,) = problems(f"{key}: [{{custom_llm_provider: azure, api_base: '{EAST}'}}]\n{LOCAL}", THEIRS)
        assert problem.startswith(f"{key}: unknown section; did you mean ")


class TestElsewhere:
    @pytest.mark.parametrize(
        ("text", "subject"),
        [
            (f"litellm_settings: {{api_base: '{OURS}'}}", "litellm_settings.api_base"),
            ("litellm_settings: {openai_key: hunter2}", "litellm_settings.openai_key"),
            ("litellm_settings: {headers: {x: hunter2}}", "litellm_settings.headers"),
            ("litellm_settings: {organization: o}", "litellm_settings.organization"),
            ("litellm_settings: {api_bse: x}", "litellm_settings.api_bse"),
            (f"general_settings: {{api_base: '{OURS}'}}", "general_settings.api_base"),
            (
                f"router_settings: {{default_litellm_params: {{api_base: '{OURS}'}}}}",
                "router_settings.default_litellm_params.api_base",
            ),
            ("environment_variables: {OPENAI_API_KEY: hunter2}", "environment_variables.OPENAI_API_KEY"),
            (f"environment_variables: {{OPENAI_API_BASE: '{OURS}'}}", "environment_variables.OPENAI_API_BASE"),
            ("environment_variables: {AZURE_USERNAME: u}", "environment_variables.AZURE_USERNAME"),
            ("environment_variables: {MINE: hunter2}", "environment_variables.MINE"),
            ("include: [models.yaml]", "include"),
            ("litellm_settings: {use_litellm_proxy: true}", "litellm_settings.use_litellm_proxy"),
            (
                "router_settings: {default_litellm_params: {extra_headers: {x: hunter2}}}",
                "router_settings.default_litellm_params.extra_headers",
            ),
            (
                "router_settings: {default_litellm_params: {use_litellm_proxy: true, timeout: 3}}",
                "router_settings.default_litellm_params.use_litellm_proxy",
            ),
            (f"litellm_settings: {{files_settings: [{{api_base: '{OURS}'}}]}}", "litellm_settings.files_settings"),
            (f"router_settings: {{model_list: [{{api_base: '{OURS}'}}]}}", "router_settings.model_list"),
            ("general_settings: {credential_list: [{credential_name: hunter2}]}", "general_settings.credential_list"),
        ],
    )
    def test_what_would_choose_the_account_of_all_entries_is_refused(
        self, problems: Problems, text: str, subject: str
    ) -> None:
        (problem,) = problems(f"{text}\n" + model("model: openai/m, api_key: os.environ/MINE"), THEIRS | {"MINE": "k"})
        assert problem.startswith(f"{subject}: ")
        assert problem.endswith("(config.yaml line 1)")

    @pytest.mark.parametrize(
        "text",
        [
            "litellm_settings: {vertex_project: p, ssl_verify: false, use_litellm_proxy: false}",
            "router_settings: {default_litellm_params: {timeout: 3, vertex_project: p, gcs_bucket_name: x}}",
            "litellm_settings: {cache_params: {host: h, password: hunter2}, callbacks: [x], num_retries: 3}",
            "environment_variables: {LANGFUSE_PUBLIC_KEY: hunter2}",
            "router_settings: {redis_host: h, redis_password: hunter2, model_group_alias: {a: b}}",
            "guardrails: [{guardrail_name: x, litellm_params: {api_key: hunter2, api_base: 'http://x'}}]",
            "finetune_settings: [{custom_llm_provider: azure, api_key: hunter2}]",
            "general_settings: {alerting: [slack], proxy_batch_write_at: 5, key_management_system: x}",
        ],
    )
    def test_what_chooses_no_account_of_a_batch_stays_a_warning(self, load: Load, text: str) -> None:
        found = load(f"{text}\n{LOCAL}")
        (warning,) = found.warnings
        assert warning.startswith("keys that are not used: ")


class TestVariables:
    @pytest.mark.parametrize("name", ["OPENAI_API_BSE", "OPENAI_BASEURL", "OPENAI_BASE_URLS", "OPENAI_APIBASE"])
    def test_whose_address_is_misspelt_make_no_deployment(self, load: Load, name: str) -> None:
        environ = {"OPENAI_API_KEY": "hunter2", name: OURS}
        for text in (LOCAL, model("model: openai/m"), files("custom_llm_provider: openai")):
            found = load(text, environ)
            assert found.deployments == ()
            assert all(f"the variable {name} is not read; did you mean OPENAI_" in line for line in found.warnings)
        assert load(model("model: openai/m, api_key: k"), environ).deployments == (openai(api_key="k"),)

    @pytest.mark.parametrize("name", ["OPENAI_API_TYPE", "OPENAI_API_KEY_2", "OPENAI_LOG", "AZURE_OPENAI_API_KEYS"])
    def test_that_are_something_else_change_nothing(self, load: Load, name: str) -> None:
        assert load(LOCAL, {"OPENAI_API_KEY": "k", name: "x"}).deployments == (openai(api_key="k"),)

    def test_of_a_users_identity_make_no_deployment(self, load: Load) -> None:
        user = {"AZURE_USERNAME": "u", "AZURE_PASSWORD": "hunter2"}
        app = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "hunter2"}
        found = load(LOCAL, {"AZURE_API_BASE": EAST} | user | app)
        assert found.deployments == ()
        assert "AZURE_USERNAME and AZURE_PASSWORD choose an identity that is not read" in found.warnings[0]
        assert load(LOCAL, {"AZURE_API_BASE": EAST, "AZURE_API_KEY": "k"} | user).deployments == (azure(api_key="k"),)

    def test_of_a_scope_are_for_identities(self, load: Load) -> None:
        found = load(
            model(f"model: azure/m, api_base: '{EAST}', client_id: c"), {"AZURE_SCOPE": "https://x.us/.default"}
        )
        assert found.deployments == (azure(client_id="c", scope="https://x.us/.default"),)


@pytest.mark.parametrize("key", ["custom_llm_provder", "CUSTOM_LLM_PROVIDER", "custom-llm-provider"])
def test_an_entry_whose_provider_is_misspelt_is_refused(problems: Problems, key: str) -> None:
    for text in (files(f"{key}: azure, api_base: '{EAST}'"), model(f"model: mine, {key}: azure, api_base: '{EAST}'")):
        (problem,) = problems(text, THEIRS)
        assert "unknown key; did you mean custom_llm_provider?" in problem


@pytest.mark.parametrize("name", ["EAST-KEY", "EAST.KEY", "EAST"])
def test_a_value_that_is_one_reference_names_a_variable_as_litellm_takes_it(load: Load, name: str) -> None:
    """As of a key vault: a part of the name is not another variable."""
    text = model(f"model: openai/m, api_key: os.environ/{name}")
    others = {"EA": "hunter2", "EAST": "hunter2", "KEY": "hunter2"}
    assert load(text, others | {name: "k"}).deployments == (openai(api_key="k"),)
    del others["EAST"]
    found = load(text, others)
    assert found.deployments == ()
    assert f"the variable {name} is not set" in found.warnings[0]


def test_a_reference_within_a_value_ends_at_what_is_no_word(load: Load) -> None:
    text = model("model: openai/m, api_key: k, api_base: 'https://os.environ/HOST-east.example/v1'")
    assert load(text, {"HOST": "ours"}).deployments == (openai(api_key="k", api_base="https://ours-east.example/v1"),)


@pytest.mark.parametrize(
    "value",
    [
        "${KEY}",
        "$KEY",
        "{{ KEY }}",
        "os.environ.KEY",
        "OS.ENVIRON/KEY",
        "os.environ[KEY]",
        "environ/KEY",
        "os.getenv/KEY",
    ],
)
def test_a_key_that_is_meant_as_a_reference_is_not_sent(problems: Problems, value: str) -> None:
    (problem,) = problems(model(f"model: openai/m, api_key: '{value}'"), {"KEY": "hunter2"})
    assert problem.startswith("model_list[0].litellm_params: api_key: ")


@pytest.mark.parametrize(("name", "other"), [("azure", "openai"), ("openai", "azure")])
def test_two_providers_need_an_address(load: Load, problems: Problems, name: str, other: str) -> None:
    words = f"model: {name}/m, custom_llm_provider: {other}, api_key: hunter2"
    (problem,) = problems(model(words), THEIRS)
    assert problem.startswith("model_list[0].litellm_params.custom_llm_provider: differs from that of the model")
    found = load(model(f"{words}, api_base: '{OURS}'"))
    assert [one.provider for one in found.deployments] == [other]


def test_an_entry_with_several_organizations_is_disabled_and_the_place_of_uploads_refused(
    load: Load, problems: Problems
) -> None:
    """LiteLLM makes an entry of each."""
    found = load(model("model: openai/m, api_key: k, organization: [org-1, org-2]"), {})
    assert found.deployments == ()
    assert "litellm_params.organization is a list, which is not read; make an entry for each" in found.warnings[0]
    (problem,) = problems(files("custom_llm_provider: openai, api_key: hunter2, organization: [org-1]"))
    assert problem.startswith("files_settings[0].organization: is a list")
