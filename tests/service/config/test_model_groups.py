"""Model groups: what the entries of `model_list` come to where batches are balanced over them."""

import re
from typing import Any

import pytest
from tests.service.conftest import EAST, LOCAL, WEST, Load, Problems, azure

from batchyard.cli import report
from batchyard.service.config.loader import load_settings
from batchyard.service.config.settings import Group, GroupSettings, Member, Settings

ON = "litellm_settings: {enable_loadbalancing_on_batch_endpoints: true}\n"
OFF = ON.replace("true", "false")
AZURE = {"AZURE_API_KEY": "hunter2", "AZURE_API_BASE": EAST}
OPENAI = {"OPENAI_API_KEY": "hunter2"}
# The users' page, with its indentation.
PAGE = """\
model_list:
- model_name: "batch-gpt-4o-mini"
  litellm_params:
    model: "azure/gpt-4o-mini"
    api_key: os.environ/AZURE_API_KEY
    api_base: os.environ/AZURE_API_BASE
  model_info:
    mode: batch

litellm_settings:
  enable_loadbalancing_on_batch_endpoints: true # 👈 KEY CHANGE
"""


def models(*entries: str) -> str:
    """A file with entries of `model_list`, each on a line of its own, from the second on."""
    return "model_list:\n" + "".join(f"- {{{entry}}}\n" for entry in entries)


def at(base: str, model: str = "azure/m", params: str = "", info: str = "", name: str = "g") -> str:
    """An entry of a group at an Azure resource."""
    inside = f"model: {model}, api_base: {base}, api_key: hunter2"
    return f"model_name: {name}, litellm_params: {{{inside}, {params}}}, model_info: {{{_with_mode(info)}}}"


def openai(model: str = "openai/m", params: str = "", info: str = "", name: str = "g") -> str:
    """An entry of a group at OpenAI."""
    return f"model_name: {name}, litellm_params: {{model: {model}, {params}}}, model_info: {{{_with_mode(info)}}}"


def _with_mode(info: str) -> str:
    return info if "mode:" in info else f"mode: batch, {info}"


def members(found: Settings) -> list[Member]:
    return [member for group in found.model_groups for member in group.members]


def names(found: Settings) -> list[str]:
    return [member.name for member in members(found)]


def warnings(found: Settings) -> list[str]:
    """The warnings, without the folder of the test's file."""
    return [re.sub(r"\(/\S*/", "(", warning) for warning in found.warnings]


