"""A report as a list of blocks, written as Markdown with pictures beside it and as one HTML file that holds them."""

import base64
import html
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

from ogpo_sb3.common.files import atomic_write

_STYLE = """
body{font-family:system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222;line-height:1.45}
table{border-collapse:collapse;margin:.8rem 0;font-size:.9rem}
th,td{border:1px solid #ccc;padding:.25rem .55rem;text-align:right}
th:first-child,td:first-child{text-align:left}th{background:#f3f3f3}pre{background:#f6f6f6;padding:.6rem;white-space:pre-wrap;overflow-wrap:anywhere}
img{max-width:100%}h2{border-bottom:1px solid #ddd;padding-top:.8rem}
"""


@dataclass(frozen=True)
class Heading:
    """
    :param text: of the heading
    :param level: 1 for the title
    """

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """
    :param text: one paragraph
    """

    text: str


@dataclass(frozen=True)
class Code:
    """
    :param text: shown as it is
    """

    text: str


@dataclass(frozen=True)
class Table:
    """
    :param columns: headings
    :param rows: cells as text, as many as columns
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """
    :param path: PNG file in the report's folder
    :param caption: what it shows
    """

    path: pathlib.Path
    caption: str


Block = Heading | Text | Code | Table | Picture


def write(blocks: Sequence[Block], folder: pathlib.Path, name: str = "report") -> list[pathlib.Path]:
    """
    :param blocks: in order; the first is the title
    :param folder: where the files go
    :param name: without suffix
    :return: files written
    """
    files = {folder / f"{name}.md": markdown(blocks, folder), folder / f"{name}.html": as_html(blocks)}
    for path, text in files.items():
        with atomic_write(path) as file:
            file.write(text.encode())
    return list(files)


def markdown(blocks: Sequence[Block], folder: pathlib.Path) -> str:
    """
    :param blocks: of the report
    :param folder: that the pictures' paths are relative to
    """
    parts = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {block.text}")
        elif isinstance(block, Text):
            parts.append(block.text)
        elif isinstance(block, Code):
            parts.append(f"```\n{block.text}\n```")
        elif isinstance(block, Picture):
            parts.append(f"![{block.caption}]({block.path.relative_to(folder).as_posix()})")
        else:
            rule = [" --- ", *[" ---: "] * (len(block.columns) - 1)]
            cells = [block.columns, *block.rows]
            lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
            parts.append("\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]]))
    return "\n\n".join(parts) + "\n"


def as_html(blocks: Sequence[Block]) -> str:
    """
    :param blocks: of the report
    """
    parts = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"<h{block.level}>{html.escape(block.text)}</h{block.level}>")
        elif isinstance(block, Text):
            parts.append(f"<p>{html.escape(block.text)}</p>")
        elif isinstance(block, Code):
            parts.append(f"<pre>{html.escape(block.text)}</pre>")
        elif isinstance(block, Picture):
            data, caption = base64.b64encode(block.path.read_bytes()).decode(), html.escape(block.caption)
            parts.append(
                f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
            )
        else:
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in block.columns)
            rows = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in block.rows)
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
    title = next((html.escape(b.text) for b in blocks if isinstance(b, Heading)), "report")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>'
        f"<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )
