"""One error class per kind of fault; every message says what was seen, expected, and what to do."""

LEFT_OUT = 4
"""Exit code of a command that is done, but left out damaged data, which it named."""


class SafeDojoError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigError(SafeDojoError):
    """A configuration value or preset is unknown or out of range. key: which, if it is known."""

    def __init__(self, message: str = "", key: str = "") -> None:
        super().__init__(message)
        self.key = key


class ChunkRejected(SafeDojoError):
    """An action chunk is malformed, stale, non-finite or out of limits; the arm must hold."""


class ObservationRejected(SafeDojoError):
    """An observation is missing, malformed, stale or frozen; no chunk may be computed from it."""


class CheckpointError(SafeDojoError):
    """A checkpoint is incomplete, altered, of another schema, or does not fit this robot."""


class PolicyUnavailable(SafeDojoError):
    """A policy's server is silent or slow, or its answer is no chunk; there is none then."""


class DatasetError(SafeDojoError):
    """A recorded episode or its metadata is broken; the message names the file."""


class WorkerLost(SafeDojoError):
    """A worker that plays episodes cannot be had, or dies again and again."""
