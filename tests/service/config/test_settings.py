import dataclasses
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.processes import ROOT
from tests.service.conftest import Load, Problems

from batchyard.service.config.loader import load_settings
from batchyard.service.config.settings import Limits, LocalSettings, RetentionSettings, Settings, SettingsError
from batchyard.service.config.sources import SECTIONS, key_name, keys, variable
from batchyard.service.config.yaml_document import parse

ECHO = "batchyard: {local: {echo: true}}\n"
REFERENCE = ROOT / "docs" / "configuration.md"
DEVELOPMENT = ROOT / "service" / "batchyard" / "cli" / "development.yaml"


class TestPrecedence:
    def test_the_command_line_wins_over_a_variable_over_the_file_over_the_default(self, load: Load) -> None:
        text = "batchyard: {local: {echo: true}, host: 127.0.0.2, port: 2, grpc_port: 2, data_dir: two}"
        environ = {"BATCHYARD_PORT": "3", "BATCHYARD_GRPC_PORT": "3"}
        found = load(text, environ, port="4")
        assert (found.port, found.grpc_port, found.host, found.drain_seconds) == (4, 3, "127.0.0.2", 30.0)

    def test_two_underscores_go_one_level_down(self, load: Load) -> None:
        found = load(ECHO, {"BATCHYARD_LIMITS__MAX_FILE_BYTES": "5", "BATCHYARD_LOCAL__ECHO_DELAY_MS": "7"})
        assert found.limits == Limits(max_file_bytes=5)
        assert found.local == LocalSettings(echo=True, echo_delay_ms=7)

    def test_a_list_stands_in_the_file_or_with_commas_in_a_variable(self, load: Load, problems: Problems) -> None:
        in_file = load("batchyard: {local: {echo: true, models: [one, two]}}")
        assert in_file.local == LocalSettings(echo=True, models=("one", "two"))
        in_variable = load(ECHO, {"BATCHYARD_LOCAL__MODELS": "one, two"})
        assert in_variable.local == in_file.local
        for wrong in ("[]", "[1]", "{a: b}", "5", "'a,,b'"):
            (problem,) = problems(f"batchyard: {{local: {{echo: true, models: {wrong}}}}}")
            assert "expected a list of texts" in problem

    def test_the_environment_alone_is_enough(self) -> None:
        found = load_settings(None, {"BATCHYARD_LOCAL__API_BASE": "http://127.0.0.1:8000/v1"})
        assert found.local == LocalSettings(api_base="http://127.0.0.1:8000/v1")
        assert (found.default_provider, found.retention, found.warnings) == ("local", RetentionSettings(), ())

    @pytest.mark.parametrize(
        ("text", "environ", "key"),
        [
            (ECHO, {"LITELLM_MASTER_KEY": "last"}, "last"),
            (ECHO + "general_settings: {master_key: file}", {"LITELLM_MASTER_KEY": "last"}, "file"),
            (ECHO + "general_settings: {master_key: file}", {"BATCHYARD_MASTER_KEY": "first"}, "first"),
            (ECHO, {"BATCHYARD_MASTER_KEY": "", "LITELLM_MASTER_KEY": ""}, None),
        ],
    )
    def test_the_master_key_has_three_places(
        self, load: Load, text: str, environ: dict[str, str], key: str | None
    ) -> None:
        assert load(text, environ).master_key == key

    def test_an_unset_option_and_a_key_without_a_value_change_nothing(self, load: Load) -> None:
        assert load(ECHO + "router_settings:\n", {"BATCHYARD_PORT": ""}, port=None, host=None).port == 4000
        assert load("batchyard:\n  port:\n  limits:\n  local: {echo: true}").limits == Limits()


