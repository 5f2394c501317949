"""DPPO and ReinFlow: losses and advantages against slow loops, rollouts, frozen steps, what they reach."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from ogpo_sb3 import DPPO, OGPO, ChunkActionWrapper, ReinFlow, evaluate
from ogpo_sb3.common.policies import FlowPolicy as OffPolicyFlow
from ogpo_sb3.common.rollout_buffer import ChunkRolloutBuffer, ChunkRolloutSamples, RewardScaling
from ogpo_sb3.extraction import chunk_gae
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.toys import Bandit, Reach, reach_demonstrations


def build(algorithm=DPPO, policy="DiffusionPolicy", env=None, **kwargs):
    env = DummyVecEnv([Bandit] * 4) if env is None else env
    policy_kwargs = dict(net_arch=[16], denoising_steps=4) | kwargs.pop("policy_kwargs", {})
    sizes = dict(n_steps=8, batch_size=8, n_epochs=2, seed=0, device="cpu")
    return algorithm(policy, env, **sizes | kwargs, policy_kwargs=policy_kwargs)


class TestAdvantages:
    def test_gae_against_a_sum(self):
        """A_t = sum over later decisions of the same episode of (product of gamma^k lambda) times their TD errors."""
        rng = np.random.default_rng(0)
        shape = (7, 3)
        rewards, values, next_values = rng.normal(size=(3, *shape))
        lengths, ends = rng.integers(1, 5, shape), rng.random(shape) < 0.3
        discounts = 0.9**lengths
        found = chunk_gae(rewards, discounts, values, next_values, ends.astype(float), 0.8)
        for i in range(3):
            for t in range(7):
                total, factor, j = 0.0, 1.0, t
                while j < 7:
                    total += factor * (rewards[j, i] + 0.9 ** lengths[j, i] * next_values[j, i] - values[j, i])
                    if ends[j, i]:
                        break
                    factor *= 0.9 ** lengths[j, i] * 0.8
                    j += 1
                assert found[t, i] == pytest.approx(total, rel=1e-6)

    def test_lambda_one_is_the_monte_carlo_return(self):
        """Steps of a finished episode in chunks of different lengths: the return of single steps, discounted per step."""
        rewards = [np.array([1.0, -2.0]), np.array([0.5]), np.array([3.0, 1.0, 2.0])]
        flat = np.concatenate(rewards)
        space = spaces.Box(-1, 1, (2,))
        buffer = ChunkRolloutBuffer(3, space, spaces.Box(-1, 1, (1,)), "cpu", gae_lambda=1.0, gamma=0.9)
        for t, chunk in enumerate(rewards):
            end = np.array([t == 2])
            args = (np.zeros((1, 2)), np.zeros((3, 1, 1)), np.zeros((2, 1)), np.array([0.3]), [chunk], end, np.zeros(1))
            buffer.add(*args)
        buffer.compute_returns_and_advantage(np.array([100.0]))
        for t, first in enumerate((0, 2, 3)):
            wanted = sum(0.9**j * r for j, r in enumerate(flat[first:]))
            assert buffer.returns[t, 0] == pytest.approx(wanted, rel=1e-5)

    def test_minibatches_cover_a_rollout_once(self):
        space = spaces.Dict(a=spaces.Box(-1, 1, (2,)), n=spaces.Discrete(30))
        buffer = ChunkRolloutBuffer(7, space, spaces.Box(-1, 1, (1,)), "cpu", n_envs=3)
        for t in range(7):
            number = np.array([3 * t, 3 * t + 1, 3 * t + 2])
            obs = dict(a=np.stack([number, -number], 1) / 30, n=number)
            states, log_prob = np.tile(number[None, :, None], (3, 1, 1)), np.tile(number, (2, 1))
            buffer.add(obs, states, log_prob, number, [np.zeros(1)] * 3, np.zeros(3), np.zeros(3))
        buffer.compute_returns_and_advantage(np.zeros(3))
        seen, sizes = [], []
        for batch in buffer.get(8):
            number = batch.observations["n"][:, 0]
            sizes.append(len(number))
            seen += number.tolist()
            th.testing.assert_close(batch.observations["a"][:, 0], (number / 30).float())
            assert batch.states.shape == (3, len(number), 1) and (batch.states[:, :, 0] == number).all()
            assert batch.old_log_prob.shape == (2, len(number)) and (batch.old_log_prob == number).all()
            flat = buffer.advantages.reshape(-1)[number.long().numpy()]
            np.testing.assert_array_equal(batch.advantages.numpy(), flat)
        assert sorted(seen) == list(range(21)) and sizes == [7, 7, 7]

    def test_reward_scaling_is_the_spread_of_returns(self):
        rng = np.random.default_rng(0)
        scaling, seen, returns = RewardScaling(2), [], np.zeros(2)
        for _ in range(3):
            rewards, discounts, ends = rng.normal(2, 3, (5, 2)), 0.9 ** rng.integers(1, 4, (5, 2)), rng.random((5, 2)) < 0.3
            found = scaling.update(rewards, discounts, ends)
            for t in range(5):
                returns = returns * discounts[t] + rewards[t]
                seen += returns.tolist()
                returns = np.where(ends[t], 0.0, returns)
            assert found == pytest.approx(np.std(seen))
        assert RewardScaling(1).update(np.full((4, 1), -7.0), np.full((4, 1), 0.9), np.ones((4, 1))) == 1.0


class Counter(gym.Env):
    """Reward n at step n; the episodes end after 6 steps, terminated or truncated in turn."""

    def __init__(self):
        self.observation_space, self.action_space = spaces.Box(-1, 99, (2,)), spaces.Box(-1, 1, (1,))
        self.episode = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.episode = 0, self.episode + 1
        return np.array([0, self.episode], np.float32), {}

    def step(self, action):
        self.time += 1
        over, odd = self.time == 6, self.episode % 2 == 1
        return np.array([self.time, self.episode], np.float32), float(self.time), over and not odd, over and odd, {}


@pytest.mark.parametrize("chunk_size", [1, 4])
def test_a_rollout_of_chunks(chunk_size):
    """R, gamma^k, values at terminations, truncations and the rollout's end, step by step."""
    env = Counter() if chunk_size == 1 else ChunkActionWrapper(Monitor(Counter()), chunk_size)
    model = build(env=DummyVecEnv([lambda: env]), n_steps=5 * chunk_size, gamma=0.9, reward_scaling=False, n_epochs=1)
    model.train = lambda: None
    model.learn(10 if chunk_size == 4 else 5)  # the first rollout alone
    buffer, t, episode = model.rollout_buffer, 0, 0

    def value(time, episode):
        with th.no_grad():
            return model.policy.predict_values(th.tensor([[time, episode]], dtype=th.float32)).item()

    for i in range(5):
        k = min(chunk_size, 6 - t)
        assert buffer.observations[i, 0].tolist() == [t, episode]
        assert buffer.rewards[i, 0] == pytest.approx(sum(0.9**j * (t + j + 1) for j in range(k)))
        assert buffer.discounts[i, 0] == pytest.approx(0.9**k)
        assert buffer.values[i, 0] == pytest.approx(value(t, episode), abs=1e-5)
        t += k
        end = t == 6
        assert buffer.ends[i, 0] == end
        assert buffer.next_values[i, 0] == pytest.approx(0.0 if end and episode % 2 == 0 else value(t, episode), abs=1e-5)
        if end:
            t, episode = 0, episode + 1
    steps = 5 if chunk_size == 1 else 4 + 2 + 4 + 2 + 4
    assert model.num_timesteps == steps and model._num_decisions == 5


