"""RL-Zoo's ``name:value`` options, whose values are Python expressions."""

import ast
import re
from typing import Any

# What YAML and its users write for a value that Python spells otherwise; as text, "false" would count as true.
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
    **dict.fromkeys(("none", "null"), None),
}
# Settings that have a choice of such a name.
_OWN_WORDS = {"sde_correction": "none"}

_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


def read_items(items: list[str], option: str) -> tuple[dict[str, Any], list[str]]:
    """
    RL-Zoo evaluates every value. Here a bare word or path is taken as text, so that ``policy:FlowPolicy`` works unquoted,
    but for the words of :func:`read_word`.

    :param items: what follows ``-params`` or ``--env-kwargs``
    :param option: its name, for the sentence
    :return: values by name, as text where they are more than literals; the items as RL-Zoo evaluates them
    :raises ValueError: an item without a colon, or one that is no expression
    """
    values: dict[str, Any] = {}
    evaluable: list[str] = []
    for item in items:
        name, colon, text = item.partition(":")
        if not (colon and name.isidentifier() and text):
            raise ValueError(f"{option} wants name:value, found {item!r}")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            if _is_bare(text):
                values[name] = read_word(name, text)
                text = repr(values[name])
            else:
                _check_expression(item, text, option)
                values[name] = text
        evaluable.append(f"{name}:{text}")
    return values, evaluable


def read_word(name: str, text: str) -> Any:
    """
    :param name: of a setting, dotted or not
    :param text: a bare word
    :return: the truth value or None that a YAML file says by it, in any case; else the word
    """
    word = text.lower()
    if word not in _WORDS or _OWN_WORDS.get(name.rpartition(".")[2]) == word:
        return text
    return _WORDS[word]


def as_number(value: Any) -> Any:
    """
    PyYAML keeps to YAML 1.1, where ``1e-3`` and ``1e5`` are text.

    :param value: of a setting
    :return: the same with such text, in lists and dictionaries too, as floats
    """
    if isinstance(value, dict):
        return {name: as_number(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [as_number(inner) for inner in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def as_item(name: str, value: Any, source: str) -> str:
    """
    :param name: of the setting
    :param value: plain data
    :param source: where it comes from, for the sentence
    :raises ValueError: a value that text cannot carry, such as a class
    """
    try:
        if ast.literal_eval(repr(value)) == value:
            return f"{name}:{value!r}"
    except (ValueError, SyntaxError):
        pass
    raise ValueError(f"{name} in {source} should be names and numbers as in a YAML file, found {value!r}")


def _is_bare(text: str) -> bool:
    """Text without Python's punctuation, whose first word RL-Zoo does not know (``nn.ReLU`` is an expression)."""
    import rl_zoo3.utils

    root = re.split(r"\W", text, maxsplit=1)[0]
    return re.fullmatch(r"[\w./~][\w./:~@+-]*", text) is not None and root not in vars(rl_zoo3.utils)


def _check_expression(item: str, text: str, option: str) -> None:
    try:
        ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise ValueError(f"{option} {item}: the value is neither a word nor a Python expression") from error
