"""Tables on the terminal, rows in CSV files, and the line that says which machine it was."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import pathlib
import platform
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]
# Without a terminal rich assumes 80 columns and cuts the tables.
CONSOLE = Console(width=None if sys.stdout.isatty() else 200)


class CsvFile:
    """
    A CSV file to which rows are appended as they come.

    :param path: file; None for none
    :param fields: columns
    """

    def __init__(self, path: pathlib.Path | None, fields: Sequence[str]):
        self.path, self.fields = path, fields
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                csv.DictWriter(file, fields).writeheader()

    def write(self, row: Row) -> None:
        """:param row: values by column; missing ones stay empty"""
        if self.path is not None:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.fields, extrasaction="ignore").writerow(
                    {key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()}
                )


def beside(path: pathlib.Path | None, name: str) -> pathlib.Path | None:
    """
    :param path: of the main CSV file
    :param name: of the part
    :return: ``speed.csv`` becomes ``speed-<name>.csv``
    """
    return None if path is None else path.with_stem(f"{path.stem}-{name}")


def table(title: str, rows: list[Row], columns: Sequence[str | tuple[str, str]], digits: int = 3) -> None:
    """
    Print rows.

    :param title: above the table
    :param rows: values by key
    :param columns: keys, or pairs of key and heading
    :param digits: significant ones
    """
    pairs = [column if isinstance(column, tuple) else (column, column.replace("_", " ")) for column in columns]
    grid = Table(title=title, title_justify="left")
    for key, heading in pairs:
        is_text = any(isinstance(row.get(key), str) for row in rows)
        grid.add_column(heading, justify="left" if is_text else "right", no_wrap=is_text)
    for row in rows:
        grid.add_row(*(_text(row.get(key), digits) for key, _ in pairs))
    CONSOLE.print(grid)


def machine(threads: int) -> str:
    """
    Processor, threads, versions, GPU.

    :param threads: of every contender
    """
    flags = _cpuinfo("flags").split()
    bf16 = ", ".join(flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags) or "no bf16 instructions"
    versions = ", ".join(f"{name} {_version(name)}" for name in ("ogpo_sb3", "torch", "jax", "numpy"))
    processor = _cpuinfo("model name") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor} ({bf16}), {threads} of {cores} cores, {versions}, Python {platform.python_version()}; {gpu()}"


def gpu() -> str:
    """The GPU's name, or that there is none."""
    name = cuda_name()
    return f"GPU: {name}" if name else "GPU: unmeasured (no CUDA device)"


def cuda_name() -> str | None:
    """Name of the CUDA device, None without one."""
    import torch as th

    return th.cuda.get_device_name() if th.cuda.is_available() else None


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cpuinfo(key: str) -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == key), "")


def _text(value: Any, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return str(value)
