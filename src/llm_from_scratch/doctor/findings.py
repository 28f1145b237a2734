"""A finding: one line of the doctor's report, with what to do."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the report; `advice` is what to do about it."""

    mark: Literal["ok", "warning", "fault"]
    what: str
    advice: str = ""


def ok(what: str) -> Finding:
    """All is well."""
    return Finding("ok", what)


def warning(what: str, advice: str) -> Finding:
    """It works, but not as well as it could, or not for long."""
    return Finding("warning", what, advice)


def fault(what: str, advice: str) -> Finding:
    """It does not work."""
    return Finding("fault", what, advice)


def size_of(count: int) -> str:
    """Bytes as MB or GB."""
    return f"{count / 10**9:.1f} GB" if count >= 10**9 else f"{count / 10**6:.1f} MB"
