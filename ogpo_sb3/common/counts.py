"""Counts that a user writes as floats."""

from typing import Any


def whole(name: str, value: Any) -> Any:
    """
    A count written as a float (8.0, 4e4), as ``learn(3e6)`` takes one.

    :param name: of the argument
    :param value: given; None passes
    :return: as int where it is a number
    :raises ValueError: a fraction, or not finite
    """
    if not isinstance(value, float):
        return value
    if not value.is_integer():  # false for infinities and NaN too
        raise ValueError(f"{name} must be a whole number, found {value}")
    return int(value)
