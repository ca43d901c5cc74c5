"""Times as the API server writes them: RFC 3339 in UTC, whole seconds."""

from datetime import UTC, datetime


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
