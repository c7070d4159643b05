"""A line on the terminal: how far, how fast, how long still."""

import sys
import time


class Progress:
    """Counts examples on a terminal's last line; silent where stderr is none.

    Args:
        total: How many there will be; None if that is not known.
        unit: What is counted, in the plural.
        shown: Whether to show it; None for where stderr is a terminal.
        clock: Returns seconds.
    """

    def __init__(self, total, unit, *, shown=None, clock=time.monotonic):
        self._total = total
        self._unit = unit
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._clock = clock
        self._done = self._worked = 0
        self._start = self._last = clock()

    def add(self, count, *, found=False):
        """Counts more of them.

        Args:
            count: How many.
            found: Whether they were there already, which says nothing of the speed.
        """
        self._done += count
        self._worked += 0 if found else count
        if self._shown and self._clock() - self._last >= 0.2:
            self._last = self._clock()
            self._print(self.text())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._shown:
            self._print(self.text(), end="\n")

    def text(self):
        """Returns the line."""
        parts = [f"{self._done:,}" + (f"/{self._total:,}" if self._total else "")]
        parts[0] += f" {self._unit}"
        seconds = self._clock() - self._start
        if self._worked and seconds > 0:
            rate = self._worked / seconds
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2f}/s")
            if self._total:
                left = max(self._total - self._done, 0) / rate
                parts.append(f"{_duration(left)} left")
        return ", ".join(parts)

    def _print(self, text, end=""):
        print(f"\r{text:<60}", end=end, file=sys.stderr, flush=True)


def _duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
