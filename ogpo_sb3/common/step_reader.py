"""Reading single environment steps out of what a chunked environment, a plain one or a data set reports, with all checks."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ogpo_sb3.common.observation_storage import Arrays, ObservationLayout, check_finite
from ogpo_sb3.envs.chunking import success_of


def check_sum(i: int, reward: float, rewards: np.ndarray) -> None:
    """
    :param i: environment
    :param reward: what it gave for a chunk
    :param rewards: (k,) of the chunk's steps
    :raises ValueError: they do not sum to it
    """
    total = float(rewards.sum(dtype=np.float64))
    if abs(total - reward) > 1e-4 * float(np.abs(rewards).sum(dtype=np.float64)) + 1e-6:
        raise ValueError(
            f"The chunk of env {i} was rewarded with {reward:g}, wanted {total:g}, the sum of its steps' rewards (wrappers "
            "that change rewards belong below ChunkActionWrapper)."
        )


class Steps(NamedTuple):
    """
    Consecutive steps of one environment, k of them.

    :param observations: per key (k, ...); or (1, ...) where only the first is known
    :param next_observation: per key (...), after the last step
    :param actions: executed actions (k, d)
    :param rest: actions chosen with them but not executed, (m, d)
    :param rewards: (k,)
    :param done: an episode ends with the last step
    :param timeout: it ends without termination
    :param success: it is a success; means something only at an end
    :param starts: which steps begin a decision, (k,)
    :param decision: arrays recorded with the decision that the first step begins
    """

    observations: Arrays
    next_observation: Arrays
    actions: np.ndarray
    rest: np.ndarray
    rewards: np.ndarray
    done: bool
    timeout: bool
    success: bool
    starts: np.ndarray
    decision: dict[str, np.ndarray]


class StepReader:
    """
    Takes decisions and data sets apart into steps; refuses what does not fit before anything is stored.

    :param layout: how observations are stored
    :param n_envs: number of environments
    :param chunk_size: number h of steps in a chunk
    :param step_dim: number d of action entries per step
    :param action_dtype: dtype of stored actions
    :param handle_timeout_termination: False makes time limits terminations
    :param decision_widths: names and widths of the arrays recorded per decision
    """

    def __init__(
        self,
        layout: ObservationLayout,
        n_envs: int,
        chunk_size: int,
        step_dim: int,
        action_dtype: Any,
        handle_timeout_termination: bool,
        decision_widths: dict[str, int],
    ):
        self.layout = layout
        self.n_envs = n_envs
        self.chunk_size = chunk_size
        self.step_dim = step_dim
        self.action_dtype = action_dtype
        self.handle_timeout_termination = handle_timeout_termination
        self.decision_widths = decision_widths
        self._trusts_infos = True  # observations in infos are those of the VecEnv

    def decisions(
        self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]
    ) -> list[Steps]:
        """
        Read one decision per environment; the arguments are those of ``ReplayBuffer.add``.

        :return: the steps that each environment executed
        """
        before = self.layout.convert(obs, self.n_envs, "obs")
        after = self.layout.convert(next_obs, self.n_envs, "next_obs")
        actions = self._split(action)
        rewards = np.asarray(reward, dtype=np.float32).reshape(-1)
        ends = np.asarray(done).reshape(-1).astype(bool)
        for name, found in (("reward", len(rewards)), ("done", len(ends)), ("infos", len(infos))):
            if found != self.n_envs:
                raise ValueError(f"{name} has {found} entries, wanted {self.n_envs}, one per environment.")
        check_finite("reward", rewards)
        result = []
        for i, info in enumerate(infos):
            first = {key: value[i : i + 1] for key, value in before.items()}
            last = {key: value[i] for key, value in after.items()}
            result.append(self._decision(i, first, last, actions[i], rewards[i : i + 1], bool(ends[i]), info))
        return result

    def _split(self, action: Any) -> np.ndarray:
        """Reshape actions to (n_envs, steps given, d)."""
        flat = np.asarray(action)
        if flat.size and flat.size % self.n_envs == 0:
            flat = flat.reshape(self.n_envs, -1)
        widths = (self.chunk_size * self.step_dim, self.step_dim)
        if flat.ndim != 2 or flat.shape[1] not in widths:
            wanted = (self.n_envs, widths[0])
            raise ValueError(f"The action has shape {np.shape(action)}, wanted {wanted}, or {widths[1]} columns for one step.")
        flat = flat.astype(self.action_dtype, copy=False)
        check_finite("action", flat)
        return flat.reshape(self.n_envs, -1, self.step_dim)

    def _decision(
        self, i: int, first: Arrays, last: Arrays, actions: np.ndarray, reward: np.ndarray, done: bool, info: dict[str, Any]
    ) -> Steps:
        """Check what one environment reports of a decision, and list its steps."""
        chunk = info.get("chunk")
        rewards, observations, raw = reward, first, None
        if chunk is not None:
            rewards = np.asarray(chunk["rewards"], dtype=np.float32).reshape(-1)
            check_finite(f'The chunk of env {i}: "rewards"', rewards, unit="step")
            if self.chunk_size == 1 and len(rewards) == 1:
                rewards = reward  # which a wrapper around the chunk may have changed, as one around a plain environment
            else:
                check_sum(i, reward[0], rewards)
            raw = chunk.get("next_observations")
        k = len(rewards)
        if not 1 <= k <= len(actions):
            raise ValueError(f"The chunk of env {i} executed {k} steps, wanted 1 to {len(actions)}, the steps of the action.")
        if raw is not None:
            observations, last = self._inside(i, k, first, last, raw, done)
        return Steps(
            observations=observations,
            next_observation=last,
            actions=actions[:k],
            rest=actions[k:],
            rewards=rewards,
            done=done,
            timeout=self.handle_timeout_termination and bool(info.get("TimeLimit.truncated", False)),
            success=bool(success_of(info)),
            starts=np.arange(k) == 0,
            decision=self._recorded(i, info),
        )

    def _inside(self, i: int, k: int, first: Arrays, last: Arrays, raw: Sequence[Any], done: bool) -> tuple[Arrays, Arrays]:
        """All observations of a chunk (k, ...) and the next one, from the raw ones that the environment reports."""
        name = f'The chunk of env {i}: "next_observations"'
        if len(raw) != k:
            raise ValueError(f"{name} has {len(raw)} entries, wanted {k}, one per reward.")
        if self.chunk_size == 1 and not self._trusts_infos:
            return first, last
        try:
            inside = self.layout.stack(raw, name)
            # At an end the raw one is preferred: next_obs may have been clipped when it was normalised
            if not done and any(not np.array_equal(inside[key][-1], last[key]) for key in last):
                raise ValueError(f"{name} ends with another observation than next_obs, wanted the same.")
        except ValueError as error:
            if self.chunk_size > 1:
                hint = "wrappers that change observations belong below ChunkActionWrapper, not around the VecEnv"
                raise ValueError(f"{str(error).rstrip('.')} ({hint}).") from None
            # A single step does not need the infos, so a wrapper around the VecEnv may do what it wants
            self._trusts_infos = False
            return first, last
        observations = {key: np.concatenate([first[key], inside[key][:-1]]) for key in first}
        return observations, {key: value[-1] for key, value in inside.items()}

    def _recorded(self, i: int, info: dict[str, Any]) -> dict[str, np.ndarray]:
        """Values of the configured per-decision arrays."""
        values = {}
        for name, width in self.decision_widths.items():
            found = info.get("decision", {}).get(name)
            value = None if found is None else np.asarray(found, dtype=np.float32).reshape(-1)
            if value is None or len(value) != width:
                what = "missing" if value is None else f"{len(value)} wide"
                raise ValueError(f'infos[{i}]["decision"][{name!r}] is {what}, wanted {width} numbers.')
            check_finite(f'infos[{i}]["decision"][{name!r}]', value, unit="entry")
            values[name] = value
        return values

    def episodes(
        self,
        observations: Any,
        actions: Any,
        rewards: Any,
        terminals: Any,
        timeouts: Any,
        successes: Any | None,
        final_observations: Any | None,
    ) -> list[Steps]:
        """
        Read a data set; the arguments are those of ``ChunkReplayBuffer.add_dataset``.

        :return: the steps of each episode, the last of which may lack an end
        """
        n = len(rewards)
        columns: dict[str, np.ndarray] = {"rewards": np.asarray(rewards, dtype=np.float32)}
        columns.update(terminals=np.asarray(terminals, dtype=bool), timeouts=np.asarray(timeouts, dtype=bool))
        for name, column in columns.items():
            if column.shape != (n,):
                raise ValueError(f"{name} has shape {column.shape}, wanted {(n,)}, one entry per step.")
        steps = np.asarray(actions, dtype=self.action_dtype)
        if steps.shape != (n, self.step_dim):
            raise ValueError(f"actions has shape {steps.shape}, wanted {(n, self.step_dim)}.")
        check_finite("rewards", columns["rewards"], unit="row")
        check_finite("actions", steps, unit="row")
        stream = self.layout.convert(observations, n, "observations", unit="row")
        ends = np.flatnonzero(columns["terminals"] | columns["timeouts"])
        marks = np.zeros(len(ends), dtype=bool) if successes is None else np.asarray(successes, dtype=bool)
        if marks.shape != (len(ends),):
            raise ValueError(f"successes has shape {marks.shape}, wanted {(len(ends),)}, one entry per end.")
        finals = None
        if final_observations is not None:
            finals = self.layout.convert(final_observations, len(ends), "final_observations", unit="end")
        result, begin = [], 0
        for number, stop in enumerate(np.append(ends + 1, n).tolist()):
            if stop == begin:
                continue  # nothing after the last end
            done = number < len(ends)
            source, index = (finals, number) if finals is not None and done else (stream, stop - 1)
            episode = Steps(
                observations={key: value[begin:stop] for key, value in stream.items()},
                next_observation={key: value[index] for key, value in source.items()},
                actions=steps[begin:stop],
                rest=steps[:0],
                rewards=columns["rewards"][begin:stop],
                done=done,
                timeout=done and self.handle_timeout_termination and not columns["terminals"][stop - 1],
                success=done and bool(marks[number]),
                starts=np.arange(stop - begin) % self.chunk_size == (-1 if self.decision_widths else 0),
                decision={},
            )
            result.append(episode)
            begin = stop
        return result
