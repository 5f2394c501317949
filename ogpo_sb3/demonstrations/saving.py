"""From a data set to a file: which writer serves its name, and which names generated data may not take."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ogpo_sb3.demonstrations.dataset import DemonstrationSet

# Published data sets that a reader of a file name could take generated data for. Names are compared in lower case, with
# everything that separates words as a dash.
_SETS = {
    "D4RL": r"(kitchen|door|hammer|pen|relocate)-(complete|partial|mixed|human|cloned|expert)(-v\d+)?",
    "robomimic": r"(lift|can|square|transport|tool-?hang)-(ph|mh|mg|paired)",
    "LIBERO": r"libero-(spatial|object|goal|10|90|100)",
    "Diffusion Policy": r"pusht-cchi",
    "Minari": r"^(d4rl|mujoco|atari|minigrid|babyai|metaworld)-",
}


def save(
    demonstrations: DemonstrationSet,
    target: str | Path,
    masks: Mapping[str, Sequence[int]] | None = None,
    show_progress: bool = False,
) -> str:
    """Write demonstrations in the format that the target's name asks for.

    :param demonstrations: what to write.
    :param target: ``<file>.npz``; ``<file>.hdf5`` or ``<file>.h5`` for robomimic's layout; ``minari:<id>``.
    :param masks: filter keys of robomimic's layout, with their episodes.
    :param show_progress: draw a bar over the episodes.
    :return: the target as it was written, a source for :func:`ogpo_sb3.demonstrations.load`.
    :raises ValueError: another format, one that has no place for filter keys, an episode that is not there, or generated data
        under the name of a published data set.
    """
    check_target(target, generated="generated_by" in demonstrations.meta, masks=masks is not None and len(masks) > 0)
    if is_minari(target):
        from ogpo_sb3.demonstrations import minari

        return f"minari:{minari.write(demonstrations, str(target).removeprefix('minari:'), show_progress)}"
    if Path(target).suffix.lower() == ".npz":
        return str(demonstrations.save(target))
    from ogpo_sb3.demonstrations import robomimic

    return str(robomimic.write(demonstrations, target, masks, show_progress))


def check_target(target: str | Path, generated: bool, masks: bool = False) -> None:
    """Refuse a target before the work begins.

    :param target: as in ``save``.
    :param generated: the data were made by a program, not by people.
    :param masks: filter keys are to be written.
    :raises ValueError: see ``save``.
    """
    name = str(target).removeprefix("minari:")
    if masks and (is_minari(target) or Path(target).suffix.lower() == ".npz"):
        raise ValueError(f"{target}: filter keys (masks, --split) are part of robomimic's layout, wanted a .hdf5 or .h5 file.")
    if not is_minari(target):
        if Path(target).is_dir():
            raise ValueError(f"{target} is a directory; name the file to write.")
        if Path(target).suffix.lower() not in (".npz", ".hdf5", ".h5"):
            raise ValueError(f"{target}: demonstrations are written to .npz, .hdf5, .h5 or minari:<id>.")
    if generated and (publisher := published(name)) is not None:
        raise ValueError(
            f"{target} is how {publisher} names a published data set; generated data need another name, such as lift-scripted."
        )
    if is_minari(target):
        from ogpo_sb3.demonstrations import minari

        minari.free_path(name)


def is_minari(target: str | Path) -> bool:
    """Whether the target is a Minari data set.

    :param target: as in ``save``.
    """
    return isinstance(target, str) and target.startswith("minari:")


def published(name: str) -> str | None:
    """Who publishes a data set under such a name; None if nobody is known to.

    :param name: id or path.
    """
    # The folders nearest to the file are part of a published name (square/mh/low_dim.hdf5), those further up are not.
    plain = re.sub(r"[\W_]+", "-", "/".join(Path(name).parts[-4:]).lower())
    for publisher, pattern in _SETS.items():
        if re.search(rf"(^|-){pattern}(-|$)" if not pattern.startswith("^") else pattern, plain):
            return publisher
    return None
