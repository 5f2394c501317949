"""Push-T: a round pusher moves a T-shaped block onto its outline on a table of 512 x 512 pixels.

The engine is gym-pusht's ``PushT-v0``. This environment scales its observations and actions to ±1 and, for the block's
keypoints, takes the order of the published demonstrations instead of the engine's.
"""

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ogpo_sb3.envs import images
from ogpo_sb3.envs.registry import check_rewards, import_engine

if TYPE_CHECKING:
    from ogpo_sb3.demonstrations import DemonstrationSet

OBS_TYPES = ("state", "keypoints", "image", "state_image")
REWARDS = ("sparse", "dense", "coverage")

# Height and width of the published pictures, pixels.
PUBLISHED_SIZE = 96

# Half the table's side, pixels: positions p become p / 256 - 1.
_HALF = 256.0

# A state in which pusher and block do not touch: x, y of the pusher, x, y and angle of the block.
_APART = np.array([50.0, 50.0, 300.0, 300.0, 0.0])

# The nine keypoints in the block's own frame, pixels, in the published data set's order. Measured: the median over its
# 25 650 steps, from which 99 % of the rows differ by less than 0.04.
_KEYPOINTS = np.array(
    [
        [9.2698, 90.0410],
        [-60.9835, -1.1867],
        [60.9128, -1.3934],
        [-0.2705, 25.5436],
        [-14.0649, 122.8159],
        [39.0027, 32.8574],
        [-39.9664, 32.7297],
        [-16.8243, 62.8632],
        [23.5415, -1.7003],
    ]
)


