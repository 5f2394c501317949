"""Replay buffer that stores the stream of single environment steps and samples windows (action chunks) from it."""

from typing import Literal, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize

from ogpo_sb3.common.step_stream import StepStream
from ogpo_sb3.common.transfer import map_arrays, to_gpu


class ChunkReplaySamples(NamedTuple):
    """
    Windows of h consecutive steps, of which the first k were executed (B windows, d action entries per step).

    The TD target is ``rewards + discounts * (1 - dones) * Q(next_observations, .)`` (OGPO, arXiv 2605.03065, A.1). The first
    six fields are those of Stable-Baselines3, whose SAC, TD3 and TQC train on them unchanged.

    :param observations: first observation of each window, (B, ...) or a dict of such tensors
    :param actions: (B, h * d), time-major; entries of steps that are not valid are padding
    :param next_observations: observation after the k-th step
    :param dones: (B, 1), 1 where the k-th step terminated (time limits and cuts bootstrap)
    :param rewards: (B, 1), sum of gamma^i r_i over i < k
    :param discounts: (B, 1), gamma^k
    :param valid: (B, h), 1 for the first k steps
    :param mc_returns: (B, 1), discounted return from the first step to the end of its episode, a time limit included
    :param mc_valid: (B, 1), 1 where that end is known
    :param step_rewards: (B, h), reward of each step, 0 where it is not valid
    :param decision: arrays recorded with the decision that begins the window; None without ``aligned=True``
    """

    observations: th.Tensor | TensorDict
    actions: th.Tensor
    next_observations: th.Tensor | TensorDict
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor
    valid: th.Tensor
    mc_returns: th.Tensor
    mc_valid: th.Tensor
    step_rewards: th.Tensor
    decision: dict[str, th.Tensor] | None = None

    @property
    def action_weights(self) -> th.Tensor:
        """(B, h * d), 1 for the action entries of steps that were executed, 0 for padding."""
        return self.valid.repeat_interleave(self.actions.shape[1] // self.valid.shape[1], dim=1)

    def squared_error(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: (B, h * d) of a policy that imitates
        :return: scalar, the mean over executed entries of the squared difference from ``self.actions``
        """
        weights = self.action_weights
        return (weights * (actions - self.actions).square()).sum() / weights.sum()


class ChunkReplayBuffer(StepStream):
    """
    Ring buffer of environment steps that samples windows of ``chunk_size`` steps beginning at any step.

    ``add`` takes apart the chunks that :class:`~ogpo_sb3.envs.chunking.ChunkActionWrapper` reports (plain steps are accepted
    too) and stores one row per environment step, each environment at its own write head. Windows never cross the end of an
    episode, an interruption of the stream (:meth:`cut`), another environment or the write head. With ``chunk_size=1`` the
    samples are those of Stable-Baselines3's ``ReplayBuffer``, draw for draw. Draws come from numpy's global generator.

    Starts are uniform over all rows of all environments, except the newest h - 1 rows of a running episode, whose window is
    not complete yet; those are offered only while there is nothing else.

    :param buffer_size: capacity in environment steps, shared evenly by the environments
    :param observation_space: Box of any rank, Discrete, MultiDiscrete, MultiBinary, or a Dict of these
    :param action_space: space of whole chunks, its flat dimension is h * d
    :param device: device of the samples
    :param n_envs: number of environments
    :param optimize_memory_usage: not supported (each observation is stored once anyway)
    :param handle_timeout_termination: bootstrap at time limits; if False they count as terminations
    :param chunk_size: number h of steps in a window
    :param gamma: discount per environment step
    :param chunk_end: "pad" keeps windows that an end shortens to k < h steps, exact by gamma^k; "drop" leaves them out, as the
        reference code does (they come back only while there is nothing else)
    :param pad_actions: what stands in ``actions`` after an end: "zero", or "replay" for the rest of the chunk that was chosen
        but not executed (zeros where the window reaches beyond it)
    :param decision_arrays: names and widths of float arrays to store per decision, given to ``add`` as
        ``infos[i]["decision"][name]``, returned by ``sample(..., aligned=True)``
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        chunk_size: int = 1,
        gamma: float = 0.99,
        chunk_end: Literal["pad", "drop"] = "pad",
        pad_actions: Literal["zero", "replay"] = "zero",
        decision_arrays: dict[str, int] | None = None,
    ):
        if optimize_memory_usage:
            raise NotImplementedError("optimize_memory_usage is True, wanted False: observations are stored only once anyway.")
        choices = (("chunk_end", chunk_end, ("pad", "drop")), ("pad_actions", pad_actions, ("zero", "replay")))
        for name, value, allowed in choices:
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}, wanted one of {allowed}.")
        self.chunk_end, self.pad_actions = chunk_end, pad_actions
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device=device,
            n_envs=n_envs,
            handle_timeout_termination=handle_timeout_termination,
            chunk_size=chunk_size,
            gamma=gamma,
            keep_rest=pad_actions == "replay",
            decision_arrays=decision_arrays,
        )
        self._powers = (self.gamma ** np.arange(self.chunk_size + 1, dtype=np.float64)).astype(np.float32)

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None, *, success_only: bool = False, aligned: bool = False
    ) -> ChunkReplaySamples:
        """
        Draw windows uniformly over all starts that are eligible.

        :param batch_size: number B of windows
        :param env: normalises observations, and rewards per step before they are discounted
        :param success_only: only starts in successful episodes; ValueError while ``n_success`` is 0
        :param aligned: only starts at which a decision was made, with their per-decision arrays
        :return: the windows
        """
        if not self._counts.any():
            raise ValueError("The replay buffer is empty, wanted at least one stored step to sample from.")
        if success_only and self._n_success == 0:
            raise ValueError("success_only is True, but n_success is 0: no successful episode is stored.")
        restricted = success_only or aligned or self._sparse or (self.chunk_end == "drop" and self.chunk_size > 1)
        rows, envs = self._draw(batch_size, success_only, aligned) if restricted else self._propose(batch_size)
        return self._get_windows(rows, envs, env, with_decision=aligned and bool(self.decision_widths))

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ChunkReplaySamples:  # type: ignore[override]
        """Windows that begin at given rows, of environments drawn at random, as Stable-Baselines3's buffers offer them."""
        return self._get_windows(batch_inds, np.random.randint(0, self.n_envs, size=len(batch_inds)), env)

    def _starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Number of possible starts per environment, and the row from which they lie one behind the other, (n_envs,) each."""
        incomplete = np.minimum(np.minimum(self._running, self.chunk_size - 1), self._counts)
        n_starts = self._counts - incomplete
        if not n_starts.any():
            return self._counts, np.zeros_like(self._counts)
        # With all rows eligible their own numbers are used: the draws are then those of Stable-Baselines3
        return n_starts, np.where(incomplete > 0, (self._heads - self._counts) % self.buffer_size, 0)

    def _propose(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows and environments, (n,) each, uniformly over all starts whose window is complete."""
        n_starts, begin = self._starts()
        if (n_starts == n_starts[0]).all():
            offset = np.random.randint(0, n_starts[0], size=n)
            envs = np.random.randint(0, self.n_envs, size=n)
        else:
            upto = np.cumsum(n_starts)
            flat = np.random.randint(0, upto[-1], size=n)
            envs = np.searchsorted(upto, flat, side="right")
            offset = flat - (upto - n_starts)[envs]
        return (begin[envs] + offset) % self.buffer_size, envs

    def _draw(self, batch_size: int, success_only: bool, aligned: bool) -> tuple[np.ndarray, np.ndarray]:
        """Draw under further conditions: by rejection, and from a list of all that remain where too few pass."""
        # A list of the successes pays off where they are rare
        from_list = success_only and self._n_success * 8 < self._counts.sum()
        parts: list[np.ndarray] = []
        missing, size = batch_size, batch_size * (self.chunk_size if aligned else 2)
        for _ in range(5):
            if from_list:
                marked = self._success_list()
                rows, envs = np.divmod(marked[np.random.randint(0, len(marked), size=size)], self.n_envs)
            else:
                rows, envs = self._propose(size)
            keep = self._passes(rows, envs, success_only, aligned)
            parts.append(np.stack([rows[keep], envs[keep]])[:, :missing])
            missing -= parts[-1].shape[1]
            if missing == 0:
                rows, envs = np.concatenate(parts, axis=1)
                return rows, envs
            size = min(4 * size, 65536)
        rows, envs = self._list_all(success_only, aligned)
        chosen = np.random.randint(0, len(rows), size=batch_size)
        return rows[chosen], envs[chosen]

    def _success_list(self) -> np.ndarray:
        """Rows of successful episodes as row * n_envs + env, listed anew only when marks have changed."""
        if self._success_rows is None:
            self._success_rows = np.flatnonzero(self.successes)
        return self._success_rows

    def _list_all(self, success_only: bool, aligned: bool) -> tuple[np.ndarray, np.ndarray]:
        """All starts that pass; where none does, those whose window is not complete, or ends early though ends are dropped."""
        n_starts, begin = self._starts()
        envs = np.repeat(np.arange(self.n_envs), n_starts)
        rows = (begin[envs] + np.concatenate([np.arange(n) for n in n_starts])) % self.buffer_size
        keep = self._passes(rows, envs, success_only, aligned)
        if not keep.any():
            envs = np.repeat(np.arange(self.n_envs), self._counts)
            rows = np.concatenate([np.arange(n) for n in self._counts])
            keep = self._passes(rows, envs, success_only, aligned, complete=False)
        if not keep.any():
            kind = " ".join(word for word, on in (("aligned", aligned), ("successful", success_only)) if on)
            raise ValueError(f"The replay buffer holds no {kind or 'usable'} window, wanted at least one to sample from.")
        return rows[keep], envs[keep]

    def _passes(
        self, rows: np.ndarray, envs: np.ndarray, success_only: bool, aligned: bool, complete: bool = True
    ) -> np.ndarray:
        """Which starts, (n,) each, satisfy the conditions."""
        keep = self.successes[rows, envs] if success_only else np.ones(len(rows), dtype=bool)
        if aligned:
            keep &= self.decision_starts[rows, envs]
        drop = complete and self.chunk_end == "drop"
        if drop or self._sparse:
            _, valid, last = self._windows(rows, envs)
            if drop:
                keep &= valid[:, -1]
            if self._sparse:
                after = (last + 1) % self.buffer_size
                keep &= self._known[rows, envs] & (self._known[after, envs] | (self._store.end_slot[last, envs] >= 0))
        return keep

    def _windows(self, rows: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Lay windows over the stream.

        :param rows: first rows, (B,)
        :param envs: their environments, (B,)
        :return: row * n_envs + env of each step (B, h), whether the window reaches that far (B, h), row of its last step (B,)
        """
        h = self.chunk_size
        flat = (rows[:, None] + np.arange(h)) % self.buffer_size * self.n_envs + envs[:, None]
        valid = np.ones((len(rows), h), dtype=bool)
        if h == 1:
            return flat, valid, rows
        newer = (self._heads[envs] - 1 - rows) % self.buffer_size  # rows between the start and the write head
        valid[:, 1:] = ~self._stops.reshape(-1)[flat[:, :-1]] & (np.arange(1, h) <= newer[:, None])
        valid = np.logical_and.accumulate(valid, axis=1)
        return flat, valid, (rows + valid.sum(axis=1) - 1) % self.buffer_size

    def _get_windows(
        self, rows: np.ndarray, envs: np.ndarray, env: VecNormalize | None = None, with_decision: bool = False
    ) -> ChunkReplaySamples:
        """Read the windows that begin at given rows (B,) of given environments (B,)."""
        flat, valid, last = self._windows(rows, envs)
        k = valid.sum(axis=1)
        # Normalised rewards are clipped one by one, so this comes before the sum
        step_rewards = self._normalize_reward(self.rewards.reshape(-1)[flat], env) * valid
        rewards = (step_rewards * self._powers[:-1]).sum(axis=1, keepdims=True)
        start = flat[:, 0]
        mc_returns = self.mc_returns.reshape(-1)[start]
        if env is not None and env.norm_reward:
            mc_returns = mc_returns / np.sqrt(env.ret_rms.var + env.epsilon).astype(np.float32)
        arrays = dict(
            observations=self._normalize_obs(self._store.read(start), env),
            actions=self._pad(flat, valid, last, envs),
            next_observations=self._normalize_obs(self._store.read_next(last, envs), env),
            dones=(self.dones[last, envs] * (1 - self.timeouts[last, envs]))[:, None],
            rewards=rewards,
            discounts=self._powers[k][:, None],
            valid=valid.astype(np.float32),
            mc_returns=mc_returns[:, None],
            mc_valid=self.mc_valid.reshape(-1)[start][:, None].astype(np.float32),
            step_rewards=step_rewards.astype(np.float32),
            decision={name: array[rows, envs] for name, array in self.decisions.items()} if with_decision else None,
        )
        if self.device.type == "cuda":
            return ChunkReplaySamples(**to_gpu(arrays, self.device))
        # All arrays above are fresh copies
        return ChunkReplaySamples(**map_arrays(lambda array: self.to_torch(array, copy=False), arrays))

    def _pad(self, flat: np.ndarray, valid: np.ndarray, last: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """Actions of windows, (B, h * d), with padding where they are not valid."""
        actions = self.actions.reshape(-1, self.step_dim).take(flat, axis=0)
        which, step = np.nonzero(~valid)
        actions[which, step] = 0
        if self._store.rest is not None:
            slots = self._store.end_slot[last, envs][which]
            actions[which, step] = self._store.rest[slots, step - valid.sum(axis=1)[which]]
        return actions.reshape(len(flat), self.action_dim)
