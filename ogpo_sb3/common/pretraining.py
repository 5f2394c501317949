"""Behaviour cloning before RL: from demonstrations to one BC checkpoint that every algorithm can start from."""

import os
import pathlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import get_action_dim

from ogpo_sb3.common.buffers import ChunkReplayBuffer
from ogpo_sb3.common.optimization import check_step, guarded_step, polyak, prepare_optimizer, set_rate
from ogpo_sb3.common.options import check_at_least, draws_demonstrations, whole
from ogpo_sb3.common.policies import GCPPolicy
from ogpo_sb3.common.policy_files import read_policy_file
from ogpo_sb3.common.progress import progress
from ogpo_sb3.common.schedules import Schedule, as_schedule, schedule_value
from ogpo_sb3.envs.chunking import chunk_size_of
from ogpo_sb3.envs.registry import task_of

if TYPE_CHECKING:
    from ogpo_sb3.demonstrations import DemonstrationSet

# Keeps tanh-like inverses finite and matches the official code's clipping of data-set actions.
_ACTION_LIMIT = 1.0 - 1e-5
# Constructor arguments of a policy that belong to its actor: taken over from a BC checkpoint where the user gave none.
_ACTOR_KWARGS = (
    "net_arch",
    "activation_fn",
    "features_extractor_class",
    "features_extractor_kwargs",
    "normalize_images",
    "normalize_observations",
    "actor_keys",
)


def adopt_checkpoint(
    path: str | pathlib.Path, policy: str | type[Any], policy_kwargs: dict[str, Any] | None
) -> tuple[int, dict[str, Any]]:
    """
    What a model must share with the BC checkpoint it starts from.

    :param path: file written by ``model.policy.save``
    :param policy: name or class of the model's
    :param policy_kwargs: the user's, which win
    :return: the checkpoint's chunk size and completed policy_kwargs
    :raises ValueError: another family of policies, whose arguments would mean nothing
    """
    content = read_policy_file(path, family=policy if isinstance(policy, str) else policy.family())
    saved = content["data"]
    adopted = {name: saved[name] for name in (*_ACTOR_KWARGS, *content["gcp_names"])}
    return chunk_size_of(saved["action_space"]), {**adopted, **(policy_kwargs or {})}