class TestLoss:
    @pytest.mark.parametrize("ratio", ["step", "chain"])
    @pytest.mark.parametrize("bounds", [None, (-1.0, 1.2)])
    @pytest.mark.parametrize("norm", ["mean", "sum"])
    @pytest.mark.parametrize("policy", ["DiffusionPolicy", "FlowPolicy"])
    def test_actor_loss_against_a_loop(self, policy, norm, bounds, ratio):
        """Ratios, clip ranges, discounts, normalisation of advantages and the frozen first step, number by number."""
        options = dict(ratio_norm=norm, **(dict(noise_std=0.2) if policy == "FlowPolicy" else {}))
        model = build(policy=policy, ratio=ratio, log_prob_clip=bounds, clip_range=0.2, policy_kwargs=options)
        model.policy.freeze_steps(1)
        gcp, B = model.actor.gcp, 5
        obs, advantages = th.rand(B, 1), th.randn(B)
        with th.no_grad():
            _, states = model.policy.draw(obs)
            old_density = gcp.transition_log_prob(gcp.condition(model.actor.features(obs)), states, th.arange(B), 1)
            for parameter in model.actor.parameters():  # the policy has moved since
                parameter += 0.03 * th.randn_like(parameter)
            density = gcp.transition_log_prob(gcp.condition(model.actor.features(obs)), states, th.arange(B), 1)
        F, D = 3, 2
        assert density.shape == (F, B, D) and states.shape == (F + 1, B, D)

        def clamp(x):
            return x if bounds is None else min(max(x, bounds[0]), bounds[1])

        def rows(density, b):
            numbers = [[density[k, b, d].item() for d in range(D)] for k in range(F)]
            if ratio == "step":
                sums = [sum(clamp(x) for x in row) for row in numbers]
                return [s / D if norm == "mean" else s for s in sums]
            total = sum(sum(row) for row in numbers)
            return [clamp(total / (F * D) if norm == "mean" else total)]

        mean = sum(advantages.tolist()) / B
        std = math.sqrt(sum((a - mean) ** 2 for a in advantages.tolist()) / (B - 1))
        wanted, n = 0.0, F if ratio == "step" else 1
        for b in range(B):
            for k in range(n):
                r = math.exp(rows(density, b)[k] - rows(old_density, b)[k])
                a = (advantages[b].item() - mean) / (std + 1e-8)
                epsilon = 0.2
                if ratio == "step":
                    a *= 0.99 ** (F - 1 - k)
                    epsilon = 0.001 + (0.2 - 0.001) * (math.exp(3.0 * k / (F - 1)) - 1) / (math.exp(3.0) - 1)
                wanted -= min(r * a, min(max(r, 1 - epsilon), 1 + epsilon) * a) / (n * B)
        old_log_prob = th.tensor([rows(old_density, b) for b in range(B)]).T
        batch = ChunkRolloutSamples(obs, states, old_log_prob, advantages, th.zeros(B))
        found = model._update_actor(batch)["policy_gradient_loss"]
        assert found.item() == pytest.approx(wanted, rel=1e-4, abs=1e-5)

    def test_value_loss_against_a_loop(self):
        """0.5 (V - R)^2 for every head, V within reach of the old value."""
        for reach in (None, 0.05):
            model = build(clip_range_vf=reach, policy_kwargs=dict(n_critics=3))
            obs, returns, advantages = th.rand(6, 1), th.randn(6), th.randn(6)
            heads, total = model.critic(obs).tolist(), 0.0
            for m in range(3):
                for b in range(6):
                    v, old = heads[m][b], (returns[b] - advantages[b]).item()
                    if reach is not None:
                        v = min(max(v, old - reach), old + reach)
                    total += 0.5 * (v - returns[b].item()) ** 2 / 18
            batch = ChunkRolloutSamples(obs, th.zeros(5, 6, 2), th.zeros(4, 6), advantages, returns)
            assert model._update_value(batch)["value_loss"].item() == pytest.approx(total, rel=1e-5)

    def test_entropy_of_learned_noise(self):
        """Its weight moves the noise up, and nothing else."""
        model = build(ReinFlow, "FlowPolicy", ent_coef=5.0, learning_rate=1e-3, reward_scaling=False)
        obs = th.rand(8, 1)
        with th.no_grad():
            _, states = model.policy.draw(obs)
            condition = model.actor.gcp.condition(model.actor.features(obs))
            old, before = model.chain_log_prob(condition, states), model.actor.gcp.entropy(condition).mean()
        for _ in range(20):
            model._update_actor(ChunkRolloutSamples(obs, states, old, th.zeros(8), th.zeros(8)))
        after = model.actor.gcp.entropy(model.actor.gcp.condition(model.actor.features(obs))).mean()
        assert after > before + 0.01

    @pytest.mark.parametrize(
        ("algorithm", "policy", "steps"),
        [
            (DPPO, "DiffusionPolicy", 4),
            (DPPO, "FlowPolicy", 4),
            (DPPO, "ShortcutPolicy", 4),
            (DPPO, "MIPPolicy", 2),
            (ReinFlow, "FlowPolicy", 4),
        ],
    )
    def test_first_minibatch_has_ratio_one(self, algorithm, policy, steps):
        """Old and new likelihood come from one function."""
        model = build(algorithm, policy, n_epochs=1, batch_size=1000, policy_kwargs=dict(denoising_steps=steps))
        model.learn(32)
        log = model.logger.name_to_value
        assert abs(log["train/approx_kl"]) < 1e-6 and log["train/clip_fraction"] == 0.0

    def test_updates_end_at_target_kl(self):
        quick = dict(learning_rate=3e-2, n_epochs=10, batch_size=8, clip_range=0.5, clip_range_base=0.5)
        free, bound, tight = (build(**quick, target_kl=kl).learn(32) for kl in (None, 1e-3, 1e-6))
        assert free._n_updates == 40 and bound._n_updates < 40
        assert tight._n_updates == 2  # in the middle of the first pass: the first minibatch's policy is the old one

    def test_critic_warm_up(self):
        model = build(critic_warmup_rollouts=2)
        before = {k: v.clone() for k, v in model.policy.state_dict().items()}
        model.learn(64)
        after = model.policy.state_dict()
        assert all(th.equal(before[k], after[k]) for k in before if not k.startswith("critic."))
        assert not all(th.equal(before[k], after[k]) for k in before if k.startswith("critic."))
        assert model._n_actor_updates == 0 and model._n_updates == 16
        model.learn(32, reset_num_timesteps=False)
        assert model._n_actor_updates == 8


