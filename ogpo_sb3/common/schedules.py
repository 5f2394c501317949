"""Learning-rate schedules: SB3's (of remaining progress) and one that counts actor updates."""

import math
from collections.abc import Callable

from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

Schedule = Callable[[float], float]


class WarmupCosine:
    """
    OGPO's online actor rate: linear warm-up, then a cosine, counted in gradient updates rather than in progress.

    Defaults are the official scripts' (2e-5 to 4.5e-5 over 2000 updates, back to 2e-5 at 50 000, then again).

    :param initial: rate at update 0
    :param peak: rate at the end of the warm-up
    :param final: rate at the end of the cycle
    :param warmup: length of the warm-up, updates
    :param cycle: length of a whole cycle, updates
    :param restart: begin again after a cycle; otherwise stay at ``final``
    """

    def __init__(
        self,
        initial: float = 2e-5,
        peak: float = 4.5e-5,
        final: float = 2e-5,
        warmup: int = 2000,
        cycle: int = 50_000,
        restart: bool = True,
    ):
        if not 0 <= warmup < cycle:
            raise ValueError(f"WarmupCosine needs 0 <= warmup < cycle, found warmup={warmup} and cycle={cycle}")
        self.initial, self.peak, self.final = initial, peak, final
        self.warmup, self.cycle, self.restart = warmup, cycle, restart

    def at(self, n_updates: int) -> float:
        """
        :param n_updates: gradient updates done so far
        :return: the rate of the next one
        """
        n = n_updates % self.cycle if self.restart else min(n_updates, self.cycle)
        if n < self.warmup:
            return self.initial + (self.peak - self.initial) * n / self.warmup
        phase = (n - self.warmup) / (self.cycle - self.warmup)
        return self.final + 0.5 * (self.peak - self.final) * (1.0 + math.cos(math.pi * phase))

    def __call__(self, progress_remaining: float) -> float:
        """SB3 asks a schedule for a first value when it builds optimisers; the algorithm asks :meth:`at` afterwards."""
        return self.at(0)

    def __repr__(self) -> str:
        return (
            f"WarmupCosine(initial={self.initial}, peak={self.peak}, final={self.final}, "
            f"warmup={self.warmup}, cycle={self.cycle}, restart={self.restart})"
        )


def as_schedule(value: float | str | Schedule, name: str) -> Schedule:
    """
    :param value: a number, RL-Zoo's "lin_<number>", or a callable of remaining progress
    :param name: the argument's name, for the error
    :return: a callable of remaining progress
    :raises ValueError: anything else, or a negative number, in "lin_<number>" too
    """
    if isinstance(value, str) and value.startswith("lin_"):
        try:
            if (start := float(value[4:])) >= 0:
                return LinearSchedule(start, 0.0, 1.0)
        except ValueError:
            pass
    elif callable(value):
        return value if isinstance(value, WarmupCosine | FloatSchedule) else FloatSchedule(value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return FloatSchedule(float(value))
    raise ValueError(f"{name} must be a number >= 0, 'lin_<number>' or a callable of remaining progress, found {value!r}")


def schedule_value(name: str, schedule: Schedule, progress_remaining: float, n_updates: int) -> float:
    """
    :param name: of the argument, for the error
    :param schedule: from :func:`as_schedule`
    :param progress_remaining: from 1 (start) to 0 (end); clamped, since the last chunk can overshoot the total
    :param n_updates: updates done so far, for schedules that count them
    :raises ValueError: it gives a negative number, infinity or NaN, which must reach neither optimiser nor loss
    """
    if isinstance(schedule, FloatSchedule) and isinstance(schedule.value_schedule, WarmupCosine):
        schedule = schedule.value_schedule
    if isinstance(schedule, WarmupCosine):
        return schedule.at(n_updates)
    progress = min(max(progress_remaining, 0.0), 1.0)
    value = float(schedule(progress))
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name} is {value} at a remaining progress of {progress:.3g}, wanted a finite number >= 0")
    return value