class TestProblems:
    def test_all_are_reported_together_with_their_places(self, problems: Problems) -> None:
        text = "batchyard:\n  local:\n    echo: true\n    max_concurrency: many\n  log_level: loud\n"
        assert problems(text, {"BATCHYARD_PORT": "99999"}, grpc_port="x") == [
            "batchyard.local.max_concurrency: expected an integer from 1 to 4096, got 'many' (config.yaml line 4)",
            "batchyard.log_level: expected one of debug, info, warning, error, got 'loud' (config.yaml line 5)",
            "batchyard.port: expected an integer from 0 to 65535, got '99999' (BATCHYARD_PORT)",
            "batchyard.grpc_port: expected an integer from 0 to 65535, got 'x' (--grpc-port)",
        ]

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("port", "1.5"),
            ("port", "true"),
            ("port", "[1]"),
            ("port", "-1"),
            ("port", "0x" + "f" * 6000),
            ("host", '"a\\nb"'),
            ("drain_seconds", ".inf"),
            ("drain_seconds", ".nan"),
            ("drain_seconds", "-0.1"),
            ("data_dir", "3"),
            ("data_dir", "''"),
            ("host", "' '"),
            ("log_format", "xml"),
            ("service_address", "host"),
            ("service_address", "host:0"),
            ("service_address", "http://host:1"),
            ("local", "{echo: maybe}"),
            ("local", "{echo: true, echo_delay_ms: 60001}"),
            ("local", "{echo: true, max_attempts: 0}"),
            ("local", "{echo: true, line_timeout_seconds: 0}"),
            ("local", "{echo: true, chunk_lines: 10001}"),
            ("limits", "{max_message_bytes: 1048576}"),
            ("limits", "3"),
        ],
    )
    def test_a_value_of_another_kind_or_range_is_refused(self, problems: Problems, key: str, value: str) -> None:
        found = problems(f"batchyard:\n  {key}: {value}\n")
        assert re.match(rf"batchyard\.{key}[.\w]*: expected .*\(config\.yaml line 2\)", found[0])

    def test_an_unknown_key_of_ours_names_the_near_one(self, problems: Problems) -> None:
        assert problems("batchyard:\n  hots: x\n  local:\n    ecko: true\n    echo: true") == [
            "batchyard.hots: unknown key; did you mean host? (config.yaml line 2)",
            "batchyard.local.ecko: unknown key; did you mean echo? (config.yaml line 4)",
        ]

    def test_an_unknown_variable_names_the_near_one(self, problems: Problems) -> None:
        assert problems(ECHO, {"BATCHYARD_POTR": "1", "BATCHYARD_TEST_TOOLS": "x"}) == [
            "BATCHYARD_POTR: unknown variable; did you mean BATCHYARD_PORT?"
        ]

    def test_a_master_key_in_our_block_says_where_it_belongs(self, problems: Problems) -> None:
        assert problems("batchyard: {master_key: sk-abc, local: {echo: true}}") == [
            "batchyard.master_key: unknown key; set general_settings.master_key instead (config.yaml line 1)"
        ]

    def test_a_missing_variable_of_a_used_key_is_named(self, problems: Problems, load: Load) -> None:
        text = "general_settings:\n  master_key: os.environ/NO_SUCH\n" + ECHO
        assert problems(text) == ["general_settings.master_key: the variable NO_SUCH is not set (config.yaml line 2)"]
        assert load(text, {"NO_SUCH": "sk-found"}).master_key == "sk-found"
        assert load(text, {"BATCHYARD_MASTER_KEY": "sk-other"}).master_key == "sk-other"

    def test_only_sqlite_is_a_database(self, problems: Problems, load: Load) -> None:
        (problem,) = problems(ECHO, {"BATCHYARD_DATABASE_URL": "postgresql://u:hunter2@h/d"})
        assert "sqlite:///PATH" in problem
        assert load(ECHO, {"BATCHYARD_DATABASE_URL": "sqlite:///x.db"}).database_url == "sqlite:///x.db"

    @pytest.mark.parametrize(
        ("text", "environ"),
        [
            ("general_settings: {master_key: hunter2 hunter2}\n" + ECHO, {}),
            ("general_settings: {master_key: [hunter2]}\n" + ECHO, {}),
            ("batchyard: {local: {api_base: 'http://u:hunter2@h/v1'}}", {}),
            ("batchyard: {local: {api_base: 'http://h/v1?key=hunter2'}}", {}),
            ("batchyard: {local: {api_base: 'http://h', api_key: 'hunter2 '}}", {}),
            ("batchyard: {port: os.environ/SECRET, local: {echo: true}}", {"SECRET": "hunter2"}),
            ("batchyard: {local: {api_key: *hunter2}}", {}),
            ("batchyard: {local: {api_key: &hunter2 x, api_key: !hunter2 y}}", {}),
            ("batchyard: {local: {api_key: 'hunter2}}", {}),
            ("general_settings: {master_key: %hunter2}", {}),
        ],
    )
    def test_no_problem_shows_a_secret(self, problems: Problems, text: str, environ: dict[str, str]) -> None:
        assert "hunter2" not in "".join(problems(text, environ))

    def test_settings_do_not_show_their_secrets(self, load: Load) -> None:
        environ = {"BATCHYARD_LOCAL__API_KEY": "hunter2", "BATCHYARD_DATABASE_URL": "sqlite:///hunter2"}
        text = "general_settings: {master_key: hunter2}\nbatchyard: {local: {api_base: 'http://h'}}"
        found = load(text, environ)
        assert found.master_key == "hunter2"
        assert "hunter2" not in repr(found)


