"""Read the moments that an administrator types."""

from __future__ import annotations

import datetime
import re

from ..ground.errors import UsageError

_AGO = re.compile(r"(\d{1,6})(m|h|d)")
_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_HINT = "for example: 3h (ago), 22:00 (the latest one), 2026-11-30, or '2026-11-30 07:30'"


def parse(text: str, now: float) -> float:
    """Return the moment in seconds since 1970; raises UsageError. Without a zone, it is in that of this machine.

    A time without a date is the latest one that has passed.
    """
    text = text.strip()
    if ago := _AGO.fullmatch(text):
        return max(0.0, now - int(ago[1]) * _SECONDS[ago[2]])
    try:
        if re.fullmatch(r"\d\d:\d\d(:\d\d)?", text):
            return _latest(text, now)
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"{text!r} is not a time", hint=_HINT) from None


def _latest(text: str, now: float) -> float:
    today = datetime.datetime.fromtimestamp(now).astimezone().date()
    found = datetime.datetime.fromisoformat(f"{today.isoformat()} {text}")
    return (found if found.timestamp() <= now else found - datetime.timedelta(days=1)).timestamp()
