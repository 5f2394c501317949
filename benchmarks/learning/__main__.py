"""Dispatch of ``python -m benchmarks.learning``; every command imports only what it needs."""

import importlib
import sys

COMMANDS = {
    "run": "one run in this process",
    "study": "all runs of a plan over the cores",
    "summary": "table, CSV and pictures of finished and unfinished runs",
    "plans": "what a plan consists of",
    "probe": "whether the critics of a run may be followed",
}


def main(argv: list[str] | None = None) -> int:
    """
    Hand the arguments to a command.

    :param argv: command-line arguments; the process's when None
    :return: exit status
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in COMMANDS:
        wanted = "\n".join(f"  {name:<9} {text}" for name, text in COMMANDS.items())
        print(f"usage: python -m benchmarks.learning COMMAND ... (--help after a command lists its options)\n{wanted}")
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    return importlib.import_module(f"benchmarks.learning.{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
