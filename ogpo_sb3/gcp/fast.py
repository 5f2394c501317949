"""Autoregressive policy over action tokens (FAST, arXiv 2501.09747): argmax and ancestral decoding, likelihood."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch as th
import torch.nn.functional as F
from torch import nn

from ogpo_sb3.gcp.base import Chain, GenerativeControlPolicy, owners, row_blocks
from ogpo_sb3.gcp.networks import mlp
from ogpo_sb3.gcp.tokenizer import END, ActionTokenizer, import_tokenizers

_BELOW_ONE = 1.0 - 2.0**-24
# Sequences that are drawn together per row of the usual blocks on a CPU: keys and values fill its caches sooner.
_ROWS_PER_SEQUENCE = 4


class Seen:
    """Keys and values of the places that attention looks back to, in memory that doubles when it is full."""

    def __init__(self) -> None:
        self.memory: th.Tensor | None = None  # (2, n, heads, capacity, W / heads)
        self.length = 0

    def add(self, keys_and_values: th.Tensor) -> th.Tensor:
        """
        :param keys_and_values: (2, n, heads, 1, W / heads) of one further place
        :return: (2, n, heads, t, W / heads) of all places
        """
        if self.memory is None:
            self.memory = F.pad(keys_and_values, (0, 0, 0, 7))
        elif self.length == self.memory.shape[3]:
            self.memory = F.pad(self.memory, (0, 0, 0, self.length))
        self.memory[:, :, :, self.length] = keys_and_values[:, :, :, 0]
        self.length += 1
        return self.memory[:, :, :, : self.length]

    def keep(self, rows: th.Tensor) -> None:
        """
        :param rows: (n',) numbers of the sequences that go on
        """
        assert self.memory is not None
        self.memory = self.memory[:, rows]


class Block(nn.Module):
    """
    Causal attention and two linear layers, each behind a LayerNorm and added to its input.

    :param width: W, of the stream
    :param heads: a divisor of W
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layers = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: th.Tensor, seen: Seen | None = None) -> th.Tensor:
        """
        :param x: (n, T, W) all places of whole sequences, or one place, T = 1, where ``seen`` is given
        :param seen: the places before, to which this one is added
        :return: (n, T, W)
        """
        # (3, n, heads, T, W / heads)
        parts = self.attend(self.before_attention(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        key, value = parts[1:] if seen is None else seen.add(parts[1:])
        mixed = F.scaled_dot_product_attention(parts[0], key, value, is_causal=seen is None)
        x = x + self.merge(mixed.transpose(1, 2).flatten(2))
        return x + self.layers(self.before_layers(x))


class FASTGCP(GenerativeControlPolicy):
    """
    Autoregressive policy: a small causal transformer draws the tokens of an action chunk one after the other (OGPO C.4).

    A generation step is a token. Its state is the sequence so far, and the likelihood of a chain is exact:

        log pi(z_1 ... z_T | s) = sum_l log p(z_l | s, z_1 ... z_{l-1}),

    up to and including the token that ends the sequence, or the last of ``max_tokens``. Tokens stand for chunks by an
    :class:`ogpo_sb3.gcp.tokenizer.ActionTokenizer`, which :meth:`fit_actions` makes of demonstrations.

    Chains are stored as (L, n) token numbers, L = ``max_tokens``. Neither sampler starts from a latent: :meth:`sample` takes
    the likeliest token each time and ignores its noise.

    :param features_dim: F
    :param action_dim: D = h d
    :param net_arch: widths of the hidden layers between features and transformer
    :param chunk_size: h; policies pass it themselves
    :param vocab_size: V, see :class:`ogpo_sb3.gcp.tokenizer.ActionTokenizer`
    :param scale: coefficients are rounded to multiples of its inverse
    :param max_tokens: L, longest sequence; None: D + 1, which always suffices. Shorter sequences cost what they need
    :param width: W, of the transformer
    :param layers: blocks of the transformer
    :param heads: of attention, a divisor of W
    :param temperature: token probabilities are softmax(logits / temperature) in chains and their likelihood, not in cloning
    :param ratio_norm: "mean" divides a chain's log-likelihood by its number of tokens, "sum" is the joint log-likelihood
    :param activation_fn: of the hidden layers
    :raises ValueError: sizes that are too small or do not divide each other
    """

    trained_for: ClassVar[tuple[str, ...]] = ("scale", "heads")
    has_latent: ClassVar[bool] = False
    has_parts: ClassVar[bool] = False
    on_device: ClassVar[bool] = False

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: Sequence[int] = (512,),
        chunk_size: int = 1,
        vocab_size: int = 512,
        scale: float = 10.0,
        max_tokens: int | None = None,
        width: int = 64,
        layers: int = 3,
        heads: int = 4,
        temperature: float = 1.0,
        ratio_norm: str = "mean",
        activation_fn: type[nn.Module] = nn.GELU,
    ):
        if chunk_size < 1 or action_dim % chunk_size:
            raise ValueError(f"a chunk of {action_dim} numbers cannot have {chunk_size} steps")
        if width < 1 or layers < 1 or heads < 1 or width % heads:
            raise ValueError(
                f"a transformer needs layers >= 1 and a width that its heads divide, found {layers}, {width} and {heads}"
            )
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, found {temperature}")
        tokenizer = ActionTokenizer(chunk_size, action_dim // chunk_size, vocab_size, scale, max_tokens)
        super().__init__(features_dim, action_dim, tokenizer.max_tokens, ratio_norm)
        self.tokenizer, self.temperature = tokenizer, temperature
        self.of_features = mlp(features_dim, net_arch, width, activation_fn)
        self.of_token = nn.Embedding(vocab_size, width)
        self.of_place = nn.Parameter(0.02 * th.randn(tokenizer.max_tokens, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab_size)
        for weight in (self.of_token.weight, self.head.weight):
            nn.init.normal_(weight, std=0.02)  # all tokens are about as likely before training

    @property
    def max_tokens(self) -> int:
        """L, the longest sequence."""
        return self.denoising_steps

    @property
    def stochastic_steps(self) -> int:
        return self.denoising_steps

    @property
    def likelihood_terms(self) -> int:
        return self.denoising_steps

    # -- tokens ---------------------------------------------------------------------------------------------------

    def fit_actions(self, windows: th.Tensor | np.ndarray) -> None:
        """
        Make the tokens of demonstrated chunks. See the base class.

        :param windows: (n, D) in [-1, 1]
        """
        self.tokenizer.fit(windows)

    def check_ready(self) -> None:
        """
        See the base class.

        :raises ValueError: there are no tokens yet
        :raises ImportError: the library that turns actions into tokens is missing
        """
        self.tokenizer.check_fitted()
        import_tokenizers()

    def tokens_in(self, states: th.Tensor) -> th.Tensor:
        """
        Number of tokens that each chain drew, its end included.

        :param states: (L, n) tokens
        :return: (n,)
        """
        return _counted(states.long().T).sum(dim=1)

    # -- network --------------------------------------------------------------------------------------------------

    def condition(self, features: th.Tensor) -> th.Tensor:
        """What the transformer sees of an observation. See the base class."""
        return self.of_features(features)

    def logits(self, condition: th.Tensor, tokens: th.Tensor) -> th.Tensor:
        """
        Scores of every token at every place of given sequences, in one pass.

        :param condition: (n, W), one per sequence
        :param tokens: (n, T)
        :return: (n, T, V); place l has seen tokens 0 ... l - 1; tokens that were never made have no probability
        """
        x = self._inputs(condition, tokens[:, :-1])
        for block in self.blocks:
            x = block(x)
        return self._scores(x)

    def _inputs(self, condition: th.Tensor, previous: th.Tensor) -> th.Tensor:
        """(n, t + 1, W): the observation at every place, the token before at all but the first."""
        tokens = F.pad(self.of_token(previous), (0, 0, 1, 0))
        return condition[:, None] + tokens + self.of_place[: tokens.shape[1]]

    def _scores(self, x: th.Tensor) -> th.Tensor:
        unused = th.arange(self.tokenizer.vocab_size, device=x.device) >= self.tokenizer.n_used
        # Not minus infinity, which entropies would multiply by zero.
        return self.head(self.norm(x)).masked_fill(unused, -1e9)

    def _log_probs(self, scores: th.Tensor) -> th.Tensor:
        return F.log_softmax(scores / self.temperature, dim=-1)

    def bc_loss(self, features: th.Tensor, actions: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
        """
        Cross-entropy of the next token, the mean over all tokens of the batch up to each sequence's end. A token stands for
        no step of its own: weights (B, D) count by their mean over the chunk. See the base class.
        """
        tokens = self.tokenizer.encode(actions)
        counted = _counted(tokens)
        longest = int(counted.sum(dim=1).max())
        tokens, weight = tokens[:, :longest], counted[:, :longest].to(actions.dtype)
        if weights is not None:
            weight = weight * weights.reshape(len(weights), -1).mean(dim=1, keepdim=True)
        loss = F.cross_entropy(self.logits(self.condition(features), tokens).flatten(0, 1), tokens.flatten(), reduction="none")
        return (weight * loss.view_as(weight)).sum() / weight.sum().clamp_min(1e-8)

    # -- samplers -------------------------------------------------------------------------------------------------

    def sample(self, features: th.Tensor, noise: th.Tensor | None = None, begin: int = 0, end: int | None = None) -> th.Tensor:
        """
        The likeliest token each time. See the base class.

        :param features: (B, F)
        :param noise: without effect
        :param begin: 0
        :param end: None
        :return: (B, D) in [-1, 1]
        """
        self._refuse_parts(begin, end)
        return self._generate(self.condition(features), None).actions

    def candidate(self, features: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """
        A draw that the noise determines: token l is where the noise's l-th number, as a quantile, falls among the
        probabilities. With standard normal noise this is ancestral sampling. A sequence of more than D tokens goes on with
        sums of two quantiles, modulo one. See the base class.

        :param features: (B, F)
        :param noise: (B, D)
        :return: (B, D) in [-1, 1]
        """
        quantiles = th.special.ndtr(noise).T  # (D, B)
        rounds = -(-self.max_tokens // len(quantiles))
        quantiles = th.cat([quantiles] + [(quantiles + quantiles.roll(-k, 0)) % 1.0 for k in range(1, rounds)])
        return self._generate(self.condition(features), quantiles[: self.max_tokens].clamp(0.0, _BELOW_ONE)).actions

    def sample_chain(
        self, features: th.Tensor, n: int = 1, start: th.Tensor | None = None, begin: int = 0, end: int | None = None
    ) -> Chain:
        """
        Ancestral sampling. See the base class.

        :param features: (B, F)
        :param n: chains per row of features, adjacent in the result
        :param start: None
        :param begin: 0
        :param end: None
        :return: B * n chains of states (L, B * n), with end tokens after the end
        """
        self._refuse_parts(begin, end, start)
        condition, total = self.condition(features), len(features) * n
        # Drawn at once, so that the chains do not depend on the size of the blocks.
        quantiles = th.rand(self.max_tokens, total, device=features.device, dtype=features.dtype)
        owner = owners(len(features), n, features.device)
        parts = [
            self._generate(condition[owner[rows]], quantiles[:, rows])
            for rows in row_blocks(total, features, _ROWS_PER_SEQUENCE)
        ]
        states, log_probs, actions = (th.cat(part, dim=i) for part, i in zip(zip(*parts, strict=True), (1, 0, 0), strict=True))
        return Chain(states, log_probs, actions)

    @th.no_grad()
    def _generate(self, condition: th.Tensor, quantiles: th.Tensor | None) -> Chain:
        """
        Choices among tokens have no gradient.

        :param condition: (n, W)
        :param quantiles: (L, n) in [0, 1) that choose tokens; None for the likeliest
        """
        self.tokenizer.check_fitted()
        n = len(condition)
        states = th.full((self.max_tokens, n), END, dtype=th.int64, device=condition.device)
        total, going_on = condition.new_zeros(n), th.ones(n, dtype=th.bool, device=condition.device)
        rows = th.arange(n, device=condition.device)  # the sequences that are computed, some of which may have ended
        x, seen = self._inputs(condition, states[:0].T), [Seen() for _ in self.blocks]
        for place in range(self.max_tokens):
            for block, own in zip(self.blocks, seen, strict=True):
                x = block(x, own)
            log_probs = self._log_probs(self._scores(x[:, 0]))
            token = log_probs.argmax(dim=1) if quantiles is None else _at_quantile(log_probs.exp(), quantiles[place, rows])
            token = token.where(going_on, END)
            states[place, rows] = token
            total = total.index_add(0, rows, log_probs.gather(1, token[:, None])[:, 0].where(going_on, 0.0))
            going_on = going_on & (token != END)
            left = int(going_on.sum())
            if place + 1 == self.max_tokens or left == 0:
                break
            if left < 0.75 * len(rows):
                kept = going_on.nonzero()[:, 0]
                rows, token, condition, going_on = rows[kept], token[kept], condition[kept], going_on[kept]
                for own in seen:
                    own.keep(kept)
            x = (condition + self.of_token(token) + self.of_place[place + 1])[:, None]
        actions = self.tokenizer.decode(states.T).flatten(1).to(total.dtype)
        # Probabilities that are not numbers still choose a token: the action must not hide it.
        actions = actions.masked_fill(total.isnan()[:, None], th.nan)
        return Chain(states, self._normalised(total, states), actions)

    def _refuse_parts(self, begin: int, end: int | None, start: th.Tensor | None = None) -> None:
        if begin != 0 or start is not None or end not in (None, self.max_tokens):
            raise ValueError(f"sequences of tokens are drawn and scored whole, found begin={begin} and end={end}")

    # -- likelihood -----------------------------------------------------------------------------------------------

    def transition_log_prob(self, condition: th.Tensor, states: th.Tensor, owner: th.Tensor, begin: int = 0) -> th.Tensor:
        """
        Log-probability of each token, all in one pass. See the base class.

        :param condition: (S, W) from :meth:`condition`
        :param states: (L, n) tokens
        :param owner: (n,) row of ``condition`` that each chain belongs to
        :param begin: 0
        :return: (L, n, 1); zero behind the end
        """
        self._refuse_parts(begin, None)
        tokens = states.long().T
        counted = _counted(tokens)
        longest = int(counted.sum(dim=1).max())
        shown = tokens[:, :longest]
        log_probs = self._log_probs(self.logits(condition[owner], shown)).gather(2, shown[..., None])
        log_probs = log_probs * counted[:, :longest, None]
        return F.pad(log_probs.transpose(0, 1), (0, 0, 0, 0, 0, len(states) - longest))

    def log_prob_of(self, condition: th.Tensor, states: th.Tensor, owner: th.Tensor, begin: int = 0) -> th.Tensor:
        """
        See the base class.

        :param condition: (S, W) from :meth:`condition`
        :param states: (L, n) tokens
        :param owner: (n,) row of ``condition`` that each chain belongs to
        :param begin: 0
        :return: (n,)
        """
        return self._normalised(self.step_log_prob_of(condition, states, owner, begin).sum(dim=0), states)

    def chain_log_prob(self, features: th.Tensor, states: th.Tensor) -> th.Tensor:
        """
        See the base class.

        :param features: (B, F)
        :param states: (L, B) tokens
        :return: (B,)
        """
        return self.log_prob_of(self.condition(features), states, owners(len(features), 1, features.device))

    def _normalised(self, total: th.Tensor, states: th.Tensor) -> th.Tensor:
        """Sampling and scoring must agree on it: (n,) joint log-likelihoods, and the (L, n) tokens they are of."""
        return total / self.tokens_in(states) if self.ratio_norm == "mean" else total

    def entropy(self, condition: th.Tensor, begin: int = 0) -> th.Tensor:
        """
        Mean entropy of a token's distribution along one drawn sequence per state: an estimate, since what has been drawn
        before decides. See the base class.

        :param condition: (S, W) from :meth:`condition`
        :param begin: 0
        :return: (S,)
        """
        self._refuse_parts(begin, None)
        quantiles = th.rand(self.max_tokens, len(condition), device=condition.device, dtype=condition.dtype)
        tokens = self._generate(condition, quantiles).states.T
        counted = _counted(tokens)
        longest = int(counted.sum(dim=1).max())
        log_probs = self._log_probs(self.logits(condition, tokens[:, :longest]))
        entropies = -(log_probs.exp() * log_probs).sum(dim=2)
        return (entropies * counted[:, :longest]).sum(dim=1) / counted.sum(dim=1)


def _at_quantile(probabilities: th.Tensor, quantiles: th.Tensor) -> th.Tensor:
    """(n,) the tokens at which the sums of probabilities (n, V) reach quantiles (n,) in [0, 1)."""
    below = probabilities.cumsum(dim=1)
    # Relative to the sum as it was computed: the token found then always has a probability.
    token = th.searchsorted(below, (quantiles * below[:, -1])[:, None], right=True)[:, 0]
    return token.clamp_max(probabilities.shape[1] - 1)


def _counted(tokens: th.Tensor) -> th.Tensor:
    """(n, L) whether each token counts: up to and including the first end."""
    ended = (tokens == END).cumsum(dim=1)
    return (ended - (tokens == END).long()) == 0
