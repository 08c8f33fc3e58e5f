"""One line of a report about this machine or a robot."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a subject was found."""

    PRESENT = "present"
    MISSING = "missing"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """One line of the report; `mend` is a command, empty where nothing has to be mended."""

    subject: str
    status: Status
    detail: str
    mend: str = ""
    needed: bool = True
