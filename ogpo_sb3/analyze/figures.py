"""What the pictures share; matplotlib is imported when one is drawn."""

from typing import Any

import numpy as np

from ogpo_sb3.evaluation.document import Table
from ogpo_sb3.evaluation.plots import COLOURS

FIRST, LAST = COLOURS[0], COLOURS[1]


def stage_colours(n: int) -> list[Any]:
    """
    :param n: stages
    :return: colours that darken in their order
    """
    import matplotlib

    return [matplotlib.colormaps["viridis_r"](x) for x in np.linspace(0.12, 0.95, n)]


def columns_for(n: int, most: int = 5) -> tuple[int, int]:
    """
    :param n: panels
    :param most: side by side
    :return: rows, columns
    """
    rows = -(-n // most)
    return rows, -(-n // rows)


def numbers(values: Any, digits: int = 5) -> Any:
    """
    :param values: array or number
    :param digits: after the point
    :return: lists or a number that JSON can hold; None for what is not finite
    """
    if isinstance(values, list):
        return [numbers(value, digits) for value in values]
    if np.ndim(values):
        return [numbers(value, digits) for value in np.asarray(values)]
    value = float(values)
    return round(value, digits) if np.isfinite(value) else None


def cell(value: float | None, digits: int = 3) -> str:
    """
    :param value: of a table; None for none
    :param digits: significant
    """
    return "-" if value is None else f"{value:.{digits}g}"


def table(first: str, titles: list[str], rows: dict[str, list[Any]]) -> Table:
    """
    :param first: heading of the first column
    :param titles: of the lines
    :param rows: by column, a value per line
    """
    lines = [[title, *(cell(values[i]) for values in rows.values())] for i, title in enumerate(titles)]
    return Table([first, *rows], lines)
