"""The wall time of a run by phase in each week, over its restarts."""

import datetime
from collections.abc import Mapping, Sequence

from lm2_jax.runtime.phases import PHASES, TIME, of_line

WEEK = 7 * 24 * 3600
MONDAY = datetime.datetime(1970, 1, 5, tzinfo=datetime.UTC).timestamp()


def by_week(lines: Sequence[Mapping], saved: Mapping | None = None) -> dict[str, dict[str, float]]:
    """Seconds by phase of each week from the first start to the last record.

    A phase's time between two records is spread evenly over the time between them. Weeks are
    those of ISO 8601, from Monday 0:00 UTC.

    Args:
      lines: of metrics.jsonl; lines without a time, as earlier versions wrote them, are left out.
      saved: of `phases.read`; counts if it is later than the last line.

    Returns:
      {"2026-W48": {"step": seconds, ...}, ...}, in the order of time.
    """
    records = [(line[TIME], of_line(line)) for line in lines
               if isinstance(line.get(TIME), (int, float))]
    if saved and TIME in saved and (not records or saved[TIME] > records[-1][0]):
        records.append((saved[TIME], dict.fromkeys(PHASES, 0.0) | saved["seconds"]))
    weeks: dict[float, dict[str, float]] = {}
    end, before = records[0][0] if records else 0.0, dict.fromkeys(PHASES, 0.0)
    if records:
        end -= sum(records[0][1].values())
    for time, seconds in records:
        spent = {name: max(0.0, seconds[name] - before[name]) for name in PHASES}
        begin, end, before = end, max(time, end), seconds
        for week, share in _shares(begin, end):
            found = weeks.setdefault(week, dict.fromkeys(PHASES, 0.0))
            for name, value in spent.items():
                found[name] += share * value
    return {_name(week): seconds for week, seconds in sorted(weeks.items())}


def _shares(begin: float, end: float) -> list[tuple[float, float]]:
    """The start of each week between two times, with the week's share of the time between them."""
    first = begin - (begin - MONDAY) % WEEK
    if end <= begin:
        return [(first, 1.0)]
    starts = [first + i * WEEK for i in range(int((end - first) // WEEK) + 1)]
    parts = [(start, min(end, start + WEEK) - max(begin, start)) for start in starts]
    return [(start, part / (end - begin)) for start, part in parts if part > 0]


def _name(start: float) -> str:
    year, week, _ = datetime.datetime.fromtimestamp(start, datetime.UTC).isocalendar()
    return f"{year}-W{week:02}"
