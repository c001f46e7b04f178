"""The names of providers that a configuration may use, and those that it may not."""

OPENAI, AZURE = "openai", "azure"


PROVIDERS = (OPENAI, AZURE)


GROUPS = "groups"
"""Where files and batches of model groups live."""


RESERVED = {"local", GROUPS, "v1", "files", "batches", "uploads", "health", "openapi.json", "metrics"}
"""Words that begin other paths, or name what is no deployment."""
