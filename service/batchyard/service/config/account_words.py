"""Words of LiteLLM's configuration that choose an address, an account or an identity.

An entry that says one of them in a form that isn't read would send a key, or data, to an account that nobody named.
So what is read is a list, what surely chooses nothing of the kind is a list, and every other word counts as one that
could. The words are those of LiteLLM's `CredentialLiteLLMParams` and `GenericLiteLLMParams` (litellm/types/router.py),
and of the clients that it hands them to.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

SYNONYMS = {"base_url": "api_base", "azure_endpoint": "api_base"}
"""Words of the SDKs for a word of LiteLLM."""
CREDENTIAL = "litellm_credential_name"
"""The word for an entry of `credential_list`, whose values an entry takes that has none of its own."""
IDENTITY = ("tenant_id", "client_id", "client_secret")
CREDENTIALS = ("api_key", "azure_ad_token", *IDENTITY)
READ = {
    "custom_llm_provider",
    "api_base",
    "api_version",
    "organization",
    "project",
    "azure_scope",
    *CREDENTIALS,
    *SYNONYMS,
    CREDENTIAL,
}
"""What of an entry is read; of `model_list`, `model` too."""
OF_OTHERS = {
    "openai": {"azure_endpoint", "azure_ad_token", "azure_scope", *IDENTITY},
    "azure": {"organization", "project"},
}
"""Words that are read, by the provider that has no use for them."""

_UNREAD = {
    "api_type",
    "auth",
    "auth_token",
    "azure_ad_token_provider",
    "azure_authority_host",
    "azure_deployment",
    "azure_password",
    "azure_username",
    "bucket_name",
    "config_path",
    "configurable_clientside_auth_params",
    "default_headers",
    "default_query",
    "endpoint",
    "extra_body",
    "extra_headers",
    "extra_query",
    "gcs_bucket_name",
    "headers",
    "host",
    "http_client",
    "location",
    "password",
    "provider",
    "proxy",
    "region",
    "region_name",
    "resource",
    "s3_access_key_id",
    "s3_bucket_name",
    "s3_endpoint_url",
    "s3_region_name",
    "s3_secret_access_key",
    "token",
    "url",
    "use_litellm_proxy",
    "username",
    "watsonx_region_name",
}
_UNREAD_FAMILIES = re.compile(r"(aws|azure|gcs|s3|vertex|watsonx|databricks|oidc)_.*")
# Words that mean an account wherever they stand; a `host` or a `region` may be a note of somebody's.
_TELLING = READ | {
    "azure_ad_token_provider",
    "azure_deployment",
    "azure_password",
    "azure_username",
    "aws_access_key_id",
    "aws_secret_access_key",
    "vertex_credentials",
    "vertex_project",
}
_HARMLESS_WORDS = """
model mode model_info rpm tpm itpm otpm order weight timeout stream_timeout request_timeout connect_timeout
read_timeout max_retries num_retries max_parallel_requests cooldown_time allowed_fails allowed_fails_policy
retry_policy drop_params additional_drop_params allowed_openai_params modify_params tags tag_regex metadata
litellm_metadata description base_model mock_response mock_timeout litellm_trace_id max_budget budget_duration
keepalive_seconds allow_client_keepalive_override provider_affinity_header merge_reasoning_content_in_choices
use_in_pass_through use_chat_completions_api temperature top_p top_k n stop seed logprobs top_logprobs
logit_bias presence_penalty frequency_penalty repetition_penalty max_tokens max_completion_tokens
max_output_tokens reasoning_effort thinking verbosity tools tool_choice functions function_call
parallel_tool_calls response_format user stream stream_options dimensions encoding_format input_type truncate
modalities audio prediction service_tier store prompt_cache_key safety_identifier web_search_options
guardrails prompt_id prompt_variables cache caching cache_control_injection_points no-log ssl_verify fallbacks
context_window_fallbacks content_policy_fallbacks hf_model_name model_name access_groups team_id
supports_system_message supported_environments enqueued_tokens max_batch_lines max_batch_bytes
default_api_key_tpm_limit default_api_key_rpm_limit max_file_size_mb id blocked discoverable cost_per_query
rate_limits
"""
_HARMLESS = set(_HARMLESS_WORDS.split())
_HARMLESS_FAMILIES = re.compile(
    r"(input|output|cache|citation|search|ocr|image)_.*cost.*|(max|min|num)_[a-z_]+|supports_[a-z_]+|mock_[a-z_]+|"
    r"(auto|complexity|adaptive|quality)_router_[a-z_]+|tiered_pricing|[a-z_]+_(cost|timeout|tokens|retries|seconds)"
)
_NEAR = 0.83
_MOST = 64  # characters of a name that is worth comparing
_REFERENCE = "oidc/"


def is_harmless(name: str) -> bool:
    """Whether a key surely chooses no address, account or identity."""
    return name in _HARMLESS or bool(_HARMLESS_FAMILIES.fullmatch(name) and near(name) is None)


def is_litellms(name: str) -> bool:
    """Whether a key is known to choose an address, an account or an identity, in a way that isn't read."""
    return name in _UNREAD or bool(_UNREAD_FAMILIES.fullmatch(name) and near(name) in (None, name))


@lru_cache(4096)
def near(name: str) -> str | None:
    """The word that is meant where a name is another spelling of one, or nearly: `API-Base`, `apibase`, `api_bse`."""
    if len(name) > _MOST:
        return None
    plain = _plain(name)
    if plain in _PLAIN:
        return _PLAIN[plain]
    found = get_close_matches(plain, list(_PLAIN), 1, _NEAR) if plain else []
    return _PLAIN[found[0]] if found else None


def within(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The path of each key below a value that is such a word, or nearly, and the word."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if inner is not None and key not in _HARMLESS and (word := near(key)):
                yield (*path, key), word
            yield from within(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from within(inner, (*path, index))


def is_reference(value: Any) -> bool:
    """Whether a value stands for a token that LiteLLM fetches: `oidc/google/...`."""
    return isinstance(value, str) and value.strip().lower().startswith(_REFERENCE)


def could_be_one(value: Any) -> bool:
    """Whether a value looks like an address, or a reference to what should not stand in a file."""
    return isinstance(value, str) and ("://" in value or "os.environ/" in value or is_reference(value))


def _plain(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in folded if character.isalnum())


_PLAIN = {_plain(word): word for word in sorted(_TELLING)}