class PretrainingMixin(BaseAlgorithm):
    """Demonstrations, behaviour cloning and BC checkpoints of all algorithms, off-policy and on-policy."""

    policy: GCPPolicy
    gamma: float
    batch_size: int
    bc_batch_size: int | None = None  # None: batch_size
    actor_tau: float
    max_grad_norm: float
    bc_steps: int
    clip_bc: float | None
    offline_ratio: float
    critic_pretrain_updates: int = 0  # where there are critics to pre-train
    demonstrations: Any
    pretrained_policy: str | pathlib.Path | None
    critic_learning_rate: float | str | Schedule
    bc_learning_rate: float | str | Schedule
    critic_lr_schedule: Schedule
    bc_lr_schedule: Schedule

    def _setup_lr_schedule(self) -> None:
        self.lr_schedule = as_schedule(self.learning_rate, "learning_rate")
        self.critic_lr_schedule = as_schedule(self.critic_learning_rate, "critic_learning_rate")
        self.bc_lr_schedule = as_schedule(self.bc_learning_rate, "bc_learning_rate")

    def _init_pretraining(self) -> None:
        if isinstance(self.demonstrations, os.PathLike):
            self.demonstrations = os.fspath(self.demonstrations)  # is saved with the model, as a name is
        self.pretrained = False  # a BC policy exists: it explores before learning_starts
        self.bc_history: list[dict[str, float]] = []  # update, loss, rate and, where evaluated, success
        self._n_bc_updates = 0
        self._bc_done = False
        self._bc_optimizer_state: dict[str, Any] | None = None
        self._demonstration_set: DemonstrationSet | None = None
        self.demonstration_buffer: ChunkReplayBuffer | None = None

    def _pretraining_excluded(self) -> list[str]:
        return ["_bc_optimizer_state", "_demonstration_set", "demonstration_buffer"]

    def _setup_pretraining(self) -> None:
        self._demonstration_set, self.demonstration_buffer = None, None
        if self.pretrained_policy is not None and not self.pretrained:
            self.policy.load_pretrained(self.pretrained_policy)
            self.pretrained = True
        # A model that is past every phase before RL and draws no windows of the data does not need them to be at hand.
        drawn = draws_demonstrations(vars(self)) or getattr(self, "critic_pretraining_due", False)
        cloning = not self._bc_done and self.num_timesteps == 0
        if (drawn or cloning) and getattr(self, "demonstrations", None) is not None and self.env is not None:
            self._demonstration_set = self._load_demonstrations()
            if drawn:
                self.demonstration_buffer = self._make_demonstration_buffer(self._demonstration_set)

    @property
    def pretraining_due(self) -> bool:
        """Behaviour cloning was asked for and has not been finished."""
        return self.bc_steps > 0 and not self._bc_done

    # -- data -----------------------------------------------------------------------------------------------------

    def _single_step_space(self) -> spaces.Box:
        """The action space of one environment step."""
        space = self.action_space
        assert isinstance(space, spaces.Box)
        if chunk_size_of(space) == 1:
            return space
        dim = get_action_dim(space) // chunk_size_of(space)
        return spaces.Box(space.low[:dim], space.high[:dim], dtype=space.low.dtype.type)

    def _load_demonstrations(self) -> "DemonstrationSet":
        from ogpo_sb3.demonstrations import load  # reads formats through optional libraries: not at import time

        assert self.env is not None
        demos = load(self.demonstrations)
        task = task_of(self.env)
        if task is not None:
            spec = self.env.get_attr("spec", indices=0)[0]
            demos = task.adapt(demos, **spec.kwargs)
        demos = demos.for_space(self.observation_space)
        demos.validate_for(self.observation_space, self._single_step_space())
        return demos

    def _scaled(self, actions: np.ndarray) -> np.ndarray:
        """Single-step actions (n, d) in [-1, 1], the scale of the policy and the replay buffer."""
        space = self._single_step_space()
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        scaled = 2.0 * (actions - low) / (high - low) - 1.0
        return scaled.clip(-_ACTION_LIMIT, _ACTION_LIMIT).astype(np.float32)

    def _make_demonstration_buffer(self, demos: "DemonstrationSet") -> ChunkReplayBuffer:
        if demos.rewards is None and (self.offline_ratio > 0 or self.critic_pretrain_updates > 0):
            raise ValueError(
                f"offline_ratio={self.offline_ratio} and critic_pretrain_updates={self.critic_pretrain_updates} train critics "
                f"on the demonstrations, but {demos.source} has no rewards"
            )
        as_online = getattr(self, "replay_buffer_kwargs", None) or {}
        buffer = ChunkReplayBuffer(
            demos.n_steps,
            self.observation_space,
            self.action_space,
            device=self.device,
            chunk_size=chunk_size_of(self.action_space),
            gamma=self.gamma,
            **{
                name: as_online[name]
                for name in ("chunk_end", "pad_actions", "handle_timeout_termination")
                if name in as_online
            },
        )
        ends = np.zeros(demos.n_steps, dtype=bool)
        ends[demos.episode_ends - 1] = True
        terminals = np.zeros_like(ends) if demos.terminals is None else demos.terminals.astype(bool)
        buffer.add_dataset(
            demos.observations,
            self._scaled(demos.actions),
            np.zeros(demos.n_steps, np.float32) if demos.rewards is None else demos.rewards,
            terminals,
            ends & ~terminals,
            final_observations=demos.final_observations,
            successes=demos.successes,
        )
        return buffer

    # -- behaviour cloning ----------------------------------------------------------------------------------------

    def pretrain(
        self,
        steps: int | None = None,
        eval_freq: int | None = None,
        n_eval_episodes: int = 50,
        eval_env: Any = None,
        progress_bar: bool = True,
        checkpoint: str | pathlib.Path | None = None,
        checkpoint_freq: int = 10_000,
    ) -> "PretrainingMixin":
        """
        Clone the demonstrations by the policy's own loss (OGPO section 2); the result is the EMA actor, which the online actor
        and the slow actor are set to at the end. Called by ``learn`` where it is due; goes on where it was interrupted.

        :param steps: updates in all; ``bc_steps`` by default
        :param eval_freq: evaluate every so many updates; by default twenty times with ``clip_bc``, else never
        :param n_eval_episodes: episodes per evaluation, always on the same seeds, ODE sampler, EMA weights
        :param eval_env: environment or id to evaluate in; by default one made like the training environment
        :param progress_bar: show rate and remaining time
        :param checkpoint: write a full checkpoint there every ``checkpoint_freq`` updates
        :param checkpoint_freq: see ``checkpoint``
        :raises ValueError: there are no demonstrations, or a number that counts nothing
        """
        if self._demonstration_set is None and getattr(self, "demonstrations", None) is not None and self.env is not None:
            self._demonstration_set = self._load_demonstrations()
        demos = self._demonstration_set
        if demos is None:
            raise ValueError("pretrain() needs demonstrations (and an environment), found None: pass demonstrations=...")
        steps = whole("steps", self.bc_steps if steps is None else steps)
        if steps < 1:
            raise ValueError(f"pretrain() needs at least one update, found steps={steps} (bc_steps={self.bc_steps})")
        eval_freq, checkpoint_freq = whole("eval_freq", eval_freq), whole("checkpoint_freq", checkpoint_freq)
        if eval_freq is None:
            eval_freq = max(1, steps // 20) if self.clip_bc is not None else steps + 1
        check_at_least(eval_freq=(eval_freq, 1), n_eval_episodes=(n_eval_episodes, 1), checkpoint_freq=(checkpoint_freq, 1))
        windows = self._windows(demos)
        if self._n_bc_updates == 0:
            self._warn_of_moving_observations()
            self.policy.fit_normalizer(windows[0])
            self.policy.fit_actions(windows[1])
        actor, ema = self.policy.actor, self.policy.actor_ema
        optimizer = self.policy.make_optimizer(actor, self.bc_lr_schedule(1.0), weight_decay=0.0)
        if self._bc_optimizer_state is not None:
            optimizer.load_state_dict(self._bc_optimizer_state)
        prepare_optimizer(optimizer, self.device)
        bar = progress(range(self._n_bc_updates, steps), "behaviour cloning", steps, progress_bar, self._n_bc_updates)
        success: float | None = None
        losses: list[float] = []
        for step in bar:
            actor.set_training_mode(True)
            rate = schedule_value("bc_learning_rate", self.bc_lr_schedule, 1.0 - step / steps, step)
            set_rate(optimizer, rate)
            losses.append(self._bc_update(optimizer, windows))
            # Early on a slow EMA would still be mostly the random initialisation.
            polyak(actor, ema, max(self.actor_tau, 1.0 / (step + 1)))
            self._n_bc_updates = step + 1
            evaluate_now = self._n_bc_updates % eval_freq == 0
            if evaluate_now or self._n_bc_updates % 100 == 0 or self._n_bc_updates == steps:
                entry = {"update": float(self._n_bc_updates), "loss": float(np.mean(losses)), "learning_rate": rate}
                if evaluate_now:
                    success = entry["success"] = self._bc_success(eval_env, n_eval_episodes)
                losses = []
                self.bc_history.append(entry)
                shown = {"loss": f"{entry['loss']:.3f}"} | ({} if success is None else {"success": f"{success:.2f}"})
                bar.set_postfix(shown, refresh=False)
            good_enough = evaluate_now and self.clip_bc is not None and success is not None and success >= self.clip_bc
            # Not of the update that ends it: a run that goes on from there would train past its end.
            if checkpoint is not None and self._n_bc_updates % checkpoint_freq == 0 and not good_enough:
                self._bc_optimizer_state = optimizer.state_dict()
                self.save_checkpoint(checkpoint)  # type: ignore[attr-defined]
            if good_enough:
                break
        bar.close()
        self._bc_optimizer_state = None
        self.policy.synchronise_actors()
        self.pretrained = self._bc_done = True
        return self

    def _warn_of_moving_observations(self) -> None:
        normaliser = self._vec_normalize_env
        if normaliser is not None and normaliser.norm_obs and normaliser.training:
            warnings.warn(
                "VecNormalize goes on learning its observation statistics, so that a policy cloned now will see other inputs "
                "later: give it statistics and training=False, or norm_obs=False and "
                "policy_kwargs=dict(normalize_observations=True)",
                stacklevel=3,
            )

    def _windows(self, demos: "DemonstrationSet") -> tuple[Any, np.ndarray, np.ndarray]:
        """Observations, scaled action windows (n, D) and per-number weights (n, D) of every step of the data."""
        scaled = type(demos)(
            observations=demos.observations, actions=self._scaled(demos.actions), episode_ends=demos.episode_ends
        )
        chunk_size = chunk_size_of(self.action_space)
        actions, valid = scaled.action_windows(chunk_size)
        observations: Any = demos.observations
        if self._vec_normalize_env is not None:
            observations = self._vec_normalize_env.normalize_obs(observations)
        return observations, actions, np.repeat(valid, actions.shape[1] // chunk_size, axis=1)

    def _bc_update(self, optimizer: th.optim.Optimizer, windows: tuple[Any, np.ndarray, np.ndarray]) -> float:
        observations, actions, weights = windows
        rows = np.random.randint(len(actions), size=self.bc_batch_size or self.batch_size)
        batch = {k: v[rows] for k, v in observations.items()} if isinstance(observations, dict) else observations[rows]
        obs, _ = self.policy.obs_to_tensor(batch)
        actor = self.policy.actor
        loss = actor.gcp.bc_loss(
            actor.features(obs),
            th.as_tensor(actions[rows], device=self.device),
            th.as_tensor(weights[rows], device=self.device),
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        _, bad = guarded_step(optimizer, loss, self.max_grad_norm)
        check_step(bad, loss, "bc_loss", 0)
        return loss.item()

    def _bc_success(self, eval_env: Any, n_episodes: int) -> float:
        from ogpo_sb3.evaluation import evaluate

        result = evaluate(self, eval_env, n_episodes=n_episodes, sampler="base")
        if result.success_rate is None:
            raise ValueError("clip_bc needs info['is_success'] at the end of an episode, the environment reports none")
        return result.success_rate