def walk(**kwargs):
    return make_vec_env(Reach, 4, wrapper_class=ChunkActionWrapper, wrapper_kwargs=dict(chunk_size=2), **kwargs)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """One BC checkpoint per family, by OGPO; Reach in chunks of two."""
    folder, paths = tmp_path_factory.mktemp("bc"), {}
    for policy in ("FlowPolicy", "DiffusionPolicy"):
        kwargs = dict(net_arch=[32, 32], n_critics=2, denoising_steps=5)
        if policy == "FlowPolicy":
            kwargs["noise_schedule"] = "tapered"  # as given, not by default: an argument that the checkpoint hands on
        model = OGPO(
            policy,
            ChunkActionWrapper(Monitor(Reach()), 2),
            demonstrations=reach_demonstrations(),
            bc_steps=300,
            bc_learning_rate=2e-3,
            batch_size=64,
            device="cpu",
            seed=0,
            policy_kwargs=kwargs,
        )
        model.pretrain(progress_bar=False)
        paths[policy] = folder / f"{policy}.zip"
        model.policy.save(paths[policy])
        paths[policy + " model"] = model
    return paths


class TestPretrained:
    @pytest.mark.parametrize("algorithm, policy", [(DPPO, "DiffusionPolicy"), (DPPO, "FlowPolicy"), (ReinFlow, "FlowPolicy")])
    def test_the_checkpoint_is_the_policy(self, algorithm, policy, checkpoints):
        """Any of OGPO's checkpoints: chunk size, network and evaluation are its own, whatever the noise."""
        model = algorithm(policy, Reach(), pretrained_policy=checkpoints[policy], device="cpu", seed=3)
        source = checkpoints[policy + " model"]
        assert model.chunk_size == 2 and model.pretrained
        learned = model.actor.gcp.noise_net is not None if policy == "FlowPolicy" else False
        assert learned == (algorithm is ReinFlow)
        with th.no_grad():
            obs, noise = th.rand(5, 2), th.randn(5, 2)
            assert th.equal(model.policy.decide(obs, noise[:, None]), source.policy.decide(obs, noise[:, None]))
        first, second = (evaluate(m, lambda: ChunkActionWrapper(Monitor(Reach()), 2), n_episodes=8) for m in (model, source))
        assert first.returns.tolist() == second.returns.tolist()

    def test_back_to_ogpo(self, checkpoints, tmp_path):
        """What DPPO has tuned is a checkpoint for OGPO; so is ReinFlow's, with its noise left out or taken along."""
        for algorithm, policy in ((DPPO, "DiffusionPolicy"), (ReinFlow, "FlowPolicy")):
            model = algorithm(policy, walk(), pretrained_policy=checkpoints[policy], device="cpu", n_steps=8, batch_size=16)
            model.learn(32)
            model.policy.save(tmp_path / "tuned.zip")
            for kwargs in (dict(), dict(noise_schedule="tapered")) if algorithm is ReinFlow else (dict(),):
                kwargs |= dict(net_arch=[32, 32], n_critics=2)
                back = OGPO(policy, Reach(), pretrained_policy=tmp_path / "tuned.zip", device="cpu", policy_kwargs=kwargs)
                obs, noise = th.rand(5, 2), th.randn(5, 2)
                assert th.equal(model.policy.decide(obs, noise[:, None]), back.policy.decide(obs, noise[:, None]))

    def test_only_the_last_steps_are_tuned(self, checkpoints, tmp_path):
        """The first three of five steps stay those of the BC policy, in rollouts, in evaluation, and after loading."""
        options = dict(finetuned_steps=2, learning_rate=1e-2, n_steps=16, batch_size=16, device="cpu", seed=0)
        model = DPPO("DiffusionPolicy", walk(), pretrained_policy=checkpoints["DiffusionPolicy"], **options)
        assert model.policy.frozen_steps == 3
        source = checkpoints["DiffusionPolicy model"].policy.actor_ema
        model.learn(128)
        assert model.rollout_buffer.states.shape[2:] == (3, 2) and model.rollout_buffer.log_probs.shape[2:] == (2,)
        obs, noise = th.rand(5, 2), th.randn(5, 2)
        with th.no_grad():
            early = source.gcp.sample(source.features(obs), noise, end=3)
            late = model.policy.actor.gcp.sample(model.policy.actor.features(obs), early, begin=3)
            assert th.equal(model.policy.decide(obs, noise[:, None]), late) and not th.equal(late, source.sample(obs, noise))
            th.manual_seed(0)
            actions, states = model.policy.draw(obs)
            th.manual_seed(0)
            th.testing.assert_close(source.gcp.sample_chain(source.features(obs), end=3).states[-1], states[0])
            assert th.equal(states[-1].clamp(-1, 1), actions)
        model.save(tmp_path / "model")
        model.policy.save(tmp_path / "policy")
        loaded = [
            DPPO.load(tmp_path / "model", device="cpu").policy,
            type(model.policy).load(tmp_path / "policy", device="cpu"),
        ]
        for policy in loaded:
            assert policy.frozen_steps == 3 and th.equal(policy.decide(obs, noise[:, None]), late)
        # Its actor alone is another policy than what is deployed; before the first update it is the same one.
        kwargs = dict(device="cpu", policy_kwargs=dict(net_arch=[32, 32], n_critics=2))
        with pytest.raises(ValueError, match="first 3 denoising steps are made by a frozen actor"):
            OGPO("DiffusionPolicy", Reach(), pretrained_policy=tmp_path / "policy", **kwargs)
        untouched = DPPO("DiffusionPolicy", walk(), pretrained_policy=checkpoints["DiffusionPolicy"], **options).policy
        untouched.save(tmp_path / "untouched")
        back = OGPO("DiffusionPolicy", Reach(), pretrained_policy=tmp_path / "untouched", **kwargs).policy
        assert th.equal(back.decide(obs, noise[:, None]), untouched.decide(obs, noise[:, None]))

    @pytest.mark.parametrize(
        ("saved", "replaced", "named"),
        [
            (None, 2, "finetuned_steps=2 leaves 3 denoising steps .* the saved model has left 0"),
            (2, None, "finetuned_steps=None leaves 0 denoising steps .* the saved model has left 3"),
        ],
    )
    def test_load_cannot_make_or_lose_the_frozen_copy(self, saved, replaced, named, checkpoints, tmp_path):
        start = dict(pretrained_policy=checkpoints["DiffusionPolicy"], device="cpu", n_steps=8)
        DPPO("DiffusionPolicy", walk(), finetuned_steps=saved, **start).save(tmp_path / "model")
        with pytest.raises(ValueError, match=named):
            DPPO.load(tmp_path / "model", device="cpu", finetuned_steps=replaced)

    def test_without_a_pretrained_policy_all_steps_are_trained(self):
        assert build(finetuned_steps=2).policy.frozen_steps == 0

    def test_cloning_within_learn(self):
        """bc_steps and demonstrations as for OGPO, then updates; the frozen part is the cloned policy."""
        model = build(
            env=ChunkActionWrapper(Monitor(Reach()), 2),
            demonstrations=reach_demonstrations(4),
            bc_steps=20,
            finetuned_steps=2,
            policy_kwargs=dict(normalize_observations=True),
        )
        assert model.policy.frozen_steps == 0
        model.learn(16)
        assert model.pretrained and len(model.bc_history) == 1 and model.policy.frozen_steps == 2
        assert model.policy.actor.normalizer.mean_0.abs().max() > 0
        assert model._n_updates > 0

    @pytest.mark.parametrize("algorithm, policy", [(DPPO, "DiffusionPolicy"), (ReinFlow, "FlowPolicy")])
    def test_improves_a_cloned_policy(self, algorithm, policy):
        """Cloned for a moment from four shortest walks, of 2 to 4 steps: it comes to need about half as many steps."""
        noise = dict(min_noise_std=0.3) if algorithm is DPPO else dict(min_noise_std=0.2, max_noise_std=0.4)
        model = algorithm(
            policy,
            make_vec_env(Reach, 16, seed=0, wrapper_class=ChunkActionWrapper, wrapper_kwargs=dict(chunk_size=2)),
            demonstrations=reach_demonstrations(4),
            bc_steps=60,
            bc_batch_size=64,
            bc_learning_rate=2e-3,
            learning_rate=1e-3,
            n_steps=64,
            batch_size=64,
            n_epochs=5,
            gamma=0.95,
            clip_range=0.1,
            clip_range_base=0.1,
            seed=0,
            device="cpu",
            policy_kwargs=dict(net_arch=[32, 32], denoising_steps=5, **noise),
        ).pretrain(progress_bar=False)

        def mean_return():
            return evaluate(model, lambda: ChunkActionWrapper(Monitor(Reach()), 2), n_episodes=60).mean_return

        before = mean_return()
        model.learn(8 * 16 * 64)
        assert mean_return() > 0.75 * before, f"{before} to {mean_return()}"
        assert before < -8


