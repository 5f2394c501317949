"""What constructors take."""

import inspect


def constructor_arguments(algorithm: type) -> dict[str, inspect.Parameter]:
    """
    The arguments that a constructor takes, those that it hands on as ``**kwargs`` included.

    :param algorithm: its class
    :return: by name
    """
    found: dict[str, inspect.Parameter] = {}
    for cls in algorithm.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
        found = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} | found
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return {name: p for name, p in found.items() if not name.startswith("_") and name != "self"}
