"""The writing half of the replay buffer: the stream of environment steps, one ring of rows per environment."""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from ogpo_sb3.common.observation_storage import ObservationLayout, ObservationStore, trim, untrim
from ogpo_sb3.common.step_reader import StepReader, Steps

try:
    import psutil  # type: ignore[import-untyped]
except ImportError:
    psutil = None


class StepStream(ReplayBuffer):
    """
    Stores what environments do, step by step; what is drawn from it is decided in
    :class:`~ogpo_sb3.common.buffers.ChunkReplayBuffer`, which documents the arguments.

    Each environment has its own write head, since environments finish chunks with different numbers of steps. An environment's
    rows form one stream, interrupted at the ends of episodes and at cuts.
    """

    # Arrays of shape (rows, n_envs) with their dtypes, besides observations, actions and per-decision arrays
    _columns: ClassVar[dict[str, type]] = {
        "rewards": np.float32,
        "dones": np.float32,
        "timeouts": np.float32,
        "successes": bool,
        "mc_returns": np.float32,
        "mc_valid": bool,
        "decision_starts": bool,
        "_stops": bool,  # a window ends here: end of an episode, or a cut
        "_known": bool,  # the observation was reported
    }
    successes: np.ndarray
    mc_returns: np.ndarray
    mc_valid: np.ndarray
    decision_starts: np.ndarray
    _stops: np.ndarray
    _known: np.ndarray

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str,
        n_envs: int,
        handle_timeout_termination: bool,
        chunk_size: int,
        gamma: float,
        keep_rest: bool,
        decision_arrays: dict[str, int] | None,
    ):
        # ReplayBuffer's own constructor would allocate rows of whole chunks, and next observations
        super(ReplayBuffer, self).__init__(int(buffer_size), observation_space, action_space, device, n_envs=n_envs)
        if isinstance(chunk_size, bool) or not isinstance(chunk_size, (int, np.integer)) or chunk_size < 1:
            raise ValueError(f"chunk_size is {chunk_size!r}, wanted an integer of at least 1.")
        of_space = getattr(action_space, "chunk_size", chunk_size)
        if of_space != chunk_size:
            raise ValueError(f"chunk_size is {chunk_size}, wanted {of_space} as in the action space.")
        if self.action_dim % chunk_size:
            raise ValueError(f"The action dimension is {self.action_dim}, wanted a multiple of chunk_size {chunk_size}.")
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma is {gamma!r}, wanted a number between 0 and 1.")
        self.buffer_size = max(int(buffer_size) // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.chunk_size = int(chunk_size)
        self.step_dim = self.action_dim // self.chunk_size
        self.gamma = float(gamma)
        self.keep_rest = keep_rest and self.chunk_size > 1
        self.decision_widths = dict(decision_arrays or {})
        for name, width in self.decision_widths.items():
            if not isinstance(width, (int, np.integer)) or width < 1:
                raise ValueError(f"decision_arrays[{name!r}] is {width!r}, wanted a width of at least 1.")
        self.reset()
        if psutil is not None and self.memory_bytes() > (free := psutil.virtual_memory().available):
            needed = f"{self.memory_bytes() / 1e9:.2f} GB"
            warnings.warn(f"The replay buffer takes {needed} when full, {free / 1e9:.2f} GB are available.", stacklevel=3)

    def reset(self) -> None:
        """Forget everything. Memory is taken as rows are written, not here."""
        super().reset()
        shape = (self.buffer_size, self.n_envs)
        dtype: Any = self._maybe_cast_dtype(self.action_space.dtype)
        rest_shape = (self.chunk_size - 1, self.step_dim) if self.keep_rest else None
        layout = ObservationLayout(self.observation_space)
        self._store = ObservationStore(layout, *shape, rest_shape=rest_shape, rest_dtype=dtype)
        self._reader = StepReader(
            layout,
            n_envs=self.n_envs,
            chunk_size=self.chunk_size,
            step_dim=self.step_dim,
            action_dtype=dtype,
            handle_timeout_termination=self.handle_timeout_termination,
            decision_widths=self.decision_widths,
        )
        self.actions = np.zeros((*shape, self.step_dim), dtype=dtype)
        for name, column_dtype in self._columns.items():
            setattr(self, name, np.zeros(shape, dtype=column_dtype))
        self.decisions = {name: np.zeros((*shape, width), dtype=np.float32) for name, width in self.decision_widths.items()}
        self._sparse = False  # some observation was not reported
        self._heads = np.zeros(self.n_envs, dtype=np.int64)  # next row to write
        self._counts = np.zeros(self.n_envs, dtype=np.int64)  # rows in use
        self._running = np.zeros(self.n_envs, dtype=np.int64)  # steps since the last stop, overwritten ones included
        self._n_success = 0
        self._success_rows: np.ndarray | None = None

    # What others ask
    @property
    def observations(self) -> Any:  # type: ignore[override]
        """First observation of each row, (rows, n_envs, ...), a dict of such arrays for Dict observations."""
        return self._store.layout.unwrap(self._store.rows)

    @property
    def n_stored(self) -> int:
        """Number of rows in use, of all environments."""
        return int(self._counts.sum())

    @property
    def n_success(self) -> int:
        """Number of rows stored at present that belong to a successful episode."""
        return self._n_success

    def size(self) -> int:
        """
        :return: rows in use, of the environment that has most
        """
        return int(self._counts.max())

    def memory_bytes(self) -> int:
        """
        :return: bytes of all arrays, once every row has been written
        """
        arrays = [self.actions, *(getattr(self, name) for name in self._columns), *self.decisions.values()]
        return self._store.nbytes + sum(array.nbytes for array in arrays)

    # Writing
    def add(
        self,
        obs: np.ndarray | dict[str, np.ndarray],
        next_obs: np.ndarray | dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store one decision per environment: the k steps in ``infos[i]["chunk"]``, a single step without that key.

        Nothing is stored when an argument is refused. If ``obs`` is not what the previous ``next_obs`` announced, and no end
        lies between, the stream was interrupted and is cut there.

        :param obs: observations before the decision, (n_envs, ...)
        :param next_obs: observations after it; the terminal one where an episode ended
        :param action: chunks (n_envs, h * d), of which the first k steps are kept; for plain steps (n_envs, d) will do
        :param reward: (n_envs,), used for plain steps (chunks report their own)
        :param done: (n_envs,), whether an episode ended with the last step of the decision
        :param infos: one info per environment; "TimeLimit.truncated" and "is_success" are read as well
        """
        for i, steps in enumerate(self._reader.decisions(obs, next_obs, action, reward, done, infos)):
            self._write(i, steps)
        self._update_position()

    def _write(self, i: int, steps: Steps) -> None:
        """Put steps into the rows at the head of environment i, over what is there."""
        store, n_rows, total = self._store, self.buffer_size, len(steps.rewards)
        if self._running[i]:
            newest = int(self._heads[i] - 1) % n_rows
            if store.follows(i, {key: value[0] for key, value in steps.observations.items()}):
                store.end_slot[newest, i] = -1  # the first new row takes over
            else:
                self._cut(i)
        skip = max(total - n_rows, 0)  # these would be overwritten at once
        k = total - skip
        head = int(self._heads[i] + skip) % n_rows
        last = (head + k - 1) % n_rows
        rows = slice(head, head + k) if head + k <= n_rows else np.arange(head, head + k) % n_rows

        store.forget(rows, i)
        if lost := int(np.count_nonzero(self.successes[rows, i])):
            self._n_success -= lost
            self._success_rows = None
        for name in ("dones", "timeouts", "successes", "mc_valid", "_stops"):
            getattr(self, name)[rows, i] = 0
        self._write_observations(rows, head, skip, i, steps)
        self.actions[rows, i] = steps.actions[skip:]
        self.rewards[rows, i] = steps.rewards[skip:]
        self.decision_starts[rows, i] = steps.starts[skip:]
        for name, value in steps.decision.items():
            self.decisions[name][head, i] = value
        ended = steps.done or steps.timeout
        self.dones[last, i] = steps.done
        self.timeouts[last, i] = steps.timeout
        self._stops[last, i] = ended
        store.set_next(last, i, steps.next_observation, steps.rest, lasting=ended)

        self._heads[i] = (head + k) % n_rows
        self._counts[i] = min(self._counts[i] + k, n_rows)
        self._running[i] += total
        if ended:
            self._finish_episode(i, steps.success)

    def _write_observations(self, rows: slice | np.ndarray, head: int, skip: int, i: int, steps: Steps) -> None:
        """Put observations into rows; where a chunk reported none of its inner ones, into the first row only."""
        complete = all(len(value) == len(steps.rewards) for value in steps.observations.values())
        self._known[rows, i] = complete
        if complete:
            self._store.write(rows, i, {key: value[skip:] for key, value in steps.observations.items()})
            return
        self._sparse = True
        if skip == 0:
            self._store.write(head, i, {key: value[0] for key, value in steps.observations.items()})
            self._known[head, i] = True

    def _finish_episode(self, i: int, success: bool) -> None:
        """Fill in what is known of an episode's rows only at its end."""
        n = int(min(self._running[i], self.buffer_size))
        rows = (self._heads[i] - n + np.arange(n)) % self.buffer_size
        returns, total = np.empty(n), 0.0
        for t, reward in zip(range(n - 1, -1, -1), self.rewards[rows[::-1], i].tolist(), strict=True):
            total = reward + self.gamma * total
            returns[t] = total
        self.mc_returns[rows, i] = returns
        self.mc_valid[rows, i] = True
        if success:
            self.successes[rows, i] = True
            self._n_success += n
            self._success_rows = None
        self._running[i] = 0

    def cut(self, env_indices: int | Sequence[int] | None = None) -> None:
        """
        Mark the newest row as an interruption of the stream, for an episode that is left without a done flag.

        Windows end there and bootstrap from that row's next observation, as at a time limit; its episode is never marked as a
        success and has no Monte-Carlo return. Nothing happens where the newest row is an end already.

        :param env_indices: environments concerned; None means all
        """
        indices = range(self.n_envs) if env_indices is None else np.atleast_1d(np.asarray(env_indices, dtype=np.int64))
        for i in indices:
            if not 0 <= i < self.n_envs:
                raise ValueError(f"env_indices has the entry {i}, wanted numbers from 0 to {self.n_envs - 1}.")
        for i in indices:
            self._cut(int(i))

    def _cut(self, i: int) -> None:
        if self._running[i]:
            newest = int(self._heads[i] - 1) % self.buffer_size
            self._store.make_lasting(newest, i)
            self._stops[newest, i] = True
            self._running[i] = 0

    def truncate_last_trajectory(self) -> None:
        """Cut the stream of every environment, for a loaded buffer that goes on with fresh episodes."""
        self.cut()

    def add_dataset(
        self,
        observations: np.ndarray | dict[str, np.ndarray],
        actions: np.ndarray,
        rewards: np.ndarray,
        terminals: np.ndarray,
        timeouts: np.ndarray,
        final_observations: np.ndarray | dict[str, np.ndarray] | None = None,
        successes: np.ndarray | None = None,
    ) -> None:
        """
        Store offline data, n steps of one stream, as if one environment had just produced them. Needs ``n_envs=1``.

        The stream is cut before and after the data. Decisions are taken to begin at every h-th step of an episode, unless
        ``decision_arrays`` are configured, which a data set does not have.

        :param observations: observation before each step, (n, ...) or a dict of such arrays, in the environment's layout
        :param actions: single-step actions (n, d), scaled as the policy's are
        :param rewards: (n,)
        :param terminals: (n,), steps that terminate an episode
        :param timeouts: (n,), steps after which an episode is left without termination
        :param final_observations: observation after each end (a row with terminal or timeout), one entry per end. Without it
            the end's own observation stands in, as it does for the last row where that is not an end
        :param successes: one entry per end, True marks all rows of its episode
        """
        if self.n_envs != 1:
            raise ValueError(f"The buffer has {self.n_envs} environments, wanted 1 for add_dataset.")
        columns = (rewards, terminals, timeouts, successes)
        episodes = self._reader.episodes(observations, actions, *columns, final_observations=final_observations)
        self.cut()
        for steps in episodes:
            self._write(0, steps)
        self.cut()
        self._update_position()

    def _update_position(self) -> None:
        fullest = int(self._counts.argmax())
        self.pos = int(self._heads[fullest])
        self.full = bool(self._counts[fullest] == self.buffer_size)

    # Saving
    def __getstate__(self) -> dict[str, Any]:
        """A file holds only the rows in use."""
        state, rows = self.__dict__.copy(), self.size()
        state.update({name: trim(state[name], rows) for name in ("actions", *self._columns)})
        state["decisions"] = {name: trim(array, rows) for name, array in self.decisions.items()}
        state["_store"] = self._store.trimmed(rows)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name in ("actions", *self._columns):
            setattr(self, name, untrim(state[name], self.buffer_size))
        self.decisions = {name: untrim(array, self.buffer_size) for name, array in self.decisions.items()}
        self._store.untrimmed()