@pytest.mark.parametrize("algorithm, policy", [(DPPO, "DiffusionPolicy"), (DPPO, "FlowPolicy"), (ReinFlow, "FlowPolicy")])
def test_reaches_the_optimum_of_a_bandit(algorithm, policy):
    """The rollouts' mean is the target, and their spread is little more than the noise of the last step."""
    noise = dict(noise_std=0.25) if (algorithm, policy) == (DPPO, "FlowPolicy") else {}
    model = build(
        algorithm,
        policy,
        DummyVecEnv([Bandit] * 32),
        n_steps=8,
        batch_size=64,
        n_epochs=5,
        learning_rate=2e-3,
        clip_range=0.1,
        clip_range_base=0.1,
        policy_kwargs=dict(net_arch=[32, 32], **noise),
    ).learn(20 * 256)
    actions, _ = model.predict(np.zeros((500, 1), np.float32))
    np.testing.assert_allclose(actions.mean(axis=0), 0.5, atol=0.06)
    assert actions.std(axis=0).max() < 0.2
    assert ((actions - 0.5) ** 2).sum(axis=1).mean() < 0.08


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        (dict(ratio="joint"), "ratio must be one of"),
        (dict(denoising_discount=0.0), "denoising_discount"),
        (dict(clip_range_base=0.0), "clip_range_base"),
        (dict(target_kl=-1.0), "target_kl"),
        (dict(log_prob_clip=(2.0, -5.0)), "log_prob_clip"),
        (dict(gae_lambda=1.5), "gae_lambda"),
        (dict(n_steps=0), "n_steps"),
        (dict(n_epochs=0), "n_epochs"),
        (dict(finetuned_steps=0), "finetuned_steps"),
        (dict(bc_steps=5), "needs demonstrations"),
        (dict(clip_range=-0.1), "clip_range"),
        (dict(policy_kwargs=dict(best_of_n=4)), "best_of_n=4 ranks candidates .* does not have"),
        (dict(policy=None), "DPPO needs a policy derived from ActorValuePolicy, found None"),
        (dict(policy=OffPolicyFlow), "DPPO needs a policy derived from ActorValuePolicy, found FlowPolicy; the names"),
        (dict(policy_kwargs=dict(frozen_steps=4)), "frozen_steps"),
        (dict(policy_kwargs=dict(subsample_bon=False)), "subsample_bon=False is about candidates"),
        (dict(ent_coef=float("nan")), "ent_coef must be at least 0, found nan"),
        (dict(rollout_buffer_class=list), "rollout_buffer_class"),
    ],
)
def test_bad_options_are_named(kwargs, named):
    with pytest.raises(ValueError, match=named):
        build(**kwargs)


@pytest.mark.parametrize(
    ("replaced", "named"),
    [
        (dict(n_epochs=0), "n_epochs must be at least 1, found 0"),
        (dict(batch_size=8.5), "batch_size must be a whole number, found 8.5"),
        (dict(gae_lambda=1.5), "gae_lambda must lie in"),
        (dict(gamma=99), "gamma must lie in"),
        (dict(target_kl=-1.0), "target_kl must be positive"),
        (dict(ratio="joint"), "ratio must be one of"),
        (dict(clip_range=-0.1), "clip_range"),
    ],
)
def test_what_load_replaces_is_checked(replaced, named, tmp_path):
    build().save(tmp_path / "model")
    with pytest.raises(ValueError, match=named):
        DPPO.load(tmp_path / "model", device="cpu", **replaced)
