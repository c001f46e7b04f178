"""What providers keep and say differently, as data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from tests.upstream.lines import Outcome, Rules
from tests.upstream.refusals import Json, Refusal


@dataclass(frozen=True)
class Dialect:
    """How a provider names things, what its objects hold, and what it says of batches that fail."""

    file_id: Callable[[bytes], str]  # of a digest, as the other two
    output_id: Callable[[bytes], str]
    batch_id: Callable[[bytes], str]
    file_members: Json  # that every file has, beside those that all providers have
    pending: tuple[str, str]  # a file's status once it is uploaded, and while it is looked at
    rules: Rules
    result: Callable[[str, Outcome], Json]  # a line of an output or error file, of a batch's id
    missing_file: Callable[[str], Json]
    token_limit: Callable[[str, int], str]  # what it says of a model and its bound
    usual_quota: tuple[str, int]  # where a switch stands for a bound: a model, and what it allows
    fails_fast: bool  # whether it refuses to create a batch that is beyond a bound, where nothing is said
    usual: Mapping[str, Any]  # quirks where nothing is said

    def ending_in(self, text: str) -> "Dialect":
        """The same with ids that end in a text."""

        def ending(made: Callable[[bytes], str]) -> Callable[[bytes], str]:
            return lambda digest: made(digest) + text

        file_id, output_id, batch_id = map(ending, (self.file_id, self.output_id, self.batch_id))
        return replace(self, file_id=file_id, output_id=output_id, batch_id=batch_id)


def no_room(dialect: Dialect, model: str = "", tokens: int = 0) -> Refusal:
    """What is said of a model where too many tokens are enqueued; without one, of the usual quota."""
    text = dialect.token_limit(*((model, tokens) if model else dialect.usual_quota))
    return Refusal(400, text, code="token_limit_exceeded")


class Digests:
    """A sequence of digests to make ids of, the same for the same salt."""

    def __init__(self, salt: str) -> None:
        self._salt = salt
        self._count = 0

    def __call__(self) -> bytes:
        self._count += 1
        return sha256(f"{self._salt}/{self._count}".encode()).digest()
