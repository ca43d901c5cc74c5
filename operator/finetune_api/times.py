"""Times as the API server writes them: RFC 3339 in UTC, whole seconds."""

from datetime import UTC, datetime
from typing import Final

# How much the clocks of a cluster may differ.
SKEW_SECONDS: Final = 60.0


def timestamp(moment: datetime) -> str:
    """
    >>> timestamp(datetime(2026, 11, 23, 10, 0, tzinfo=UTC))
    '2026-11-23T10:00:00Z'
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str | None) -> datetime | None:
    """The moment; None for what is no time, because pods write times too.

    >>> moment("2026-11-23T10:00:00Z"), moment("soon")
    (datetime.datetime(2026, 11, 23, 10, 0, tzinfo=datetime.timezone.utc), None)
    """
    try:
        read = datetime.fromisoformat(text or "")
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def seconds_between(start: str | None, end: datetime) -> float | None:
    """Seconds from a written time to a moment, never below 0: clocks jump."""
    read = moment(start)
    return None if read is None else max((end - read).total_seconds(), 0.0)


def is_ahead(text: str | None, now: datetime) -> bool:
    """Whether a written time is later than now by more than clocks differ: one of them was set, and nobody should wait for it.

    >>> now = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
    >>> [is_ahead(text, now) for text in ("2026-11-23T09:00:00Z", "2026-11-23T10:00:30Z", "2026-11-23T15:00:00Z", None)]
    [False, False, True, False]
    """
    read = moment(text)
    return read is not None and (read - now).total_seconds() > SKEW_SECONDS
