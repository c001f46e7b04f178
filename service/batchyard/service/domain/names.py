"""Names and bounds that the contract fixes."""

BYTES_PER_TOKEN = 4


WINDOW_SECONDS = 86_400  # of a completion window of 24h, the only one (facts 1.4)


INTERNAL = ":groups"
"""The tenant of what the service itself makes at deployments: no caller's name can be that, and no rate bounds it."""


PURPOSES = ("fine-tune", "assistants", "batch", "user_data", "vision", "evals")  # facts 4


MOST_METADATA, MOST_KEY, MOST_VALUE = 16, 64, 512  # facts 1.4


MOST_ID = 256
