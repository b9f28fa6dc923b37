"""The one family of errors: each says what, where, why and how to fix it, and carries its exit code."""

from typing import ClassVar


class SafeholdError(Exception):
    """Base of everything safehold raises on purpose; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 1


class UsageError(SafeholdError, ValueError):
    """A value the caller set is impossible: a flag, a configuration key, an argument."""

    exit_code: ClassVar[int] = 2


class DataError(SafeholdError, ValueError):
    """Data that came in is not what it must be: a dataset, a checkpoint's content, a measurement."""

    exit_code: ClassVar[int] = 3


class IntegrityError(SafeholdError, ValueError):
    """Stored bytes are not the bytes that were written: a broken hash, chain, lock or manifest."""

    exit_code: ClassVar[int] = 4


class EnvironmentFault(SafeholdError, RuntimeError):
    """An environment broke its contract: no cost, a non-finite number, a wrong shape, a crash."""

    exit_code: ClassVar[int] = 5


class SafetyHold(SafeholdError, RuntimeError):
    """Going on would not be covered by the certificate; the safe answer is to hold."""

    exit_code: ClassVar[int] = 6


class NoCertifiedTarget(SafetyHold):
    """No target is certified; the message names the candidate that came nearest and what it misses."""


class NoSeed(SafetyHold):
    """A deployment without seed targets: there is nothing safe to start from."""


class Exhausted(SafetyHold):
    """The declared number of asks is used up."""


class Unapproved(SafetyHold):
    """A trial waits for an operator's approval; it may not run before."""


class Alarm(SafetyHold):
    """A measurement contradicts the declared model; certificates no longer mean anything."""


class BadPrior(SafetyHold, ValueError):
    """The declared prior certifies targets before any evidence, or cannot be computed."""


class ModelError(SafetyHold, ArithmeticError):
    """A safety quantity could not be computed: a negative variance, a singular matrix."""


class Conflict(IntegrityError):
    """The same trial was told twice with different outcomes."""


class ResourceError(SafeholdError, RuntimeError):
    """A stated budget of memory, disk or time would be exceeded."""

    exit_code: ClassVar[int] = 7
