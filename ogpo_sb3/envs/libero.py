"""LIBERO: 130 tasks of a Panda arm, observed by two cameras and told by a sentence, on robosuite 1.4.1.

hf-libero's first import asks a question on standard input unless a configuration file exists, and its first environment
downloads gigabytes. Neither happens here: the file is written before, and absent meshes are an error that says how to get
them.
"""

import contextlib
import importlib.util
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ogpo_sb3.common.files import atomic_write
from ogpo_sb3.envs.registry import import_engine
from ogpo_sb3.envs.robosuite_base import RobosuiteEnv, import_robosuite

# Number of tasks of each suite (Liu et al. 2023).
SUITES: dict[str, int] = {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_90": 90, "libero_10": 10}
# Bytes that an instruction may have; the longest of the 130 has fewer.
INSTRUCTION_LENGTH = 160
# Folders of the assets that hf-libero looks for before it downloads.
ASSET_FOLDERS = ("articulated_objects", "stable_scanned_objects", "turbosquid_objects", "stable_hope_objects")
_HOW_TO_GET_ASSETS = "hf download lerobot/libero-assets --repo-type dataset --local-dir ~/.cache/libero/assets"
# Steps of a zero action after a recorded start, in which things come to rest: LIBERO's own evaluation does the same.
_SETTLING_STEPS = 5


class AssetsMissing(FileNotFoundError):
    """LIBERO is installed, its meshes and textures are not there."""


def configure() -> Path:
    """Write LIBERO's configuration, so that its import asks nothing.

    ``LIBERO_CONFIG_PATH`` or an existing ``~/.libero/config.yaml`` is respected, unless the file names folders that do not
    exist. Otherwise the file lies in ``$XDG_CACHE_HOME/ogpo_sb3/libero``. Must run before ``libero.libero`` is imported.

    :return: the folder of the file; ``LIBERO_CONFIG_PATH`` names it from then on.
    :raises ImportError: hf-libero is not installed.
    """
    root = package_folder()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ogpo_sb3" / "libero"
    chosen = os.environ.get("LIBERO_CONFIG_PATH")
    folder = Path(chosen) if chosen else Path.home() / ".libero"
    if not chosen and not _is_configured(folder):
        folder = cache
    if not _is_configured(folder):
        paths = {
            "benchmark_root": root,
            "bddl_files": root / "bddl_files",
            "init_states": root / "init_files",
            "datasets": cache / "datasets",
            "assets": root / "assets",
        }
        with atomic_write(folder / "config.yaml") as file:  # JSON is YAML
            file.write(json.dumps({key: str(path) for key, path in paths.items()}, indent=1).encode())
    os.environ["LIBERO_CONFIG_PATH"] = str(folder)
    return folder


def _is_configured(folder: Path) -> bool:
    """Whether a configuration is there and names folders that exist."""
    import yaml  # comes with the extra

    file = folder / "config.yaml"
    if not file.is_file():
        return False
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    return isinstance(found, dict) and all(Path(found.get(key, "")).is_dir() for key in ("bddl_files", "init_states"))


def package_folder() -> Path:
    """Where hf-libero keeps its task files, found without importing it.

    :raises ImportError: hf-libero is not installed.
    """
    try:
        spec = importlib.util.find_spec("libero")
    except ValueError:  # a module put aside by None in sys.modules
        spec = None
    if spec is None or not spec.submodule_search_locations:
        import_engine("libero", "hf-libero", "LIBERO", "libero")
        raise ImportError("LIBERO: the module libero is not hf-libero's package.", name="libero")
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


def asset_folders() -> tuple[Path, Path]:
    """The two places where hf-libero looks for meshes and textures: in its package and in the user's cache."""
    return package_folder() / "assets", Path.home() / ".cache" / "libero" / "assets"


def check_assets() -> Path:
    """Find LIBERO's meshes and textures.

    :return: their folder.
    :raises AssetsMissing: they are in neither place.
    """
    own, cached = asset_folders()
    # The order, and what counts as present, are hf-libero's.
    for folder in (own, cached):
        if all((folder / part).is_dir() for part in ASSET_FOLDERS):
            return folder
    raise AssetsMissing(
        f"LIBERO's meshes and textures are missing: neither {own} nor {cached} has the folders {', '.join(ASSET_FOLDERS)}. "
        f"They are not part of hf-libero; get them with `{_HOW_TO_GET_ASSETS}`."
    )


def encode_instruction(text: str) -> np.ndarray:
    """An instruction as numbers: its UTF-8 bytes over 255, filled up with zeros.

    :param text: at most 160 bytes.
    :return: (160,) float32 in [0, 1].
    :raises ValueError: it is longer.
    """
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    if len(data) > INSTRUCTION_LENGTH:
        raise ValueError(f"LIBERO: the instruction {text!r} has {len(data)} bytes, at most {INSTRUCTION_LENGTH} are kept.")
    encoded = np.zeros(INSTRUCTION_LENGTH, dtype=np.float32)
    encoded[: len(data)] = data / np.float32(255.0)
    return encoded


def decode_instruction(encoded: np.ndarray) -> str:
    """The text behind ``encode_instruction``.

    :param encoded: (160,).
    :return: the instruction.
    """
    data = np.rint(np.asarray(encoded) * 255.0).astype(np.uint8)
    return data.tobytes().rstrip(b"\0").decode()


class LiberoEnv(RobosuiteEnv):
    """One LIBERO task, step by step.

    The reward of a step is ``reward_scale * base + success_bonus * [the step succeeds]``; the base is -1, and 0 on a step that
    succeeds. The first success ends the episode, ``post_success_steps`` later. Actions are 7 numbers in ±1, as Robomimic's.

    Observations by ``obs_type``:

    - "state_image": Dict of "state" (39 numbers: sines and cosines of the joints among them), the cameras' pictures by name
      (height, width, 3) uint8, upright, and "instruction";
    - "image": the same without "state";
    - "state": Dict of "state" and "instruction" alone. Where the objects are is then unknown.

    :param suite: libero_spatial, libero_object, libero_goal, libero_90 or libero_10.
    :param task_id: from 0; hf-libero's order.
    :param obs_type: see above.
    :param image_size: height and width of the pictures, pixels: a number or a pair.
    :param cameras: names of the engine's cameras.
    :param state_keys: the engine's names of the observations in the state vector. LIBERO's files record as ``robot_states``
        ``("robot0_gripper_qpos", "robot0_eef_pos", "robot0_eef_quat")``.
    :param instruction: how the instruction becomes an observation: "bytes" (160 numbers, see ``encode_instruction``), a
        function from text to a vector of fixed size, such as a sentence encoder, or None to leave it out.
    :param initial_states: "benchmark" starts from one of the suite's recorded states, drawn anew each episode
        (``reset(options={"initial_state": i})`` chooses); "random" from the engine's own draw.
    :param reward_scale: factor on the base reward.
    :param success_bonus: added on every step that succeeds.
    :param post_success_steps: steps that the episode goes on after the first success.
    :param hard_reset: load the model anew for each episode.
    :param render_mode: None or "rgb_array".
    :raises AssetsMissing: LIBERO's meshes and textures are missing.
    """

    def __init__(
        self,
        suite: str = "libero_90",
        task_id: int = 0,
        obs_type: str = "state_image",
        image_size: int | tuple[int, int] = 128,
        cameras: Sequence[str] = ("agentview", "robot0_eye_in_hand"),
        state_keys: Sequence[str] = ("robot0_proprio-state",),
        instruction: str | Callable[[str], np.ndarray] | None = "bytes",
        initial_states: str = "benchmark",
        reward_scale: float = 1.0,
        success_bonus: float = 0.0,
        post_success_steps: int = 0,
        hard_reset: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if suite not in SUITES:
            raise ValueError(f"LIBERO has the suites {', '.join(SUITES)}, not {suite!r}.")
        if isinstance(task_id, bool) or not isinstance(task_id, (int, np.integer)) or not 0 <= task_id < SUITES[suite]:
            raise ValueError(f"{suite} has the tasks 0 to {SUITES[suite] - 1}, not {task_id!r}.")
        if initial_states not in ("benchmark", "random"):
            raise ValueError(f'LIBERO: initial_states is "benchmark" or "random", not {initial_states!r}.')
        if instruction not in ("bytes", None) and not callable(instruction):
            raise ValueError(f'LIBERO: instruction is "bytes", a function or None, not {instruction!r}.')
        super().__init__(
            name=f"LIBERO {suite} {task_id}",
            reward="sparse",
            reward_scale=reward_scale,
            success_bonus=success_bonus,
            post_success_steps=post_success_steps,
            obs_type=obs_type,
            image_size=image_size,
            cameras=cameras,
            render_mode=render_mode,
        )
        import_robosuite(self.name, "libero")
        configure()
        wrapper, benchmark = _module("envs.env_wrapper"), _module("benchmark")
        check_assets()
        self.suite, self.task_id, self.initial_states = suite, int(task_id), initial_states
        self._benchmark = _quietly(benchmark.get_benchmark(suite))
        self.instruction: str = self._benchmark.get_task(self.task_id).language
        encoded = _encoded(instruction, self.instruction)
        self._starts: np.ndarray | None = None
        self._start(
            lambda: _quietly(lambda: self._build(wrapper, hard_reset)),
            state_keys,
            {} if encoded is None else {"instruction": encoded},
        )

    def _build(self, wrapper: Any, hard_reset: bool) -> Any:
        height, width = self.image_size
        self._engine = wrapper.ControlEnv(
            bddl_file_name=self._benchmark.get_task_bddl_file_path(self.task_id),
            use_camera_obs=bool(self.cameras),
            has_offscreen_renderer=self._draws,
            camera_names=list(self.cameras),
            camera_heights=height,
            camera_widths=width,
            ignore_done=True,  # the time limit is the registration's
            hard_reset=hard_reset,
        )
        return self._engine.env

    def _reset_engine(self, options: dict[str, Any]) -> Mapping[str, np.ndarray]:
        raw = _quietly(self._engine.reset)
        if self.initial_states == "random" or "state" in options:
            return raw
        if self._starts is None:
            self._starts = np.asarray(self._benchmark.get_task_init_states(self.task_id))
        index = options.get("initial_state")
        if index is None:
            index = int(self.np_random.integers(len(self._starts)))
        if not 0 <= index < len(self._starts):
            raise ValueError(f"{self.name} has the initial states 0 to {len(self._starts) - 1}, not {index}.")
        self._engine.set_init_state(self._starts[index])
        for _ in range(_SETTLING_STEPS):
            raw = self._engine.step(np.zeros(self.action_space.shape or ()))[0]
        return raw

    def _localized(self, model_xml: str) -> str:
        return model_xml

    def _info(self, success: bool) -> dict[str, Any]:
        return {**super()._info(success), "instruction": self.instruction, "suite": self.suite, "task_id": self.task_id}


def _module(name: str) -> Any:
    """A module of hf-libero, whose import prints."""
    return _quietly(lambda: import_engine(f"libero.libero.{name}", "hf-libero", "LIBERO", "libero"))


def _encoded(how: str | Callable[[str], np.ndarray] | None, text: str) -> np.ndarray | None:
    """The instruction as an observation."""
    if how is None:
        return None
    if how == "bytes":
        return encode_instruction(text)
    assert callable(how)
    vector = np.asarray(how(text), dtype=np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise ValueError(f"LIBERO: instruction makes an array of shape {vector.shape}, not a vector of finite numbers.")
    return vector


def _quietly(call: Callable[[], Any]) -> Any:
    """Call without what the engine prints for its developers."""
    with contextlib.redirect_stdout(io.StringIO()):
        return call()
