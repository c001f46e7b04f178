"""Ids of what we hold, in the shape of OpenAI's (facts 1.6 and 1.7)."""

import secrets
import string

_BASE62 = string.digits + string.ascii_letters


def is_id(text: str) -> bool:
    """Whether a text can be an id of ours: `[A-Za-z0-9._:-]{1,256}`, and no step in a path.

    What a provider calls otherwise is shown under an id that we make.
    """
    plain = text.replace(".", "").replace("_", "").replace(":", "").replace("-", "")
    return 0 < len(text) <= 256 and plain.isascii() and plain.isalnum()


def new_file_id() -> str:
    return "file-" + "".join(secrets.choice(_BASE62) for _ in range(22))


def new_batch_id() -> str:
    return f"batch_{secrets.token_hex(16)}"