class TestGroups:
    def test_the_users_page_is_a_group_of_one(self, load: Load) -> None:
        found = load(PAGE, AZURE)
        member = Member(name="azure/gpt-4o-mini", deployment="azure", model="gpt-4o-mini", max_lines=100_000)
        assert found.model_groups == (Group("batch-gpt-4o-mini", (member,)),)
        assert (found.default_provider, found.warnings) == ("groups", ())
        assert found.deployments == (azure(api_key="hunter2"),)

    def test_the_users_page_as_it_is_printed_is_told_what_belongs_where(self, problems: Problems) -> None:
        printed = "\n".join(line.strip() for line in PAGE.splitlines())
        (problem,) = problems(printed, AZURE)
        assert "model_info belongs in an entry of model_list; mode belongs in model_info; " in problem
        assert "enable_loadbalancing_on_batch_endpoints belongs in litellm_settings" in problem
        assert problem.endswith("Did the file lose its indentation? (config.yaml line 3)")

    def test_entries_of_one_name_are_one_group_in_the_order_of_the_file(self, load: Load) -> None:
        text = models(at(EAST), openai(name="other"), at(WEST), openai("gpt-4o"))
        found = load(text + ON, OPENAI)
        assert [(group.name, [one.deployment for one in group.members]) for group in found.model_groups] == [
            ("g", ["azure", "azure-2", "openai"]),
            ("other", ["openai"]),
        ]
        assert [member.model for member in members(found)] == ["m", "m", "gpt-4o", "m"]

    def test_members_refer_to_the_deployment_that_is_kept(self, load: Load) -> None:
        text = (
            "files_settings: [{custom_llm_provider: azure, api_key: hunter2, "
            f"api_base: {EAST}, model_info: {{id: e}}}}]\n"
            + models(at(EAST + "/openai/v1", info="id: mine"), at(EAST, "azure/n"), openai(info="id: ours"))
        )
        found = load(text + ON, OPENAI)
        assert [one.name for one in found.deployments] == ["e", "openai"]
        assert [(one.name, one.deployment) for one in members(found)] == [
            ("mine", "e"),
            ("e/n", "e"),
            ("ours", "openai"),
        ]

    @pytest.mark.parametrize(
        ("entry", "model"),
        [
            (at(EAST, "azure/gpt"), "gpt"),
            (at(EAST, "os.environ/MODEL"), "from-variable"),
            (at(EAST, "azure/openai/gpt"), "openai/gpt"),
            (at(EAST, "openai/gpt", "custom_llm_provider: azure"), "openai/gpt"),
            (at(EAST, "azure/gpt", "custom_llm_provider: azure"), "gpt"),
            (openai("openai/meta/llama-3"), "meta/llama-3"),
            (openai("'ft:gpt-4o-mini:org::id'"), "ft:gpt-4o-mini:org::id"),
        ],
    )
    def test_a_member_s_model_is_what_its_deployment_calls_it(self, load: Load, entry: str, model: str) -> None:
        (member,) = members(load(models(entry) + ON, OPENAI | {"MODEL": "azure/from-variable"}))
        assert (member.model, member.name) == (model, f"{member.deployment}/{model}")

    @pytest.mark.parametrize("flag", [OFF, ON.replace("true", ""), ""])
    def test_without_the_flag_there_are_accounts_and_no_groups(self, load: Load, flag: str) -> None:
        text = models(at(EAST, params="weight: x", info="mode: "), at(EAST, info="mode: batch"))
        found = load(text + flag)
        assert (found.model_groups, found.default_provider) == ((), "azure")
        assert warnings(found) == [
            "keys that are not used: model_list[0].litellm_params.weight, model_list[0].model_info.mode, "
            "model_list[1].model_info.mode (config.yaml)"
        ]

    @pytest.mark.parametrize("flag", ["'true'", "os.environ/FLAG"])
    def test_the_flag_may_be_a_text(self, load: Load, flag: str) -> None:
        assert names(load(models(at(EAST)) + ON.replace("true", flag), {"FLAG": "true"})) == ["azure/m"]

    @pytest.mark.parametrize("flag", ["1", "maybe", "[true]", "''"])
    def test_another_flag_is_a_problem(self, problems: Problems, flag: str) -> None:
        (problem,) = problems(models(at(EAST)) + ON.replace("true", flag))
        start = "litellm_settings.enable_loadbalancing_on_batch_endpoints: expected true or false, got "
        assert problem.startswith(start)
        assert problem.endswith("(config.yaml line 3)")

    def test_a_shim_alone_has_none(self, load: Load, tmp_path: Any) -> None:
        load(PAGE, AZURE)
        found = load_settings(tmp_path / "config.yaml", {}, serves=False)
        assert (found.model_groups, found.warnings) == ((), ())


