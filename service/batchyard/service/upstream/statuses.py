"""What the HTTP status of an error says of a repeat.

The SDKs repeat 408, 409, 429 and all of 500 and above. What stands before a server has words of its own for it: 520 to
530 are Cloudflare's, 529 is also said by servers that have too much to do, 598 and 599 come from other proxies.
"""

_SERVERS_OWN = range(500, 1000)
_NEVER = {501, 505}
"""It can't do that, and won't be able to."""
_NOT_DONE = {507, 508, 510, 511}
"""It says itself that the request was not carried out (RFC 4918, 5842, 2774 and 6585)."""
AWAY = {503, 521, 523, 525, 526, 529, 530}
"""Nothing was begun: the server takes nothing now, or can't be reached by what stands before it."""
BEHIND = {502, 504, 520, 522, 524, 527, 598, 599}
"""What stands before a server had no answer of it, or not in time: it may have begun."""
PASSING = {408, 409, 425, 429, *_SERVERS_OWN} - _NEVER
"""The same request may be answered otherwise later."""
_ELSEWHERE = 303
"""What came of it is at another address, which nobody asks for (RFC 9110, 15.4.4)."""
UNSURE = {*range(1, 200), _ELSEWHERE, 408, *_SERVERS_OWN} - _NEVER - _NOT_DONE - AWAY
"""What was asked for may have happened all the same."""
