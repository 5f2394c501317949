"""What every off-policy algorithm of the package shares: chunks, counting, rates, updates owed, saving."""

import pathlib
import warnings
from collections import defaultdict
from typing import Any, ClassVar, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, TrainFreq
from stable_baselines3.common.utils import get_device

from ogpo_sb3.common.buffers import ChunkReplayBuffer
from ogpo_sb3.common.captured import CapturedStep
from ogpo_sb3.common.collecting import CollectingMixin
from ogpo_sb3.common.critic_pretraining import CriticPretrainingMixin
from ogpo_sb3.common.chunked_env import chunk_env
from ogpo_sb3.common.counting import ChunkedMixin
from ogpo_sb3.common.options import (
    check_action_noise,
    check_critic_rate,
    check_demonstrations,
    check_heads,
    check_horizon,
    check_off_policy,
    check_policy,
    check_rhythm,
    check_trained,
    make_whole,
    noise_for,
)
from ogpo_sb3.common.features import GCPActor
from ogpo_sb3.common.policies import FAMILIES, GCPPolicy, by_name
from ogpo_sb3.common.precision import check_precision
from ogpo_sb3.common.pretraining import PretrainingMixin, adopt_checkpoint
from ogpo_sb3.common.saving import SavingMixin
from ogpo_sb3.common.schedules import Schedule
from ogpo_sb3.common.updates import UpdatesMixin
from ogpo_sb3.critics.heads import with_support

SelfGCP = TypeVar("SelfGCP", bound="GCPOffPolicyAlgorithm")