class TestTakingPart:
    def test_an_entry_of_another_mode_is_an_account_and_no_member(self, load: Load) -> None:
        found = load(models(at(EAST, info="mode: chat"), at(WEST, info="mode: batch")) + ON)
        assert [one.name for one in found.deployments] == ["azure", "azure-2"]
        assert names(found) == ["azure-2/m"]

    def test_a_disabled_entry_is_left_out(self, load: Load) -> None:
        text = models(at(EAST), openai("openai/m", "api_key: os.environ/K"), openai("anthropic/m"))
        found = load(text + ON)
        assert names(found) == ["azure/m"]
        assert warnings(found) == [
            "model_list[1] is disabled: the variable K is not set (config.yaml line 3)",
            "model_list[2] is disabled: there is no provider 'anthropic' (config.yaml line 4)",
        ]

    def test_a_member_that_misses_a_variable_is_left_out(self, load: Load) -> None:
        text = models(at(EAST, params="weight: os.environ/W", info="enqueued_tokens: os.environ/T"), at(WEST))
        found = load(text + ON, {"W": "2"})
        assert [one.name for one in found.deployments] == ["azure", "azure-2"]
        assert names(found) == ["azure-2/m"]
        assert warnings(found) == ["model_list[0] is in no group: the variable T is not set (config.yaml line 2)"]
        assert members(load(text + ON, {"W": "2", "T": "7"}))[0].enqueued_tokens == 7

    def test_a_group_of_disabled_entries_does_not_exist(self, load: Load) -> None:
        text = models(at(EAST), openai("anthropic/m", name="other"), openai("anthropic/n", name="other"))
        found = load(text + ON)
        assert [group.name for group in found.model_groups] == ["g"]
        assert warnings(found)[-1] == "there is no group 'other': all its entries are disabled (config.yaml line 3)"

    def test_a_flag_without_an_entry_is_warned_of(self, load: Load) -> None:
        text = models(at(EAST, info="mode: chat"))
        assert warnings(load(text + ON)) == [
            "litellm_settings.enable_loadbalancing_on_batch_endpoints: no entry of model_list is for batches, so there "
            "are no groups (config.yaml line 3)"
        ]

    def test_a_deployment_and_model_twice_in_a_group_is_a_problem(self, problems: Problems, load: Load) -> None:
        assert problems(models(at(EAST), at(WEST), at(EAST + "/")) + ON) == [
            "model_list[2]: is the deployment and the model of model_list[0] again (config.yaml line 4)"
        ]
        found = load(models(at(EAST), at(EAST, name="other")) + ON)
        assert [group.name for group in found.model_groups] == ["g", "other"]

    def test_entries_without_a_mode_are_members_and_one_warning_names_them(self, load: Load) -> None:
        found = load(
            models(at(EAST, info="mode: "), at(WEST), openai(info="mode:"), at(WEST, info="mode: chat")) + ON, OPENAI
        )
        assert names(found) == ["azure/m", "azure-2/m", "openai/m"]
        assert warnings(found) == [
            "model_list[0], model_list[2]: no model_info.mode is given, so batches of the group go there, though "
            "LiteLLM takes it for chat; say mode: batch, or mode: chat to keep it out (config.yaml line 2)"
        ]

    @pytest.mark.parametrize(
        "entry",
        [
            openai("openai/*", name="openai/*"),
            openai("openai/*", name="'*'"),
            openai("openai/gpt-*", name="g"),
            openai("openai/gpt-4o", name="gpt-*"),
            at(EAST, "azure/*", name="azure/*"),
            openai("os.environ/MODEL", name="any"),
        ],
    )
    def test_a_wildcard_is_an_account_and_no_group(self, load: Load, entry: str) -> None:
        found = load(models(entry, at(WEST, name="other")) + ON, OPENAI | {"MODEL": "openai/*"})
        assert {one.provider for one in found.deployments} == {"azure", "openai"}
        assert [group.name for group in found.model_groups] == ["other"]
        (warning,) = warnings(found)
        assert warning.startswith("model_list[0] is in no group: a name with * stands for many models")
        assert warning.endswith("(config.yaml line 2)")


class TestNames:
    def test_a_generated_name_that_is_taken_gets_a_number(self, load: Load) -> None:
        text = models(at(EAST), at(EAST, name="other"), at(EAST, name="third"), at(EAST, "azure/m-2"))
        assert names(load(text + ON)) == ["azure/m", "azure/m-2", "azure/m-3", "azure/m-4"]

    def test_an_id_names_the_member_and_the_deployment_where_it_is_the_first(self, load: Load) -> None:
        found = load(models(at(EAST, info="id: one"), at(EAST, "azure/n", info="id: two")) + ON)
        assert [one.name for one in found.deployments] == ["one"]
        assert [(one.name, one.deployment) for one in members(found)] == [("one", "one"), ("two", "one")]

    @pytest.mark.parametrize("name", ["''", "1", "-x", "a/b", "'a b'", "é", "x" * 65, "[a]"])
    def test_an_id_that_is_no_name_is_a_problem(self, problems: Problems, name: str) -> None:
        (problem,) = problems(models(at(EAST), at(EAST, "azure/n", info=f"id: {name}")) + ON)
        assert problem.startswith("model_list[1].model_info.id: expected a name of up to 64 letters")
        assert problem.endswith("(config.yaml line 3)")

    def test_an_id_of_two_members_is_a_problem(self, problems: Problems) -> None:
        text = models(at(EAST, info="id: one"), at(EAST, "azure/n", info="id: one", name="other"))
        assert problems(text + ON) == [
            "model_list[1].model_info.id: is that of model_list[0] already (config.yaml line 3)"
        ]


