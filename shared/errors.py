"""Everything that Tunemesh raises on purpose, on one screen.

Every message is one line that names the cause and what to do about it, because the command line prints
it as it is.
"""

import errno

FINAL = frozenset(
    {
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EROFS,
    }
)
"""What the system says of a path that is wrong; everything else (no room, no free descriptor) may pass."""


class TunemeshError(Exception):
    """The root of the tree. The command line prints the text and exits with :attr:`exit_code`.

    That is 1 where something went wrong, 2 where trying again cannot help (:class:`BadInput`), and 75 where
    it may help (:class:`Unavailable`).
    """

    exit_code = 1


class BadInput(TunemeshError):
    """What the person handed in cannot be used: a file, a target, an option. Nothing was started."""

    exit_code = 2


class BadModel(BadInput):
    """The model cannot be read, or holds something that the engine cannot import."""


class BadTarget(BadInput):
    """The target is unknown to the engine, or incomplete."""


class BadMessage(TunemeshError):
    """A message that breaks the wire format. It is dead-lettered with this text as the reason."""


class Unavailable(TunemeshError):
    """Something that is needed is away and may come back. The same command may succeed later: 75 is
    ``EX_TEMPFAIL`` of ``sysexits.h``, "try again". Coordinators and workers do not end with it: they wait,
    except for a device that another process has."""

    exit_code = 75


class BrokerUnavailable(Unavailable):
    """The broker does not answer, or lacks a part of the topology that somebody may declare again."""


class BrokerRefused(BadInput):
    """The broker refuses for good: this login, this virtual host, or a right that the role needs."""


class LinkDown(TunemeshError):
    """The connection was lost before the broker confirmed. The message may or may not have arrived."""


class Unroutable(TunemeshError):
    """The broker returned a message because no queue takes its routing key."""


class ArtifactError(TunemeshError):
    """An artifact is missing, cannot be written, or does not match its SHA-256."""


class JobFailed(TunemeshError):
    """A job ended without a tuned model; the text is the cause."""


def unusable(text: str, error: OSError) -> BadInput | Unavailable:
    """What to raise with ``text`` when the system refuses a file with ``error``; its number says whether
    trying again may help."""
    text = f"{text}: {error.strerror}"
    return BadInput(text) if error.errno in FINAL else Unavailable(text)