class GCPOffPolicyAlgorithm(
    PretrainingMixin, CriticPretrainingMixin, UpdatesMixin, CollectingMixin, ChunkedMixin, SavingMixin
):
    """
    SB3's off-policy algorithm for generative control policies over action chunks.

    ``num_timesteps`` and everything derived from it (``learn``'s total, ``learning_starts``, update ratios, schedules,
    log axes) count *environment steps*, summed over environments; a decision executes up to ``chunk_size`` of them.
    These arguments are shared by all algorithms, some of which have other defaults.

    :param policy: "FlowPolicy" or the name of another family, or a policy class
    :param env: environment, its id or a chunked vectorised environment; a plain one is wrapped in ``chunk_size``
    :param learning_rate: of everything that acts; number, "lin_<number>", SB3 schedule or ``WarmupCosine``
    :param critic_learning_rate: of the critics
    :param bc_learning_rate: of behaviour cloning before RL
    :param buffer_size: replay size, environment steps
    :param learning_starts: environment steps before the first update; explored by the pre-trained policy where there is one
        (with no offline data in the batches this is WSRL's warm-up), uniformly otherwise
    :param critic_warmup_updates: critic-only updates before the first actor update, not counted in ``n_updates``
    :param critic_pretrain_updates: critic updates on the demonstrations alone, at the end of ``pretrain``
    :param calql_coef: Cal-QL's alpha in them; 0 for plain TD learning
    :param batch_size: windows per critic step
    :param actor_batch_size: windows or states per actor step
    :param tau: Polyak rate of the target critics
    :param actor_tau: Polyak rate of the EMA actor
    :param gamma: discount per environment step
    :param train_freq: as in SB3, in environment steps
    :param gradient_steps: critic updates per ``train_freq`` (per env step with -1); owed per executed step, 1 when None
    :param utd_critic: critic updates per environment step, in place of ``gradient_steps``; fractions accrue
    :param utd_actor: actor updates per environment step; fractions accrue
    :param chunk_size: environment steps per decision; None: the wrapper's, the checkpoint's, the recommended one, or 1
    :param q_agg: how heads are combined in TD targets: "mean", "min" or "subsample"
    :param success_bc: the algorithm's form with a success buffer, see there; silent until successes exist
    :param bc_coef: coefficient of cloning in the actor's loss
    :param bc_offline_ratio: share of demonstration windows among those that ``success_bc`` clones
    :param success_critic: a second critic step per update on windows of successful episodes
    :param mc_coef: coefficient of regression on Monte-Carlo returns of finished episodes (2.6); a time limit ends them like a
        termination, so that their last 1 / (1 - gamma) steps miss what would have followed
    :param target_range: TD targets are clamped to this interval (low, high)
    :param demonstrations: file, ``minari:<id>``, ``shipped:<name>`` or ``DemonstrationSet``
    :param bc_steps: updates of behaviour cloning before RL
    :param clip_bc: stop behaviour cloning at this success rate, judged by the ODE sampler
    :param pretrained_policy: BC checkpoint written by ``model.policy.save``, in place of ``bc_steps``
    :param offline_ratio: share of demonstration windows in every batch
    :param max_grad_norm: gradient norms are clipped to this
    :param precision: of an update's matrix products: "fp32", "bf16", "bf16_full" or "tf32", see :class:`ogpo_sb3.OGPO`
    :param async_collection: run a rollout's updates while the workers of a ``SubprocVecEnv`` execute the next decision
    :param action_noise: added to the behaviour policy's actions
    :param replay_buffer_class: a subclass of ``ChunkReplayBuffer``
    :param replay_buffer_kwargs: its further arguments
    :param optimize_memory_usage: refused: observations are stored once anyway
    :param n_steps: refused unless 1: the chunk is the n-step return
    :param policy_kwargs: see :class:`ogpo_sb3.common.policies.GCPPolicy`
    :param stats_window_size: episodes that rollout statistics average over
    :param tensorboard_log: TensorBoard folder
    :param verbose: 0 silent, 1 information, 2 debugging
    :param seed: seed of every random draw
    :param device: "cpu", "cuda", "auto"
    :param _init_setup_model: build networks at construction
    :raises ValueError: unknown or contradictory options
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = by_name(FAMILIES)
    # What a policy class must derive from: an algorithm's own networks are in its policy.
    policy_base: ClassVar[type[GCPPolicy]] = GCPPolicy
    # Attributes that the policy needs to act, and keeps when it is saved alone.
    policy_settings: ClassVar[tuple[str, ...]] = ()
    # Arguments that count something, and may be written 4e4
    counts: ClassVar[tuple[str, ...]] = (
        "buffer_size",
        "learning_starts",
        "critic_warmup_updates",
        "critic_pretrain_updates",
        "batch_size",
        "actor_batch_size",
        "gradient_steps",
        "bc_steps",
    )
    policy: GCPPolicy
    actor: GCPActor
    replay_buffer: ChunkReplayBuffer

    def __init__(
        self,
        policy: str | type[GCPPolicy],
        env: GymEnv | str | None,
        learning_rate: float | str | Schedule = 3e-4,
        critic_learning_rate: float | str | Schedule = 3e-4,
        bc_learning_rate: float | str | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 20_000,
        critic_warmup_updates: int = 0,
        critic_pretrain_updates: int = 0,
        calql_coef: float = 0.0,
        batch_size: int = 256,
        actor_batch_size: int = 256,
        tau: float = 0.05,
        actor_tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int | None = None,
        utd_critic: float | None = None,
        utd_actor: float = 1.0,
        chunk_size: int | None = None,
        q_agg: str = "mean",
        success_bc: bool = False,
        bc_coef: float = 1.0,
        bc_offline_ratio: float = 0.0,
        success_critic: bool = False,
        mc_coef: float = 0.0,
        target_range: tuple[float, float] | None = None,
        demonstrations: Any = None,
        bc_steps: int = 0,
        clip_bc: float | None = None,
        pretrained_policy: str | pathlib.Path | None = None,
        offline_ratio: float = 0.0,
        max_grad_norm: float = 10.0,
        precision: str = "fp32",
        async_collection: bool = False,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ChunkReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        check_critic_rate(utd_critic, gradient_steps)
        check_precision(precision, get_device(device))
        check_off_policy(locals())
        check_demonstrations(locals())
        policy_kwargs = with_support(policy_kwargs, target_range)
        misplaced = sorted(set(policy_kwargs or {}) & set(self.policy_settings))
        if misplaced:
            raise ValueError(f"{misplaced} are arguments of {type(self).__name__} itself, found in policy_kwargs")
        check_policy(type(self).__name__, policy, self.policy_base, self.policy_aliases)
        if optimize_memory_usage:
            raise NotImplementedError("optimize_memory_usage is not needed: the chunk buffer stores each observation once")
        if n_steps != 1:
            raise ValueError(f"n_steps={n_steps} is not supported: a chunk of {chunk_size or 'h'} steps is the n-step return")
        if replay_buffer_class is not None and not issubclass(replay_buffer_class, ChunkReplayBuffer):
            raise ValueError(
                f"replay_buffer_class must be a subclass of ChunkReplayBuffer, found {replay_buffer_class.__name__}: other "
                "buffers store decisions, not environment steps"
            )
        pretrained_chunk_size = None
        if pretrained_policy is not None:
            pretrained_chunk_size, policy_kwargs = adopt_checkpoint(pretrained_policy, policy, policy_kwargs)
        if env is not None and _init_setup_model:
            env = chunk_env(env, chunk_size, pretrained_chunk_size, verbose)

        super().__init__(
            policy,
            env,  # type: ignore[arg-type]  # None is right when loading
            learning_rate,  # type: ignore[arg-type]
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=1 if gradient_steps is None else gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
        )
        self.critic_learning_rate, self.bc_learning_rate = critic_learning_rate, bc_learning_rate
        self.actor_tau = actor_tau
        self.actor_batch_size = actor_batch_size
        self.q_agg, self.target_range = q_agg, target_range
        self.success_bc, self.bc_coef = success_bc, bc_coef
        self.bc_offline_ratio = bc_offline_ratio
        self.success_critic, self.mc_coef = success_critic, mc_coef
        self.critic_warmup_updates = critic_warmup_updates
        self.critic_pretrain_updates, self.calql_coef = critic_pretrain_updates, calql_coef
        self.utd_critic, self.utd_actor = utd_critic, utd_actor
        self.demonstrations, self.bc_steps, self.clip_bc = demonstrations, bc_steps, clip_bc
        self.pretrained_policy = pretrained_policy
        self.offline_ratio = offline_ratio
        self.max_grad_norm = max_grad_norm
        self.precision = precision
        # Counters that a run needs to go on (saved in the zip)
        self._num_decisions = 0
        self._n_actor_updates = 0
        self._n_warmup_updates = 0
        self._n_critic_pretrain_updates = 0
        self._critic_debt = 0.0  # fraction of a critic update owed
        self._actor_debt = 0.0  # fraction of an actor update owed
        self._show_progress = False
        self._duration_announced = False
        self._init_async_collection(async_collection)
        self._init_pretraining()
        self._metrics: dict[str, list[th.Tensor]] = defaultdict(list)
        self._captured: dict[Any, CapturedStep] = {}  # recorded updates (GPU)
        self._diverged: dict[str, th.Tensor] = {}  # by loss: whether a step was left out (GPU)
        if _init_setup_model:
            self._setup_model()
            rate = self.critic_updates_per_step
            if rate == 0 and self.utd_actor > 0:
                warnings.warn(
                    f"{'gradient_steps' if utd_critic is None else 'utd_critic'}=0 makes no critic updates, and actor updates "
                    f"follow those: nothing will be trained; pass utd_actor=0, found {self.utd_actor:g}, to collect only",
                    stacklevel=3,
                )
            if gradient_steps is None and utd_critic is None and rate and rate < self.utd_actor:
                warnings.warn(
                    f"gradient_steps=1 makes {rate:.3g} critic updates per environment step, n_envs={self.n_envs}, "
                    f"fewer than utd_actor={self.utd_actor:g}: set utd_critic",
                    stacklevel=3,
                )

    # -- construction ---------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        make_whole(self, self.counts)
        self._check_options()  # ``load`` may have replaced some
        if self.replay_buffer_class is None:
            self.replay_buffer_class = ChunkReplayBuffer
        self.replay_buffer_kwargs = {**self.replay_buffer_kwargs, "chunk_size": self.chunk_size, "gamma": self.gamma}
        super()._setup_model()
        assert isinstance(self.train_freq, TrainFreq)
        check_rhythm(self.train_freq, self.n_envs)
        if self.num_timesteps > 0 and self.env is not None:  # loaded
            self.action_noise = noise_for(self.action_noise, self.n_envs)
        check_action_noise(self.action_noise, self.action_space.shape, None if self.env is None else self.n_envs)
        check_heads(self.q_agg, self.policy.n_heads)
        for name in self.policy_settings:
            setattr(self.policy, name, getattr(self, name))
        self._create_aliases()
        self._prepare_optimizers()
        self._setup_pretraining()

    def _check_options(self) -> None:
        """
        What can be told before there are networks; constructor and ``load`` both pass here.

        :raises ValueError: an impossible value or combination
        """
        check_off_policy(vars(self))
        check_trained(self._described, self.policy_class, self._trained_actors, self.policy_base.critic_class)

    @property
    def _trained_actors(self) -> tuple[str, ...]:
        """Names of the policy's networks that act and that updates know of: any other would act untrained."""
        return self.policy_base.actor_names

    @property
    def _described(self) -> str:
        """The algorithm's name, for errors."""
        return type(self).__name__

    def __setattr__(self, name: str, value: Any) -> None:
        """What the policy acts by is changed there too: ``model.best_of_n = 32`` is how it chooses from then on."""
        super().__setattr__(name, value)
        if name in self.policy_settings and "policy" in vars(self):
            setattr(self.policy, name, value)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        As SB3's; the demonstrations that updates draw from are read for it where a model was loaded without an environment.

        :param env: chunked as the model is
        :param force_reset: reset it before training goes on
        """
        super().set_env(env, force_reset)
        if self.demonstration_buffer is None:
            self._setup_pretraining()

    def _create_aliases(self) -> None:
        self.actor, self.actor_ema, self.actor_slow = self.policy.actor, self.policy.actor_ema, self.policy.actor_slow
        self.critic, self.critic_target = self.policy.critic, self.policy.critic_target
        for name in (*self.policy.actor_names, *self.policy.critic_names):  # of an algorithm's own
            setattr(self, name, getattr(self.policy, name))

    # -- collecting -----------------------------------------------------------------------------------------------

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if (reset_num_timesteps or self._last_obs is None) and self.replay_buffer is not None:
            # The environment is about to be reset without a done flag: nothing after may join what came before.
            self.replay_buffer.cut()
        if reset_num_timesteps:
            self._num_decisions = 0
        self._prepare_overlap()
        return super()._setup_learn(int(total_timesteps), callback, reset_num_timesteps, tb_log_name, progress_bar)

    def learn(
        self: SelfGCP,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfGCP:
        """
        Pre-train where that is due, then collect and update in turn.

        :param total_timesteps: environment steps, summed over environments; a float such as 3e6 works
        :param callback: as in SB3, called once per decision
        :param log_interval: episodes between two logs
        :param tb_log_name: TensorBoard run name, the class name by default
        :param reset_num_timesteps: begin counting anew
        :param progress_bar: show progress in environment steps
        """
        assert self.env is not None, "You must set the environment before calling learn()"
        check_horizon(total_timesteps, log_interval)
        if self.pretraining_due:
            self.pretrain(progress_bar=progress_bar or self.verbose > 0)
        self.policy.actor.gcp.check_ready()
        if self.critic_pretraining_due:
            self.pretrain_critic(progress_bar=progress_bar or self.verbose > 0)
        self._show_progress = progress_bar
        # The stock progress bar looks for this name among the local variables.
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        callback.on_training_start(locals(), globals())
        assert isinstance(self.train_freq, TrainFreq)
        while self.num_timesteps < total_timesteps:
            rollout = self.collect_rollouts(
                self.env,
                callback,
                self.train_freq,
                self.replay_buffer,
                action_noise=self.action_noise,
                learning_starts=self.learning_starts,
                log_interval=log_interval,
            )
            if not rollout.continue_training:
                break
            if self.num_timesteps > self.learning_starts:
                self._owe_updates(self._updates_owed(rollout.episode_timesteps))
        else:  # no callback stopped it
            self._run_pending_updates()
        self._read_metrics()
        callback.on_training_end()
        return self

    def dump_logs(self) -> None:
        """SB3's log table, with the number of decisions beside that of environment steps."""
        self._read_metrics()
        self.logger.record("time/decisions", self._num_decisions, exclude="tensorboard")
        super().dump_logs()

    # -- saving ---------------------------------------------------------------------------------------------------

    def _excluded_save_params(self) -> list[str]:
        aliases = ["actor_ema", "actor_slow", "critic_target", *self.policy.actor_names, *self.policy.critic_names]
        sources = [] if isinstance(self.demonstrations, str) else ["demonstrations"]
        passing = ["_metrics", "_captured", "_diverged"]
        return [*super()._excluded_save_params(), *aliases, *sources, *self._pretraining_excluded(), *passing]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", *(f"{name}.optimizer" for name in (*self.policy.actor_names, *self.policy.critic_names))], []