class TestNumbers:
    def test_an_entry_without_them_has_its_provider_s(self, load: Load) -> None:
        at_azure, at_openai = members(load(models(at(EAST), openai()) + ON, OPENAI))
        assert (at_azure.order, at_azure.weight, at_azure.enqueued_tokens) == (1, 1.0, None)
        assert (at_azure.max_lines, at_azure.max_bytes) == (100_000, 209_715_200)
        assert (at_openai.max_lines, at_openai.max_bytes) == (50_000, 209_715_200)

    @pytest.mark.parametrize(
        ("params", "info"),
        [
            ("enqueued_tokens: 5, max_batch_lines: 6, max_batch_bytes: 7", ""),
            ("", "enqueued_tokens: 5, max_batch_lines: 6, max_batch_bytes: 7"),
            ("enqueued_tokens: 5", "max_batch_lines: 6, max_batch_bytes: '7'"),
            ("enqueued_tokens: 5, max_batch_lines: 6", "enqueued_tokens: '5', max_batch_bytes: 7, max_batch_lines:"),
        ],
    )
    def test_limits_stand_in_either_place(self, load: Load, params: str, info: str) -> None:
        (member,) = members(load(models(at(EAST, params=params, info=info)) + ON))
        assert (member.enqueued_tokens, member.max_lines, member.max_bytes) == (5, 6, 7)

    def test_limits_that_differ_are_a_problem(self, problems: Problems) -> None:
        text = models(at(EAST, params="max_batch_lines: 5", info="max_batch_lines: 6"))
        assert problems(text + ON) == [
            "model_list[0].model_info.max_batch_lines: differs from that of model_list[0].litellm_params "
            "(config.yaml line 2)"
        ]

    @pytest.mark.parametrize(
        ("params", "info", "said"),
        [
            ("weight: 0", "", "litellm_params.weight: expected a number from 0.001 to 1000000000000, got 0"),
            ("weight: -1", "", "litellm_params.weight: expected a number"),
            ("weight: .inf", "", "litellm_params.weight: expected a number"),
            ("weight: .nan", "", "litellm_params.weight: expected a number"),
            ("weight: true", "", "litellm_params.weight: expected a number"),
            ("order: -1", "", "litellm_params.order: expected an integer from 0 to 1000000, got -1"),
            ("order: 1.5", "", "litellm_params.order: expected an integer"),
            ("rpm: 0", "", "litellm_params.rpm: expected an integer from 1 to"),
            ("tpm: many", "", "litellm_params.tpm: expected an integer from 1 to"),
            ("max_batch_lines: 0", "", "litellm_params.max_batch_lines: expected an integer"),
            ("", "enqueued_tokens: 0", "model_info.enqueued_tokens: expected an integer"),
            ("", "max_batch_bytes: {}", "model_info.max_batch_bytes: expected an integer"),
            ("order: os.environ/SECRET", "", "litellm_params.order: expected an integer from 0 to 1000000 ("),
        ],
    )
    def test_a_wrong_one_is_a_problem_with_its_place(
        self, problems: Problems, params: str, info: str, said: str
    ) -> None:
        (problem,) = problems(models(at(EAST, params=params, info=info)) + ON, {"SECRET": "hunter2"})
        assert problem.startswith(f"model_list[0].{said}")
        assert problem.endswith("(config.yaml line 2)")

    def test_a_model_without_a_name_and_a_mode_is_in_no_group(self, load: Load) -> None:
        found = load(models(at(EAST, "azure/"), at(WEST)).replace("mode: batch, ", "", 1) + ON)
        assert [member.deployment for member in found.model_groups[0].members] == ["azure-2"]
        assert "model_list[0] is in no group: its model is a provider's name alone" in found.warnings[0]

    def test_a_model_without_a_name_is_a_problem(self, problems: Problems) -> None:
        (problem,) = problems(models(at(EAST, "azure/")) + ON)
        assert problem.startswith("model_list[0].litellm_params.model: expected a model's name after the provider's")

    @pytest.mark.parametrize(
        ("first", "second", "weights"),
        [
            ("", "", [1, 1]),
            ("weight: 3", "", [3, 1]),
            ("rpm: 30", "rpm: 10", [30, 10]),
            ("tpm: 30", "tpm: 10", [30, 10]),
            ("rpm: 30, tpm: 1", "rpm: 10, tpm: 1", [30, 10]),
            ("rpm: 30, tpm: 5", "tpm: 6", [5, 6]),
            ("rpm: 30", "tpm: 6", [1, 1]),
            ("rpm: 30, weight: 0.5", "rpm: 10", [0.5, 1]),
        ],
    )
    def test_the_weight_is_what_litellm_picks_by(
        self, load: Load, first: str, second: str, weights: list[float]
    ) -> None:
        found = load(models(at(EAST, params=first), at(WEST, params=second), openai("anthropic/m")) + ON)
        assert [one.weight for one in members(found)] == weights

    def test_check_config_shows_what_a_member_came_to(self, load: Load) -> None:
        found = load(models(at(EAST, params="order: 2, weight: 1.5")) + ON)
        assert "group g: azure/m (m at azure), order 2, weight 1.5\n" in report.settings(found)


class TestUnusedKeys:
    ALL = "weight: 1, order: 1, rpm: 1, tpm: 1, enqueued_tokens: 1, max_batch_lines: 1, max_batch_bytes: 1"
    INFO = "id: a, mode: batch, base_model: azure/x, enqueued_tokens: 1, max_batch_lines: 1, max_batch_bytes: 1"

    def test_what_a_member_is_made_of_is_used(self, load: Load) -> None:
        assert warnings(load(models(at(EAST, params=self.ALL, info=self.INFO)) + ON)) == []

    def test_what_it_is_not_made_of_is_named(self, load: Load) -> None:
        text = models(at(EAST, params="timeout: 1, mode: batch", info="weight: 2, x: y"))
        assert warnings(load(text + ON)) == [
            "keys that are not used: model_list[0].litellm_params.timeout, model_list[0].litellm_params.mode, "
            "model_list[0].model_info.weight, model_list[0].model_info.x (config.yaml)"
        ]

    def test_of_an_entry_of_another_mode_only_the_mode_is_used(self, load: Load) -> None:
        text = models(at(EAST), at(WEST, params="weight: wrong", info="mode: chat, base_model: m, enqueued_tokens: 1"))
        assert warnings(load(text + ON)) == [
            "keys that are not used: model_list[1].litellm_params.weight, model_list[1].model_info.base_model, "
            "model_list[1].model_info.enqueued_tokens (config.yaml)"
        ]


class TestDefault:
    @pytest.mark.parametrize(
        ("beside", "environ", "default"),
        [
            ("", {}, "groups"),
            ("", AZURE | OPENAI, "groups"),
            ("batchyard: {local: {echo: true}}\n", {}, "groups"),
            ("files_settings: [{custom_llm_provider: openai}]\nbatchyard: {local: {echo: true}}\n", OPENAI, "groups"),
            ("batchyard: {default_provider: groups}\n", {}, "groups"),
            ("batchyard: {default_provider: azure}\n", {}, "azure"),
            (LOCAL, {}, "local"),
        ],
    )
    def test_groups_are_the_default_where_no_other_is_named(
        self, load: Load, beside: str, environ: dict[str, str], default: str
    ) -> None:
        assert load(models(at(WEST)) + ON + beside, environ).default_provider == default

    def test_without_groups_they_are_no_default(self, problems: Problems) -> None:
        named = "batchyard: {default_provider: groups, local: {echo: true}}\n"
        (problem,) = problems(named)
        assert problem.startswith("batchyard.default_provider: groups is not configured; configured: local ")
        assert problems(models(openai("anthropic/m")) + ON + named)[1:] == [
            "model_list[0] is disabled: there is no provider 'anthropic' (config.yaml line 2)",
            "there is no group 'g': all its entries are disabled (config.yaml line 2)",
        ]

    def test_no_provider_at_all_says_why(self, problems: Problems) -> None:
        first, *others = problems(models(openai("openai/m", "api_key: os.environ/K")) + ON)
        assert first.startswith("batchyard.default_provider: no provider is configured")
        assert others == [
            "model_list[0] is disabled: the variable K is not set (config.yaml line 2)",
            "there is no group 'g': all its entries are disabled (config.yaml line 2)",
        ]


class TestSection:
    def test_it_is_read_like_other_sections(self, load: Load) -> None:
        text = f"batchyard: {{local: {{echo: true}}, groups: {{max_batch_lines: 5}}}}\n{ON}"
        found = load(text, {"BATCHYARD_GROUPS__PROBE_SECONDS": "0.5"})
        assert found.groups == GroupSettings(max_batch_lines=5, probe_seconds=0.5)

    @pytest.mark.parametrize("value", ["max_transfers: 257", "max_transfers: 0", "backoff_seconds: 0", "probe: 1"])
    def test_a_wrong_value_or_key_is_a_problem(self, problems: Problems, value: str) -> None:
        (problem,) = problems(f"batchyard: {{local: {{echo: true}}, groups: {{{value}}}}}\n")
        assert problem.startswith(f"batchyard.groups.{value.partition(':')[0]}: ")
