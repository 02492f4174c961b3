"""The exceptions: one for each code of the C interface, chosen by what the caller should do."""


class Error(Exception):
    """Something failed; the text says what, with names and numbers. `code` is the C interface's."""

    code = 0


class Timeout(Error, TimeoutError):
    """Nothing came before the deadline: try again."""


class EndOfStream(Error):
    """The last publisher closed and nothing is left to take."""


class PublisherDied(EndOfStream):
    """The same, but a publisher died instead of closing."""


class Detached(Error):
    """An operator detached the subscriber, or ended the session; the text says which."""


class InstanceLost(Error):
    """The daemon came back with other segments: connect again."""


class Exhausted(Error):
    """The pool has no free chunk: wait, release, or make it larger. The text names who has them."""


class TooLarge(Error):
    """More bytes than the pool's chunks have."""


class HeldLimit(Error):
    """As many loans or samples are held as may be: release one (views of arrays hold them, too)."""


class HoldersFull(Error):
    """The chunk has as many holders as its pool allows."""


class NotFound(Error, LookupError):
    """No channel or pool of that name."""


class TypeMismatch(Error):
    """The channel carries another message type."""


class Stale(Error):
    """The handle's chunk was released or used again since."""


class Denied(Error):
    """Refused: token, user, or file permissions."""


class Invalid(Error, ValueError):
    """An argument is wrong; the text says which."""


class Unavailable(Error, ConnectionError):
    """No daemon, or its connection is lost, or this is the child of a fork."""


class VersionMismatch(Error):
    """Daemon and library have other memory layouts; the text names both."""


class Damaged(Error):
    """Shared memory holds something impossible; the object was given up."""


class Limit(Error):
    """A table is full, or the process may not map or open so much; the text says which."""


class ChannelDeleted(Error):
    """By an operator; what waited was taken before."""


# In the order of the codes; the first is that of all.
__all__ = [
    "Error",
    "Timeout", "EndOfStream", "PublisherDied", "Detached", "InstanceLost", "Exhausted", "TooLarge", "HeldLimit",
    "HoldersFull", "NotFound", "TypeMismatch", "Stale", "Denied", "Invalid", "Unavailable", "VersionMismatch",
    "Damaged", "Limit", "ChannelDeleted",
]  # fmt: skip
_BY_CODE: list[type[Error]] = [globals()[name] for name in __all__]
for _code, _class in enumerate(_BY_CODE):
    _class.code = _code
    _class.__module__ = "zerocp"  # as programs name them, also in tracebacks


def error_of(code: int, message: str) -> Error:
    """The exception for a code; a later library's unknown one is an Error."""
    if 0 < code < len(_BY_CODE):
        return _BY_CODE[code](message)
    error = Error(message)
    error.code = code
    return error
