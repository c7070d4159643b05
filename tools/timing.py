"""Rounds of timings that are compared by ratios of lower quartiles: used by the benchmarks."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HAND_WRITTEN = "hand-written"
CONTROL = "control"
OURS = "keras_kd"
KERAS = "keras.distillation"
PLAIN = "student.fit"

# What the project promises (the control's own error is allowed on top of the first).
STEP_LIMIT = 1.03
KERAS_FEATURES_LIMIT = 0.65
MEMORY_LIMIT = 1.05
CONTROL_TOLERANCE = 0.05

# A run is one pass over the data; it returns the mean total loss, so that "the same mathematics" is
# checked and not only claimed.
Run = Callable[[], float]


def lower_quartile(seconds: Sequence[float]) -> float:
    """The 25th percentile, linear between samples."""
    return float(np.percentile(seconds, 25))


@dataclasses.dataclass(frozen=True)
class Target:
    """One promise: `value` has to be at most `limit`."""

    name: str
    value: float
    limit: float

    @property
    def reached(self) -> bool:
        """Whether the promise is kept; never by a NaN."""
        return self.value <= self.limit


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Seconds a run of every side in every round, and what follows from them.

    Attributes:
        seconds: For each side, one number a round.
        steps: Training steps in a run.
        base: The side that the others are compared with; the control is its copy.
    """

    seconds: Mapping[str, Sequence[float]]
    steps: int
    base: str = HAND_WRITTEN

    def ratio(self, side: str, to: str | None = None) -> float:
        """Lower quartile of `side` over that of `to`, by default of the base."""
        return lower_quartile(self.seconds[side]) / lower_quartile(self.seconds[to or self.base])

    @property
    def control_error(self) -> float:
        """How far the copy of the base is from the base: |ratio - 1|."""
        return abs(self.ratio(CONTROL) - 1.0)

    @property
    def void(self) -> bool:
        """Whether the control is so far off that the other ratios mean nothing."""
        return self.control_error > CONTROL_TOLERANCE

    def targets(self, features: bool) -> list[Target]:
        """The promises that these numbers can be held against."""
        found = []
        if OURS in self.seconds:
            limit = STEP_LIMIT + self.control_error
            found.append(Target(f"{OURS} / {HAND_WRITTEN}", self.ratio(OURS), limit))
            if features and KERAS in self.seconds:
                ratio = self.ratio(OURS, to=KERAS)
                found.append(Target(f"{OURS} / {KERAS}", ratio, KERAS_FEATURES_LIMIT))
        return found

    def rows(self) -> list[tuple[str, float, float, float, float]]:
        """For each side: lower quartile, median, upper quartile in ms a step; ratio."""
        rows = []
        for side, seconds in self.seconds.items():
            quartiles = np.percentile(seconds, [25, 50, 75]) * 1000 / self.steps
            rows.append((side, *(float(q) for q in quartiles), self.ratio(side)))
        return rows


def time_rounds(
    sides: Mapping[str, Run], *, rounds: int, seed: int, progress: bool = True
) -> dict[str, list[float]]:
    """Seconds of every side in every round; the order is drawn anew each round."""
    generator = np.random.default_rng(seed)
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        for name in generator.permutation(names):
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
        if progress:
            print(f"\r  round {index + 1}/{rounds}", end="", file=sys.stderr, flush=True)
    if progress:
        print(file=sys.stderr)
    return seconds


def resident_peak_mib() -> float:
    """Peak resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: on Linux it starts at the peak of the process that started this one.
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def write_json(path: Path, content: Any) -> None:
    """Write plain values beside and rename, so that a file that is there is whole."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.replace(path)
