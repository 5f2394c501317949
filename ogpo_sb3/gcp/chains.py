"""What families share whose every denoising step is a Gaussian around a mean that one network determines."""

import math
from abc import abstractmethod

import torch as th
import torch.nn.functional as nnf

from ogpo_sb3.gcp.base import Chain, GenerativeControlPolicy, gaussian_log_density, gaussian_log_prob, owners, row_blocks
from ogpo_sb3.gcp.networks import VelocityNet

Tables = tuple[th.Tensor, ...]


class GaussianChainGCP(GenerativeControlPolicy):
    """
    Chains x_{i+1} ~ N(mu_i(x_i, net(s, x_i, t_i)), sigma_i^2), i = 0 ... K-1.

    A family gives the network, the time of each step, its tables (standard deviation first, then whatever the mean needs), the
    mean, and a step without noise. Sampling and scoring then go through the same mean, and cannot disagree.

    :param features_dim: F
    :param action_dim: D
    :param denoising_steps: K
    :param ratio_norm: see :class:`GenerativeControlPolicy`
    :param noise_clip: draws of xi ~ N(0, I) are clamped to +- this value (the density is not renormalised)
    """

    times: th.Tensor

    def __init__(self, features_dim: int, action_dim: int, denoising_steps: int, ratio_norm: str, noise_clip: float):
        super().__init__(features_dim, action_dim, denoising_steps, ratio_norm)
        if not noise_clip > 0:
            raise ValueError(f"noise_clip must be positive, found {noise_clip}")
        self.noise_clip = noise_clip

    @property
    @abstractmethod
    def network(self) -> VelocityNet:
        """What each step's mean is computed from."""

    @property
    def noiseless_network(self) -> VelocityNet:
        """What the deterministic sampler's steps are computed from."""
        return self.network

    @property
    def step_times(self) -> th.Tensor:
        """What the networks are told of each step: (K,) its time, or (K, n) its time and other numbers."""
        return self.times

    @abstractmethod
    def _split(self, condition: th.Tensor) -> tuple[th.Tensor, Tables]:
        """The network's condition (S, C), and tables of shape (K, 1, 1) or (K, S, D), the standard deviations first."""

    @abstractmethod
    def _mean(self, x: th.Tensor, output: th.Tensor, *tables: th.Tensor) -> th.Tensor:
        """Mean of a step from its state, the network's output there and the tables' entries but the standard deviation."""

    @abstractmethod
    def _noiseless(self, x: th.Tensor, output: th.Tensor, step: int) -> th.Tensor:
        """A step of the deterministic sampler."""

    def condition(self, features: th.Tensor) -> th.Tensor:
        """The network's condition. See the base class."""
        return self.network.condition(features)

    def sample(self, features: th.Tensor, noise: th.Tensor | None = None, begin: int = 0, end: int | None = None) -> th.Tensor:
        """Deterministic sampler; only the result is clamped. See the base class."""
        end = self.denoising_steps if end is None else end
        x = self._noise(1, len(features), features)[0] if noise is None else noise
        network = self.noiseless_network
        condition, time = network.condition(features), network.embed_times(self.step_times)
        for step in range(begin, end):
            x = self._noiseless(x, network(condition, time[step : step + 1], x), step)
        return x.clamp(-1.0, 1.0) if end == self.denoising_steps else x

    def sample_chain(
        self, features: th.Tensor, n: int = 1, start: th.Tensor | None = None, begin: int = 0, end: int | None = None
    ) -> Chain:
        """Stochastic sampler. See the base class."""
        end, total = self.denoising_steps if end is None else end, len(features) * n
        condition, tables = self._split(self.condition(features))
        network = self.network
        time = network.embed_times(self.step_times)
        # Drawn at once, so that the chains do not depend on the size of the blocks.
        first = int(start is None)
        noise = self._noise(end - begin + first, total, features)
        owner = owners(len(features), n, features.device)
        states, log_probs = [], []
        for rows in row_blocks(total, features):
            own = condition[owner[rows]]
            # Some tables have a value per state (learned noise).
            block = [table[:, owner[rows]] if table.shape[1] > 1 else table for table in tables]
            x = noise[0, rows] if start is None else start[rows]
            chain, log_prob = [x], []
            for k in range(begin, end):
                std, *rest = (table[k] for table in block)
                mean = self._mean(x, network(own, time[k : k + 1], x), *rest)
                x = mean + std * noise[k - begin + first, rows].clamp(-self.noise_clip, self.noise_clip)
                chain.append(x)
                log_prob.append(gaussian_log_prob(x, mean, std) if k < self.stochastic_steps else x.new_zeros(len(x)))
            states.append(th.stack(chain))
            log_probs.append(self.normalise_log_prob(th.stack(log_prob)))
        return Chain(th.cat(states, dim=1), th.cat(log_probs))

    def transition_log_prob(self, condition: th.Tensor, states: th.Tensor, owner: th.Tensor, begin: int = 0) -> th.Tensor:
        """All transitions in one forward pass over (steps x n) rows. See the base class."""
        n = min(begin + len(states) - 1, self.stochastic_steps) - begin  # transitions that have a density
        condition, tables = self._split(condition)
        steps = slice(begin, begin + n)
        std, *rest = ((table[:, owner] if table.shape[1] > 1 else table)[steps] for table in tables)
        network = self.network
        x, time = states[:n], network.embed_times(self.step_times[steps])
        mean = self._mean(x, network.chains(condition, owner, time, x), *rest)
        log_prob = gaussian_log_density(states[1 : n + 1], mean, std)
        without = len(states) - 1 - n
        return nnf.pad(log_prob, (0, 0, 0, 0, 0, without)) if without else log_prob

    def entropy(self, condition: th.Tensor, begin: int = 0) -> th.Tensor:
        """Of Gaussians. See the base class."""
        std = self._split(condition)[1][0][begin : self.stochastic_steps]
        return std.log().mean(dim=(0, 2)) + 0.5 * math.log(2.0 * math.pi * math.e)

    def _noise(self, steps: int, rows: int, like: th.Tensor) -> th.Tensor:
        return th.randn(steps, rows, self.action_dim, device=like.device, dtype=like.dtype)