class PushTEnv(gym.Env):
    """Push the T onto its outline, step by step.

    An action is the position the pusher is drawn to for a tenth of a second: ±1 spans the table. The episode ends when
    more than 95 % of the outline is covered.

    Observations by ``obs_type``:

    - "state" (6,): pusher x, y and block x, y scaled to ±1; sine and cosine of the block's angle;
    - "keypoints" (20,): nine block keypoints x, y, then the pusher x, y, all scaled to ±1;
    - "image" (height, width, 3) uint8;
    - "state_image": dictionary of "state" and "image".

    A block pushed against a wall can overlap it, so scaled positions can exceed ±1 a little and the spaces are unbounded.

    :param obs_type: see above.
    :param reward: "sparse": -1 per step and 0 on the step that succeeds; "dense": the engine's, covered share of the
        outline over 0.95, at most 1; "coverage": the dense one minus 1. Success ends the episode, and a dense return is
        larger the longer success is put off; where no step gives more than 0, nothing is gained by waiting.
    :param reward_scale: factor on the reward above.
    :param success_bonus: added on the step that succeeds. Coverage alone pays little for the last few per cent that make a
        success.
    :param image_size: height and width of an observed picture, pixels: a number or a pair.
    :param render_mode: None, "rgb_array" (680 x 680 pictures) or "human" (a window; not with images as observations).
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        obs_type: str = "state",
        reward: str = "sparse",
        image_size: int | tuple[int, int] = PUBLISHED_SIZE,
        render_mode: str | None = None,
        reward_scale: float = 1.0,
        success_bonus: float = 0.0,
    ) -> None:
        images.check_obs_type("Push-T", obs_type, OBS_TYPES)
        height, width = images.picture_size("Push-T", image_size)
        if reward not in REWARDS:
            raise ValueError(f"Push-T: reward is one of {REWARDS}, not {reward!r}.")
        check_rewards("Push-T", reward_scale=reward_scale, success_bonus=success_bonus)
        if render_mode == "human" and obs_type in ("image", "state_image"):
            # The engine draws either to its window or to an array, and observations need the array.
            raise ValueError(f'Push-T: render_mode="human" cannot be combined with obs_type={obs_type!r}.')
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        engine = import_engine("gym_pusht.envs", "gym-pusht", "Push-T", None)
        self.engine = engine.PushTEnv(
            obs_type="state", render_mode=render_mode or "rgb_array", observation_height=height, observation_width=width
        )
        self.obs_type = obs_type
        self.reward = reward
        self.reward_scale, self.success_bonus = reward_scale, success_bonus
        self.render_mode = render_mode
        self.observation_space = _space(obs_type, (height, width))
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        :param seed: makes the draw of pusher and block reproducible.
        :param options: ``{"state": [pusher x, y, block x, y, angle]}`` (pixels, radians) restores a recorded state, at rest.
        :return: observation and info.
        """
        super().reset(seed=seed)
        state, _ = self.engine.reset(seed=seed)
        if options is not None and "state" in options:
            state = self._restore(np.asarray(options["state"], dtype=np.float64))
        return self._observe(state), {"is_success": False, "state": state}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Draw the pusher towards a position for 0.1 s.

        :param action: target x, y, shape (2,), ±1.
        :return: observation, reward, terminated, truncated (always False here), info with ``is_success``, ``coverage``
            (share of the outline) and ``state`` (the engine's five numbers, pixels and radians).
        """
        target = (np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0) + 1.0) * _HALF
        state, dense, _, _, engine_info = self.engine.step(target)
        success = bool(engine_info["is_success"])
        base = float(dense) if self.reward != "sparse" else float(success)
        base -= float(self.reward != "dense")
        reward = self.reward_scale * base + self.success_bonus * success
        info = {"is_success": success, "coverage": float(engine_info["coverage"]), "state": state}
        if self.render_mode == "human":
            self.engine.render()
        return self._observe(state), reward, success, False, info

    def set_state(self, state: np.ndarray) -> Any:
        """Restore a recorded state, at rest; call ``reset`` before.

        :param state: pusher x, y, block x, y in pixels, angle in radians, shape (5,).
        :return: the observation.
        """
        return self._observe(self._restore(np.asarray(state, dtype=np.float64)))

    def render(self) -> Any:
        """The engine's picture: (680, 680, 3) uint8 for "rgb_array", None for "human"."""
        return None if self.render_mode is None else self.engine.render()

    def close(self) -> None:
        """Close the engine's window."""
        self.engine.close()

    def _restore(self, state: np.ndarray) -> np.ndarray:
        """Put pusher and block where a recording says.

        The angle comes first: the engine turns the block about its centre of gravity, which would move a position set
        before (its own ``reset_to_state`` does that, by up to 73 pixels). What the engine was doing is thrown away:
        velocities, and impulses of a contact (a random start can overlap), would move the block in the steps that follow.
        """
        if state.shape != (5,):
            raise ValueError(f"Push-T: a state has the shape (5,), not {state.shape}.")
        self.engine.reset(options={"reset_to_state": _APART})
        self.engine.agent.position = state[:2].tolist()
        self.engine.block.angle = float(state[4])
        self.engine.block.position = state[2:4].tolist()
        self.engine.space.reindex_shapes_for_body(self.engine.agent)
        self.engine.space.reindex_shapes_for_body(self.engine.block)
        return self.engine.get_obs()

    def _observe(self, state: np.ndarray) -> Any:
        if self.obs_type in ("state", "keypoints"):
            return encode(state, self.obs_type)
        return images.observation(self.obs_type, encode(state, "state"), {"image": self._image()})

    def _image(self) -> np.ndarray:
        # The engine's only way to an observation-sized picture: its public render() draws the large one with the target.
        return self.engine._render(visualize=False)


def encode(states: np.ndarray, obs_type: str) -> np.ndarray:
    """The engine's states as this environment's vector observations.

    :param states: (..., 5): pusher x, y, block x, y in pixels, angle in radians.
    :param obs_type: "state" or "keypoints".
    :return: (..., 6) or (..., 20) float32.
    """
    states = np.asarray(states, dtype=np.float64)
    sine, cosine = np.sin(states[..., 4]), np.cos(states[..., 4])
    if obs_type == "state":
        parts = [states[..., :4] / _HALF - 1.0, sine[..., None], cosine[..., None]]
    else:
        x = states[..., 2, None] + cosine[..., None] * _KEYPOINTS[:, 0] - sine[..., None] * _KEYPOINTS[:, 1]
        y = states[..., 3, None] + sine[..., None] * _KEYPOINTS[:, 0] + cosine[..., None] * _KEYPOINTS[:, 1]
        block = np.stack([x, y], axis=-1).reshape(*states.shape[:-1], 18)
        parts = [block / _HALF - 1.0, states[..., :2] / _HALF - 1.0]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def decode(observations: np.ndarray) -> np.ndarray:
    """The engine's states behind "state" observations, to single precision.

    :param observations: (..., 6).
    :return: (..., 5) float64, angles in [0, 2 pi).
    """
    observations = np.asarray(observations, dtype=np.float64)
    angle = np.arctan2(observations[..., 4], observations[..., 5]) % (2.0 * np.pi)
    return np.concatenate([(observations[..., :4] + 1.0) * _HALF, angle[..., None]], axis=-1)


def recorded_states(demonstrations: "DemonstrationSet") -> np.ndarray | None:
    """The engine's states behind recorded observations, for ``PushTEnv.set_state``.

    :param demonstrations: raw states, or adapted "state" or "state_image" observations.
    :return: (n, 5), or None for other observations.
    """
    observations = demonstrations.observations
    if isinstance(observations, dict):
        observations = observations.get("state", np.empty((0, 0)))
    if observations.shape[1:] == (5,):
        return np.asarray(observations, dtype=np.float64)
    return decode(observations) if observations.shape[1:] == (6,) else None


def adapt_demonstrations(
    demonstrations: "DemonstrationSet",
    obs_type: str = "state",
    reward: str = "sparse",
    image_size: int | tuple[int, int] = PUBLISHED_SIZE,
    reward_scale: float = 1.0,
    success_bonus: float = 0.0,
    **_: Any,
) -> "DemonstrationSet":
    """Bring published Push-T demonstrations to this environment's conventions.

    Recorded are states in pixels and radians (five numbers) and target positions in pixels. Pictures are drawn from the
    states, 27 648 bytes each at 96 x 96: take a subset first.

    :param demonstrations: raw states, or "state" observations adapted before; a set in the wanted form comes back
        unchanged.
    :param obs_type: of the environment.
    :param reward: of the environment. Sparse rewards are written where successes are known; for others, which no
        data set records, there are none.
    :param image_size: of the environment.
    :param reward_scale: of the environment.
    :param success_bonus: of the environment.
    :return: the adapted set, ``meta["pusht_obs_type"]`` being ``obs_type``.
    """
    sparse = (reward_scale, success_bonus) if reward == "sparse" else None
    form = demonstrations.meta.get("pusht_obs_type")
    observations = demonstrations.observations
    raw = form is None and not isinstance(observations, dict) and observations.shape[1:] == (5,)
    if form is None and not raw:
        return demonstrations  # what does not fit is for validate_for to name
    if form == obs_type:
        return _with_rewards(demonstrations, sparse)
    if not raw and form != "state":
        raise ValueError(
            f"{demonstrations.source}: {form} observations cannot be turned into {obs_type} ones; load the source again."
        )

    def convert(recorded: Any) -> Any:
        return _observations(np.asarray(recorded if raw else decode(recorded)), obs_type, image_size)

    final = demonstrations.final_observations
    adapted = replace(
        demonstrations,
        observations=convert(observations),
        final_observations=None if final is None else convert(final),
        actions=demonstrations.actions / _HALF - 1.0 if raw else demonstrations.actions,
        meta={**demonstrations.meta, "pusht_obs_type": obs_type},
    )
    return _with_rewards(adapted, sparse)


def _with_rewards(demonstrations: "DemonstrationSet", sparse: tuple[float, float] | None) -> "DemonstrationSet":
    """Sparse rewards, scaled and with a bonus, where successes are known; none where the environment pays for coverage."""
    if sparse is None:
        return demonstrations if demonstrations.rewards is None else replace(demonstrations, rewards=None)
    if demonstrations.successes is None:
        return demonstrations
    # Success ends an episode here, so it can only be the last step's.
    terminals = np.zeros(demonstrations.n_steps, dtype=bool)
    terminals[demonstrations.episode_ends - 1] = demonstrations.successes
    scale, bonus = sparse
    rewards = (scale * (terminals - 1.0) + bonus * terminals).astype(np.float32)
    if demonstrations.rewards is not None and np.array_equal(demonstrations.rewards, rewards):
        return demonstrations
    return replace(demonstrations, terminals=terminals, rewards=rewards)


def _observations(states: np.ndarray, obs_type: str, image_size: int | tuple[int, int]) -> Any:
    if obs_type in ("state", "keypoints"):
        return encode(states, obs_type)
    env = PushTEnv(obs_type="image", image_size=image_size)
    env.reset(seed=0)
    pictures = np.empty((len(states), *images.picture_size("Push-T", image_size), 3), dtype=np.uint8)
    for picture, state in zip(pictures, states, strict=True):
        env._restore(state.astype(np.float64))
        picture[...] = env._image()
    env.close()
    return images.observation(obs_type, encode(states, "state"), {"image": pictures})


def _space(obs_type: str, size: tuple[int, int]) -> spaces.Space[Any]:
    state = spaces.Box(-np.inf, np.inf, (20 if obs_type == "keypoints" else 6,), np.float32)
    pictures = {"image": images.picture_space(size)} if obs_type in ("image", "state_image") else {}
    return images.observation_space(obs_type, state, pictures)
