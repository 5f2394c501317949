"""Names that a user mistyped."""

import difflib
from collections.abc import Iterable


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    """
    :param what: of which kind the name is, for the sentence
    :param name: as the user wrote it
    :param known: all there are
    :raises ValueError: it is none of them; names the nearest, or all where none is near
    """
    choices = sorted(known)
    if name in choices:
        return
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.6)
    wanted = f"did you mean {' or '.join(near)}?" if near else f"wanted one of {', '.join(choices)}"
    raise ValueError(f"unknown {what} {name!r}: {wanted}")