class TestYaml:
    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("a: 'b\n", "line 2, column 1"),
            ("a:\n\tb: 1\n", "line 2, column 1"),
            ("a: b: c\n", "line 1, column 5"),
            ("a: [1\nb: 2\n", "line 2, column 2"),
            ("a: 1\n---\nb: 2\n", "line 2, column 1"),
        ],
    )
    def test_a_syntax_error_has_line_and_column(self, problems: Problems, text: str, place: str) -> None:
        (problem,) = problems(text)
        assert problem.startswith("not valid YAML: ")
        assert problem.endswith(f"(config.yaml {place})")

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"\xff\xfe", "isn't UTF-8, at byte 0"),
            (b"a: \x00", "holds a character that YAML doesn't allow"),
            (b"- a\n", "expected keys with values at the top level"),
            (b"[" * 3000, "is nested too deeply"),
        ],
    )
    def test_what_is_no_mapping_of_text_is_refused(self, tmp_path: Path, content: bytes, said: str) -> None:
        path = tmp_path / "c.yaml"
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=said):
            load_settings(path, {})

    @pytest.mark.parametrize("value", ["!!int x", '!!int ""', "!!bool x", "!!float ''", "!!float x", "!ours x"])
    def test_a_tag_that_does_not_fit_its_value_is_refused(self, problems: Problems, value: str) -> None:
        assert re.match(
            r"batchyard.port: has a .* tag.* \(config.yaml line 1\)", problems(f"batchyard: {{port: {value}}}")[0]
        )

    @settings(deadline=None)
    @given(text=st.text("ab01:-[]{}&*!'\"\n \t#|>?,%@<.~_+ex\\", max_size=60))
    def test_any_text_is_read_or_refused_and_nothing_else(self, text: str) -> None:
        with suppress(SettingsError):
            assert isinstance(parse(text, "c.yaml").data, dict)

    def test_a_file_that_is_not_there_is_said_so(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"no\.yaml: can't be read: No such file"):
            load_settings(tmp_path / "no.yaml", {})

    def test_a_key_written_twice_is_refused(self, problems: Problems) -> None:
        text = "batchyard:\n  local:\n    echo: true\n  port: 1\n  port: 2\n"
        assert problems(text) == ["batchyard.port: is written twice (config.yaml line 5)"]

    def test_an_alias_that_contains_itself_is_refused(self, problems: Problems) -> None:
        assert "alias that contains itself" in problems("model_list: &a [*a]\n" + ECHO)[0]

    def test_merged_mappings_count_and_own_keys_win(self, load: Load) -> None:
        text = "x: &x {echo: true, max_attempts: 3, chunk_lines: 7}\nbatchyard: {local: {<<: *x, chunk_lines: 9}}"
        assert load(text).local == LocalSettings(echo=True, max_attempts=3, chunk_lines=9)


