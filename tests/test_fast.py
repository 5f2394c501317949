"""Action tokens and the autoregressive policy over them: codes against loops, exact likelihoods, cloning, algorithms on it."""

import copy
import itertools
import math
import sys

import numpy as np
import ogpo_sb3
import pytest
import torch as th
from ogpo_sb3 import DPPO, OGPO, OGPOChi2
from ogpo_sb3.common.policies import FASTPolicy
from ogpo_sb3.demonstrations import DemonstrationSet
from ogpo_sb3.gcp import FASTGCP
from ogpo_sb3.gcp.tokenizer import END, ActionTokenizer, cosine_basis
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.contract.models import differences, state
from tests.toys import Bandit, Reach, reach_demonstrations

F, H, STEP = 3, 4, 2


def smooth(n, h=H, d=STEP, seed=0):
    """Chunks that walk slowly, as demonstrations do."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(-0.8, 0.8, (n, 1, d)) + 0.1 * rng.normal(size=(n, h, d)).cumsum(axis=1)).clip(-1, 1)


@pytest.fixture(scope="module")
def fitted():
    tokenizer = ActionTokenizer(H, STEP, vocab_size=128)
    tokenizer.fit(smooth(2000))
    return tokenizer


def small(**kwargs):
    """A policy on tokens of smooth chunks, with logits that are far from uniform."""
    th.manual_seed(0)
    options = dict(net_arch=(16,), chunk_size=H, vocab_size=64, width=16, layers=2, heads=2)
    gcp = FASTGCP(F, H * STEP, **{**options, **kwargs})
    gcp.fit_actions(smooth(500).reshape(500, -1))
    with th.no_grad():
        gcp.head.weight.normal_(std=0.7)
        gcp.head.bias[END] = 2.0  # sequences of many lengths
    return gcp


class TestTokens:
    @pytest.mark.parametrize(
        "h, d, scale, vocab_size", [(4, 2, 10.0, 128), (1, 3, 5.0, 32), (8, 1, 40.0, 512), (6, 2, 2.0, 12)]
    )
    def test_round_trip(self, h, d, scale, vocab_size):
        """Every chunk in [-1, 1] comes back within the bound, like the demonstrations or not; the bound is nearly reached."""
        tokenizer = ActionTokenizer(h, d, vocab_size, scale)
        tokenizer.fit(smooth(500, h, d))
        rng = np.random.default_rng(1)
        rows = np.concatenate([smooth(200, h, d, 2), rng.uniform(-1, 1, (500, h, d)), rng.choice([-1.0, 1.0], (100, h, d))])
        tokens = tokenizer.encode(rows)
        error = np.abs(tokenizer.decode(tokens).numpy() - rows)
        assert tokens.shape == (800, h * d + 1) and tokens.dtype == th.int64
        assert 0.3 * tokenizer.error_bound < error.max() <= tokenizer.error_bound + 1e-5
        norms = np.sqrt((error**2).sum(axis=1))
        assert norms.max() <= tokenizer.error_bound + 1e-5, "the error of a dimension's coefficients is its own"

    def test_codes_against_a_loop(self, fitted):
        """Cosine sums number by number, rounded; lowest frequency of all dimensions first; then one merge after the other."""
        rows = smooth(20, seed=3)
        merges = [tuple(pair) for pair in fitted.merges.tolist() if pair[0] != -1]
        for row, found in zip(rows, fitted.encode(rows).tolist(), strict=True):
            integers = []
            for k, j in itertools.product(range(H), range(STEP)):
                total = sum(row[t, j] * math.cos(math.pi / H * (t + 0.5) * k) for t in range(H))
                integers.append(round(fitted.scale * total * math.sqrt((1 if k == 0 else 2) / H)))
            code = [1 + integer + fitted.largest for integer in integers]
            made = 2 + 2 * fitted.largest
            for left, right in merges:
                i = 0
                while i < len(code) - 1:
                    if (code[i], code[i + 1]) == (left, right):
                        code[i : i + 2] = [made]
                    i += 1
                made += 1
            assert found == code + [END] * (len(found) - len(code))

    def test_demonstrations_become_short(self, fitted):
        lengths = [
            (fitted.encode(rows) != END).sum(dim=1).float().mean().item() for rows in (smooth(300, seed=5), -smooth(300))
        ]
        wild = np.random.default_rng(0).uniform(-1, 1, (300, H, STEP))
        assert max(lengths) < 0.75 * H * STEP and (fitted.encode(wild) != END).sum(dim=1).float().mean() > max(lengths)
        assert int(fitted.n_used) == 128

    def test_every_sequence_is_an_action(self, fitted):
        """Ends at once, never, too early, too late: what is missing is zero, what is too much is cut."""
        tokens = th.randint(128, (500, 9))
        actions = fitted.decode(tokens)
        assert actions.shape == (500, H, STEP) and actions.abs().max() == 1.0
        assert th.equal(fitted.decode(th.full((1, 9), END)), th.zeros(1, H, STEP))
        integers = th.arange(9)[None] + 15
        assert (fitted.lengths[integers] == 1).all()
        assert th.equal(fitted.decode(integers), fitted.decode(integers[:, :8]))
        short = integers.clone()
        short[:, 2:] = END
        behind = short.clone()
        behind[:, 3:] = 77
        assert th.equal(fitted.decode(short), fitted.decode(behind)), "the first end is the end"
        wanted = (integers[0, :2] - 1 - fitted.largest) / fitted.scale / math.sqrt(H)
        th.testing.assert_close(fitted.decode(short)[0], wanted.expand(H, -1), msg="two integers: the means of two dimensions")

    def test_low_frequencies_come_first(self):
        """Every further token of a chunk brings its decoded prefix closer, where tokens are single coefficients."""
        tokenizer = ActionTokenizer(H, STEP, vocab_size=42)
        tokenizer.fit(smooth(10))
        rows = th.as_tensor(smooth(100, seed=7), dtype=th.float32)
        tokens, errors = tokenizer.encode(rows), []
        for kept in range(H * STEP + 1):
            prefix = tokens.clone()
            prefix[:, kept:] = END
            errors.append((tokenizer.decode(prefix) - rows).square().mean().item())
        assert errors[0] > 10 * errors[2] and all(a >= b - 2e-4 for a, b in itertools.pairwise(errors))

    def test_the_basis_is_orthonormal(self):
        for n in (1, 5, 8):
            th.testing.assert_close(cosine_basis(n) @ cosine_basis(n).T, th.eye(n, dtype=th.float64))

    def test_state_and_copies(self, fitted):
        """Tokens travel with the state dict, into modules that have encoded other ones before, and with copies."""
        other = ActionTokenizer(H, STEP, vocab_size=128)
        other.fit(smooth(50, seed=9) / 2)
        rows = smooth(100, seed=4)
        assert not th.equal(other.encode(rows), fitted.encode(rows))
        other.load_state_dict(fitted.state_dict())
        again = ActionTokenizer(H, STEP, vocab_size=128)
        again.fit(smooth(2000))
        for tokenizer in (other, copy.deepcopy(fitted), again):
            assert th.equal(tokenizer.encode(rows), fitted.encode(rows))
            assert not differences(tokenizer.state_dict(), fitted.state_dict())

    def test_what_does_not_fit_is_refused(self, fitted):
        with pytest.raises(ValueError, match=r"chunks of 4 steps of 2 numbers, found an array of shape \(5, 4, 3\)"):
            fitted.encode(np.zeros((5, 4, 3)))
        with pytest.raises(ValueError, match=r"found an array of shape \(5, 6\)"):
            fitted.fit(np.zeros((5, 6)))
        for bad in (np.nan, 1.5, -np.inf):
            rows = np.zeros((3, H, STEP))
            rows[1, 2, 0] = bad
            with pytest.raises(ValueError, match=f"finite and lie in .* found {bad}"):
                fitted.encode(rows)
        with pytest.raises(ValueError, match="there are no action tokens yet"):
            ActionTokenizer(H, STEP).encode(np.zeros((1, H, STEP)))
        with pytest.raises(ValueError, match="found no window"):
            ActionTokenizer(H, STEP).fit(np.zeros((0, H, STEP)))
        short = ActionTokenizer(H, STEP, vocab_size=48, max_tokens=4)
        with pytest.raises(ValueError, match="max_tokens=4 is too short"):
            short.fit(smooth(100))
        assert not short.fitted

    def test_a_shorter_limit_drops_the_highest_frequencies(self):
        tokenizer = ActionTokenizer(H, STEP, vocab_size=48, max_tokens=3)
        tokenizer.fit(np.full((10, H, STEP), 0.5))
        rows = smooth(50)
        tokens = tokenizer.encode(rows)
        assert tokens.shape == (50, 3) and np.abs(tokenizer.decode(tokens).numpy() - rows).max() < 1.0

    def test_the_missing_library_is_named(self, monkeypatch, fitted):
        """Encoding needs it; what has been trained acts without."""
        gcp = small()
        monkeypatch.setitem(sys.modules, "tokenizers", None)
        for call in (lambda: ActionTokenizer(H, STEP).fit(smooth(5)), gcp.check_ready):
            with pytest.raises(ImportError, match=r'^action tokens need the package tokenizers: run `pip install "ogpo_sb3'):
                call()
        assert gcp.sample(th.zeros(2, F)).shape == (2, H * STEP)


class TestLikelihood:
    @pytest.mark.parametrize("norm", ["mean", "sum"])
    @pytest.mark.parametrize("temperature", [1.0, 0.5])
    def test_scoring_equals_sampling(self, norm, temperature):
        gcp = small(ratio_norm=norm, temperature=temperature)
        features = th.randn(40, F)
        with th.no_grad():
            chain = gcp.sample_chain(features, 3)
            owner = th.arange(40).repeat_interleave(3)
            scored = gcp.log_prob_of(gcp.condition(features), chain.states, owner)
            some = th.randperm(120)[:50]
            part = gcp.log_prob_of(gcp.condition(features), chain.states[:, some], owner[some])
            from_buffer = gcp.chain_log_prob(features.repeat_interleave(3, 0), chain.states.float())
        assert chain.states.shape == (9, 120) and chain.actions.shape == (120, H * STEP)
        assert gcp.tokens_in(chain.states).unique().numel() > 3, "sequences of many lengths"
        tolerance = dict(rtol=0, atol=1e-5 if norm == "mean" else 2e-3)
        for found, wanted in ((scored, chain.log_prob), (part, chain.log_prob[some]), (from_buffer, chain.log_prob)):
            th.testing.assert_close(found, wanted, **tolerance)
        assert th.equal(chain.actions, gcp.tokenizer.decode(chain.states.T).flatten(1))

    def test_against_a_slow_loop(self):
        """Token by token, chain by chain, in float64, each time from the prefix alone; and the mean."""
        gcp = small(temperature=0.7, ratio_norm="mean").double()
        features = th.randn(8, F, dtype=th.float64)
        with th.no_grad():
            states = gcp.sample_chain(features).states
            steps = gcp.step_log_prob(features, states)
            transitions = gcp.transition_log_prob(gcp.condition(features), states, th.arange(8))
            found = gcp.chain_log_prob(features, states)
            assert transitions.shape == (9, 8, 1) and th.equal(transitions[..., 0], steps)
            assert gcp.tokens_in(states).unique().numel() > 2
            for b in range(8):
                total, drawn, condition = 0.0, 0, gcp.condition(features[b : b + 1])
                for place in range(9):
                    prefix = th.cat([states[:place, b], th.zeros(1, dtype=th.int64)])
                    logits = gcp.logits(condition, prefix[None])[0, -1].numpy() / 0.7
                    logits = logits[: int(gcp.tokenizer.n_used)]
                    own = logits[states[place, b]] - logits.max() - math.log(np.exp(logits - logits.max()).sum())
                    assert steps[place, b].item() == pytest.approx(own, abs=1e-9)
                    total, drawn = total + own, drawn + 1
                    if states[place, b] == END:
                        break
                assert (steps[drawn:, b] == 0).all() and found[b].item() == pytest.approx(total / drawn, abs=1e-9)

    def test_the_future_does_not_matter(self):
        gcp = small()
        condition, tokens = gcp.condition(th.randn(5, F)), th.randint(1, 60, (5, 9))
        with th.no_grad():
            before = gcp.logits(condition, tokens)
            tokens[:, 4:] = 7
            th.testing.assert_close(gcp.logits(condition, tokens)[:, :5], before[:, :5])

    @pytest.fixture
    def tiny(self):
        """Four tokens, of which a sequence has at most three; all sequences and their probabilities for one state."""
        gcp = FASTGCP(1, 1, (8,), vocab_size=4, scale=0.5, max_tokens=3, width=8, layers=1, heads=2, ratio_norm="sum")
        gcp.fit_actions(np.zeros((4, 1)))
        th.manual_seed(1)
        with th.no_grad():
            gcp.head.weight.normal_(std=0.4)
        sequences = [(*start, *[END] * (3 - len(start))) for n in range(4) for start in itertools.product((1, 2, 3), repeat=n)]
        states = th.tensor(sequences).T
        with th.no_grad():
            log_prob = gcp.log_prob_of(gcp.condition(th.ones(1, 1)), states, th.zeros(len(sequences), dtype=th.int64))
        return gcp, sequences, log_prob.exp()

    def test_all_sequences_sum_to_one(self, tiny):
        _, sequences, probability = tiny
        assert len(sequences) == 1 + 3 + 9 + 27 and probability.sum().item() == pytest.approx(1.0, abs=1e-5)
        assert 0.05 < probability.max() < 0.5

    @pytest.mark.parametrize("how", ["chains", "candidates"])
    def test_draws_have_the_probabilities(self, tiny, how, monkeypatch):
        gcp, sequences, probability = tiny
        th.manual_seed(0)
        n, drawn = 20_000, []
        generate = FASTGCP._generate
        monkeypatch.setattr(FASTGCP, "_generate", lambda *args: drawn.append(generate(*args)) or drawn[-1])
        with th.no_grad():
            if how == "chains":
                gcp.sample_chain(th.ones(1, 1), n)
            else:  # noise of three numbers, as long as the sequence: independent quantiles
                gcp.candidate(th.ones(n, 1), th.randn(n, 3))
        states = th.cat([chain.states for chain in drawn], dim=1)
        number = {sequence: i for i, sequence in enumerate(sequences)}
        found = np.bincount([number[tuple(column)] for column in states.T.tolist()], minlength=len(sequences)) / n
        wanted = probability.numpy()
        assert (np.abs(found - wanted) < 4.5 * np.sqrt(wanted * (1 - wanted) / n) + 1e-4).all()

    def test_candidates_differ_by_their_noise_alone(self):
        gcp = small()
        features, noise = th.randn(1, F).expand(50, -1), th.randn(50, H * STEP)
        with th.no_grad():
            actions = gcp.candidate(features, noise)
            assert th.equal(actions, gcp.candidate(features, noise)) and len(actions.unique(dim=0)) > 30
            th.testing.assert_close(gcp.candidate(features[:7], noise[:7]), actions[:7], msg="not by their company")

    def test_argmax(self):
        """Greedy, against a loop over prefixes; the noise is ignored."""
        gcp = small()
        features = th.randn(6, F)
        with th.no_grad():
            found = gcp.sample(features, th.randn(6, H * STEP))
            assert th.equal(found, gcp.sample(features))
            for b in range(6):
                tokens: list[int] = []
                while len(tokens) < 9 and END not in tokens:
                    prefix = th.tensor([[*tokens, 0]])
                    tokens.append(int(gcp.logits(gcp.condition(features[b : b + 1]), prefix)[0, -1].argmax()))
                wanted = gcp.tokenizer.decode(th.tensor([tokens]))
                th.testing.assert_close(found[b], wanted.flatten())

    def test_entropy(self):
        """Of equally likely tokens in closed form; else minus the mean log-probability of tokens, in expectation."""
        gcp = small()
        condition = gcp.condition(th.randn(1, F)).expand(4000, -1)
        with th.no_grad():
            entropy = gcp.entropy(condition).mean().item()
            states = gcp._generate(condition, th.rand(9, 4000)).states
            steps = gcp.step_log_prob_of(condition, states, th.arange(4000))
            information = (-steps.sum(dim=0) / gcp.tokens_in(states)).mean().item()
            # The mean over a sequence's tokens divides by a length that depends on them: equal to a few per cent only.
            assert entropy == pytest.approx(information, rel=0.05) and 0.3 < entropy < 0.95 * math.log(64)
            gcp.head.weight.zero_()
            gcp.head.bias.zero_()
            used = int(gcp.tokenizer.n_used)
            assert gcp.entropy(condition[:3]).tolist() == pytest.approx([math.log(used)] * 3, abs=1e-5)

    def test_tokens_that_were_never_made_are_never_drawn(self):
        gcp = small(vocab_size=600)
        used = int(gcp.tokenizer.n_used)
        assert used < 600 and gcp.sample_chain(th.randn(200, F)).states.max() < used

    def test_what_is_not_a_number_is_not_hidden(self):
        """Tokens are numbers whatever the probabilities are: neither the actions nor the likelihoods pretend."""
        gcp, features = small(), th.randn(3, F)
        features[1] = th.nan
        with th.no_grad():
            chain, greedy = gcp.sample_chain(features, 2), gcp.sample(features)
        bad = th.tensor([False, False, True, True, False, False])
        assert th.equal(chain.log_prob.isnan(), bad) and th.equal(chain.actions.isnan().all(dim=1), bad)
        assert chain.actions[~bad].isfinite().all() and greedy.isnan().any(dim=1).tolist() == [False, True, False]

    def test_sequences_have_no_parts(self):
        gcp, features = small(), th.randn(2, F)
        states = gcp.sample_chain(features).states
        for call in (
            lambda: gcp.sample(features, end=3),
            lambda: gcp.sample_chain(features, begin=2),
            lambda: gcp.transition_log_prob(gcp.condition(features), states, th.arange(2), begin=1),
        ):
            with pytest.raises(ValueError, match="drawn and scored whole"):
                call()


class TestCloning:
    def test_loss_against_a_loop(self):
        """The mean cross-entropy of tokens up to and including the end, at temperature 1; weights count per chunk."""
        gcp = small(temperature=0.5).double()
        rows = th.as_tensor(smooth(6, seed=2).reshape(6, -1))
        features, weights = th.randn(6, F, dtype=th.float64), th.rand(6, H * STEP, dtype=th.float64)
        tokens = gcp.tokenizer.encode(rows)
        above = below = plain = count = 0.0
        with th.no_grad():
            for b in range(6):
                logits = gcp.logits(gcp.condition(features[b : b + 1]), tokens[b : b + 1])[0]
                for place in range(9):
                    loss = -th.log_softmax(logits[place], 0)[tokens[b, place]].item()
                    weight = weights[b].mean().item()
                    above, below, plain, count = above + weight * loss, below + weight, plain + loss, count + 1
                    if tokens[b, place] == END:
                        break
            assert gcp.bc_loss(features, rows).item() == pytest.approx(plain / count, abs=1e-9)
            assert gcp.bc_loss(features, rows, weights).item() == pytest.approx(above / below, abs=1e-9)
            means = weights.mean(dim=1)
            assert gcp.bc_loss(features, rows, means).item() == pytest.approx(above / below, abs=1e-9)
            assert gcp.bc_loss(features, rows, th.zeros(6)).item() == 0.0
        with pytest.raises(ValueError, match="found nan"):
            gcp.bc_loss(features, rows * th.nan)

    def test_learns_a_conditional_bimodal_distribution(self):
        """Cloning +-0.4 around a mean that the features set, the same sign at both steps of a chunk."""
        th.manual_seed(0)
        gcp = FASTGCP(1, 2, (32,), chunk_size=2, vocab_size=64, width=32, layers=2, heads=2)

        def draw(n):
            features = th.rand(n, 1) - 0.5
            return features, (features + 0.4 * (th.randint(2, (n, 1)).float() * 2 - 1)).expand(-1, 2)

        gcp.fit_actions(draw(1000)[1])
        optimizer = th.optim.Adam(gcp.parameters(), lr=3e-3)
        for _ in range(300):
            optimizer.zero_grad()
            gcp.bc_loss(*draw(128)).backward()
            optimizer.step()
        for mean in (-0.3, 0.3):
            with th.no_grad():
                residual = gcp.sample_chain(th.full((1, 1), mean), 1000).actions - mean
                greedy = gcp.sample(th.full((2, 1), mean)) - mean
            assert (residual.abs() - 0.4).abs().median() < 0.1
            assert 0.35 < (residual > 0).float().mean() < 0.65
            assert (residual[:, 0].sign() == residual[:, 1].sign()).float().mean() > 0.95, "both steps belong to one mode"
            assert th.equal(greedy[0], greedy[1]) and ((greedy.abs() - 0.4).abs() < 0.15).all(), "argmax is in a mode"


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        (dict(vocab_size=20), r"vocab_size must lie in \[42, 30000\] for scale=10.0 and chunk_size=4, found 20"),
        (dict(scale=0.0), "scale must be positive, found 0.0"),
        (dict(max_tokens=0), "max_tokens must be at least 1"),
        (dict(width=10, heads=4), "a width that its heads divide"),
        (dict(temperature=0.0), "temperature must be positive"),
        (dict(chunk_size=3), "8 numbers cannot have 3 steps"),
        (dict(ratio_norm="max"), "ratio_norm"),
    ],
)
def test_bad_options_are_named(kwargs, named):
    with pytest.raises(ValueError, match=named):
        small(**kwargs)


POLICY = dict(net_arch=[16], n_critics=2, width=16, layers=1, heads=2, vocab_size=64)
SIZES = dict(learning_starts=20, batch_size=16, actor_batch_size=8)
OFF_POLICY = {
    "OGPO": dict(group_size=4, success_bc=True),
    "QC": dict(best_of_n=3),
    "EXPO": dict(best_of_n=2),
    "PARL": dict(best_of_n=2, keep=2, ascent_steps=2),
    "RLPD": dict(),
}


def model(name, env=None, **kwargs):
    options = dict(n_steps=32, batch_size=16, n_epochs=2) if name == "DPPO" else {**SIZES, **OFF_POLICY[name]}
    options |= dict(
        demonstrations=reach_demonstrations(), bc_steps=10, chunk_size=2, policy_kwargs=POLICY, seed=0, device="cpu"
    )
    return getattr(ogpo_sb3, name)("FASTPolicy", Reach() if env is None else env, **{**options, **kwargs})


class TestAlgorithms:
    @pytest.mark.parametrize("name", ["DPPO", *OFF_POLICY])
    def test_trains_saves_and_loads(self, name, tmp_path):
        trained = model(name).learn(80)
        assert trained._n_updates > 0
        trained.save(tmp_path / "model.zip")
        loaded = type(trained).load(tmp_path / "model.zip", device="cpu")
        assert not differences(trained.policy.state_dict(), loaded.policy.state_dict())
        obs = np.array([[0.0, 0.7], [0.2, -0.9]], np.float32)
        for deterministic in (True, False):
            found = []
            for one in (trained, loaded):
                th.manual_seed(0)
                found.append(one.predict(obs, deterministic=deterministic)[0])
            np.testing.assert_array_equal(*found)
        np.testing.assert_array_equal(*(trained.predict(obs, deterministic=True)[0] for _ in range(2)))

    @pytest.mark.parametrize("name", ["OGPO", "DPPO"])
    def test_a_checkpoint_goes_on_bit_for_bit(self, name, tmp_path):
        live = model(name).learn(64)
        live.save_checkpoint(tmp_path / "run")
        live.restart_env()
        live.learn(64, reset_num_timesteps=False)
        again = type(live).load_checkpoint(tmp_path / "run", Reach(), device="cpu")
        again.learn(64, reset_num_timesteps=False)
        if name == "OGPO":
            assert not differences(state(live), state(again))
        assert not differences(live.get_parameters(), again.get_parameters()) and again._n_bc_updates == 10
        assert live._n_updates == again._n_updates > 0

    def test_interrupted_cloning_keeps_its_tokens(self, tmp_path, monkeypatch):
        whole = model("OGPO").pretrain(progress_bar=False)
        cut, updates = model("OGPO"), []
        update = OGPO._bc_update

        def failing(self, *args):
            updates.append(0)
            if len(updates) == 8:
                raise KeyboardInterrupt
            return update(self, *args)

        monkeypatch.setattr(OGPO, "_bc_update", failing)
        with pytest.raises(KeyboardInterrupt):
            cut.pretrain(progress_bar=False, checkpoint=tmp_path / "bc", checkpoint_freq=5)
        monkeypatch.setattr(OGPO, "_bc_update", update)
        going_on = OGPO.load_checkpoint(tmp_path / "bc", Reach(), device="cpu", demonstrations=reach_demonstrations())
        monkeypatch.setattr(ActionTokenizer, "fit", None)  # made once, before the first update
        going_on.pretrain(progress_bar=False)
        assert going_on._n_bc_updates == 10
        assert not differences(whole.policy.state_dict(), going_on.policy.state_dict())

    def test_a_cloned_policy_starts_other_algorithms(self, tmp_path):
        """With its tokens, on all actors; with another scale or vocabulary it is refused."""
        cloned = model("OGPO").pretrain(progress_bar=False)
        cloned.policy.save(tmp_path / "bc.zip")
        start = dict(demonstrations=None, bc_steps=0, pretrained_policy=tmp_path / "bc.zip")
        obs = np.array([[0.0, 0.7]], np.float32)
        for name in ("QC", "DPPO", "OGPO"):
            other = model(name, **start, policy_kwargs=None)
            for actor in other.policy.actor_copies():
                assert not differences(actor.state_dict(), cloned.actor_ema.state_dict())
        np.testing.assert_array_equal(other.predict(obs, deterministic=True)[0], cloned.predict(obs, deterministic=True)[0])
        with pytest.raises(ValueError, match=r"was trained with scale=10\.0, policy_kwargs want 12\.0"):
            model("OGPO", **start, policy_kwargs=POLICY | dict(scale=12.0))
        with pytest.raises(ValueError, match=r"another architecture: .* policy_kwargs want"):
            model("OGPO", **start, policy_kwargs=POLICY | dict(vocab_size=80))
        with pytest.raises(ValueError, match="holds a FASTPolicy, wanted a FlowPolicy"):
            OGPO("FlowPolicy", Reach(), chunk_size=2, pretrained_policy=tmp_path / "bc.zip", policy_kwargs=dict(net_arch=[16]))

    def test_without_demonstrations_there_are_no_tokens(self):
        for name in ("OGPO", "DPPO"):
            bare = model(name, demonstrations=None, bc_steps=0)
            with pytest.raises(ValueError, match="there are no action tokens yet"):
                bare.learn(10)
            assert bare.num_timesteps == 0
            bare.policy.fit_actions(np.random.default_rng(0).uniform(-1, 1, (50, 2)))
            assert all(actor.gcp.tokenizer.fitted for actor in bare.policy.actor_copies())
            bare.learn(10)

    def test_algorithms_that_need_a_latent_do_not_take_it(self):
        for name in ("DSRL", "FQL", "SteerResidual", "ReinFlow"):
            assert "FASTPolicy" not in getattr(ogpo_sb3, name).policy_aliases
            with pytest.raises(ValueError, match=f"unknown policy of {name} 'FASTPolicy'"):
                getattr(ogpo_sb3, name)("FASTPolicy", Reach())
        assert not FASTGCP.has_latent

    def test_there_is_no_latent_to_share(self):
        with pytest.raises(ValueError, match="group_latents=2: chains of FASTGCP begin without a latent"):
            model("OGPO", group_latents=2)

    def test_the_penalty_is_zero_at_equal_actors(self):
        penalised = OGPOChi2("FASTPolicy", Reach(), **SIZES, chunk_size=2, policy_kwargs=POLICY, seed=0, device="cpu")
        penalised.policy.fit_actions(np.random.default_rng(0).uniform(-1, 1, (50, 2)))
        obs = th.rand(5, 2)
        with th.no_grad():
            chain = penalised.actor_ema.sample_chain(obs, 4)
            found = [actor.chain_log_prob(obs, chain.states) for actor in penalised.policy.actor_copies()]
        assert len(found) == 3 and all((log_prob - chain.log_prob).abs().max() < 1e-5 for log_prob in found)

    def test_candidates_to_choose_among(self):
        """Argmax would make N equal ones: they are draws, which their latents determine."""
        policy = model("QC", best_of_n=6).policy
        policy.fit_actions(np.random.default_rng(0).uniform(-1, 1, (50, 2)))
        obs = th.rand(3, 2)
        with th.no_grad():
            latents = policy.fresh_latents(obs)
            found = policy.actor_ema.sample_each(obs, latents)
            assert found.shape == (3, 6, 2) and all(len(own.unique(dim=0)) > 3 for own in found)
            assert th.equal(found, policy.actor_ema.sample_each(obs, latents))
            assert th.equal(policy.decide(obs, latents), policy.decide(obs, latents))

    @pytest.mark.parametrize("ratio", ["step", "chain"])
    def test_ppo_scores_what_it_drew(self, ratio):
        """The ratio of each token, and of each sequence over its own length; frozen tokens there are none."""
        learner = model("DPPO", ratio=ratio, finetuned_steps=1, n_epochs=1, batch_size=32).learn(32)
        assert learner.policy.frozen_steps == 0
        buffer, gcp = learner.rollout_buffer, learner.policy.actor.gcp
        batch = next(buffer.get(None))
        assert batch.states.shape == (3, 16) and batch.old_log_prob.shape == ((3 if ratio == "step" else 1), 16)
        learner = model("DPPO", ratio=ratio, n_steps=32, demonstrations=None, bc_steps=0)
        learner.policy.fit_actions(np.random.default_rng(0).uniform(-1, 1, (50, 2)))
        gcp = learner.policy.actor.gcp
        with th.no_grad():
            learner.policy.actor_ema.gcp.head.bias[END] = 3.0
        states = learner.policy.draw(batch.observations)[1]
        assert gcp.tokens_in(states).unique().numel() > 1
        condition = gcp.condition(learner.policy.actor.features(batch.observations))
        found = learner.chain_log_prob(condition, states)
        wanted = gcp.step_log_prob_of(condition, states, th.arange(16))
        if ratio == "chain":
            wanted = (wanted.sum(dim=0) / gcp.tokens_in(states))[None]
        th.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        discounts, clip_ranges = learner._step_weights(len(found))
        assert (discounts == 1).all() and th.allclose(clip_ranges, th.tensor(0.01))
        with pytest.raises(ValueError, match="frozen_steps must be 0 for a FASTPolicy"):
            learner.policy.freeze_steps(1)

    def bandit(self):
        """Demonstrations of a bandit whose optimum is 0.5: uniform in [-0.6, 0.7]."""
        n = 500
        actions = np.random.default_rng(0).uniform(-0.6, 0.7, (n, 2)).astype(np.float32)
        return DemonstrationSet(np.zeros((n, 1), np.float32), actions, np.arange(1, n + 1))

    def test_ogpo_reaches_the_optimum_of_a_bandit(self):
        learner = OGPO(
            "FASTPolicy",
            Bandit(target=0.5),
            demonstrations=self.bandit(),
            bc_steps=150,
            bc_learning_rate=3e-3,
            learning_rate=1e-3,
            critic_learning_rate=3e-3,
            learning_starts=100,
            batch_size=32,
            actor_batch_size=4,
            group_size=16,
            clip_range=0.2,
            actor_tau=0.05,
            seed=0,
            device="cpu",
            policy_kwargs=dict(POLICY, net_arch=[32, 32], scale=5.0, vocab_size=32),
        )
        learner.pretrain(progress_bar=False)
        obs = np.zeros((300, 1), np.float32)
        before = learner.predict(obs)[0]
        assert before.std(axis=0).min() > 0.25 and np.abs(before.mean(axis=0)).max() < 0.2, "the clone is spread"
        learner.learn(500)
        after = learner.predict(obs)[0]
        assert np.abs(after.mean(axis=0) - 0.5).max() < 0.12 and after.std(axis=0).max() < 0.25
        assert np.abs(learner.predict(obs[:1], deterministic=True)[0] - 0.5).max() <= 0.2

    def test_ppo_improves_on_a_bandit(self):
        learner = DPPO(
            "FASTPolicy",
            DummyVecEnv([Bandit] * 16),
            demonstrations=self.bandit(),
            bc_steps=100,
            bc_learning_rate=3e-3,
            n_steps=16,
            batch_size=128,
            n_epochs=5,
            learning_rate=2e-3,
            clip_range=0.2,
            seed=0,
            device="cpu",
            policy_kwargs=dict(POLICY, n_critics=1, scale=5.0, vocab_size=32),
        )
        learner.pretrain(progress_bar=False)
        learner.learn(12 * 256)
        actions = learner.predict(np.zeros((300, 1), np.float32))[0]
        assert ((actions - 0.5) ** 2).sum(axis=1).mean() < 0.1


def test_policies_by_name():
    assert all(vars(sys.modules[module])["FASTPolicy"].family() == "FASTPolicy" for module in ("ogpo_sb3.qc", "ogpo_sb3.dppo"))
    assert OGPO.policy_aliases["FASTPolicy"] is FASTPolicy