class TestLiteLLMsFile:
    GROUP = (
        "model_list:\n"
        "- model_name: batch-gpt-4o-mini\n"
        "  litellm_params:\n"
        "    model: azure/gpt-4o-mini\n"
        "    api_key: os.environ/AZURE_API_KEY\n"
        "    api_base: https://x.example\n"
        "    api_version: 2024-10-21\n"
        "  model_info: {mode: batch}\n"
        "litellm_settings: {enable_loadbalancing_on_batch_endpoints: true}\n"
        "router_settings: {num_retries: 2}\n"
        "general_settings: {database_url: os.environ/DATABASE_URL, masterkey: x}\n"
        "batchyrd: {}\n"
    )

    def test_it_loads_and_one_warning_names_what_is_not_used(self, load: Load, tmp_path: Path) -> None:
        environ = {"AZURE_API_KEY": "k", "BATCHYARD_DEFAULT_PROVIDER": "azure"}
        assert load(self.GROUP + ECHO, environ).warnings == (
            "the AZURE_* variables make no deployment: the variable AZURE_API_BASE is not set",
            "keys that are not used: router_settings.num_retries, general_settings.database_url (LiteLLM's own "
            "database; Batchyard's is batchyard.database_url), general_settings.masterkey (did you mean master_key?), "
            f"batchyrd (did you mean batchyard?) ({tmp_path}/config.yaml)",
        )

    def test_a_file_that_lost_its_indentation_is_told_what_belongs_where(self, problems: Problems) -> None:
        text = "\n".join(line.strip() for line in self.GROUP.splitlines()[:8]) + "\n" + ECHO
        (problem,) = problems(text)
        assert "litellm_params belongs in an entry of model_list; model belongs in litellm_params" in problem
        assert problem.endswith("Did the file lose its indentation? (config.yaml line 3)")

    def test_our_own_block_without_indentation_is_told_so_too(self, problems: Problems) -> None:
        (problem, _) = problems("batchyard:\nport: 1\nlocal:\n  echo: true\n")
        assert "port belongs in batchyard; local belongs in batchyard" in problem

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("model_list: {}", "model_list: expected a list"),
            ("model_list: [x]", "model_list[0]: expected keys"),
            ("model_list: [{model_name: x}]", "model_list[0].litellm_params.model: expected a text"),
            ("model_list: [{litellm_params: {model: x}}]", "model_list[0].model_name: expected a text"),
            ("general_settings: [x]", "general_settings: expected keys"),
            ("batchyard: [x]", "batchyard: expected keys"),
        ],
    )
    def test_a_section_of_another_kind_is_refused(self, problems: Problems, text: str, problem: str) -> None:
        assert problems(text, {"BATCHYARD_LOCAL__ECHO": "true"})[0].startswith(problem)


class TestProviders:
    @pytest.mark.parametrize(
        ("local", "said"),
        [
            ("{}", "set api_base to an OpenAI-compatible endpoint, or echo: true"),
            ("{echo: false}", "set api_base to an OpenAI-compatible endpoint, or echo: true"),
            ("{echo: true, api_base: 'http://h/v1'}", "set either api_base or echo: true, not both"),
            ("{api_base: 'ftp://h/v1'}", "expected an http:// or https:// URL"),
            ("{api_base: 'http:///v1'}", "expected an http:// or https:// URL"),
            ("{api_base: 'http://h:x/v1'}", "expected an http:// or https:// URL"),
        ],
    )
    def test_local_has_an_endpoint_or_the_echo(self, problems: Problems, local: str, said: str) -> None:
        (problem,) = problems(f"batchyard: {{local: {local}}}")
        assert said in problem

    def test_none_configured_says_what_to_set(self, problems: Problems) -> None:
        (problem,) = problems("")
        assert "batchyard.local.api_base" in problem
        assert "batchyard.local.echo: true" in problem

    def test_the_default_must_be_configured(self, problems: Problems) -> None:
        assert problems("batchyard:\n  default_provider: azure\n  local: {echo: true}") == [
            "batchyard.default_provider: azure is not configured; configured: local (config.yaml line 2)"
        ]

    def test_a_shim_alone_needs_neither_provider_nor_key(self) -> None:
        environ = {"BATCHYARD_SERVICE_ADDRESS": "batch.example:443"}
        found = load_settings(None, environ, serves=False)
        assert (found.service_address, found.default_provider) == ("batch.example:443", "")


class TestReference:
    def test_every_key_is_in_the_reference_with_its_variable_and_default(self) -> None:
        rows = {row[0]: row for row in _rows()}
        assert set(rows) == {key_name(path) for path in keys()}
        for path in keys():
            assert f"`{variable(path)}`" in rows[key_name(path)][1]
            assert rows[key_name(path)][2].strip("`") == _default(path)

    def test_the_development_configuration_is_local_echo_with_the_known_key(self) -> None:
        assert load_settings(DEVELOPMENT, {}) == Settings(
            default_provider="local",
            local=LocalSettings(echo=True),
            master_key="sk-1234",
            log_format="text",
        )


def _rows() -> list[list[str]]:
    lines = REFERENCE.read_text(encoding="utf-8").splitlines()
    ours = [line for line in lines if line.startswith(("| `batchyard.", "| `general_settings."))]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in ours]
    return [[row[0].strip("`"), *row[1:]] for row in cells]


def _default(path: tuple[str, ...]) -> str:
    if path == ("default_provider",):
        return "the groups, else the only one configured"
    owner = SECTIONS[path[0]] if len(path) > 1 else Settings
    (value,) = (field.default for field in dataclasses.fields(owner) if field.name == path[-1])
    if value is None:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else str(value)
