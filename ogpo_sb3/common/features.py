"""Networks on observations: normalisation, features, the generative actor and the critic ensemble."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim, is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from ogpo_sb3.critics import CriticEnsemble, Fit, Regression, make_ensemble
from ogpo_sb3.envs.chunking import chunk_size_of
from ogpo_sb3.gcp import Chain, GenerativeControlPolicy, owners, row_blocks


class ObservationNormalizer(nn.Module):
    """
    Fixed standardisation of vector observations; images and discrete entries pass unchanged.

    The statistics are buffers: they travel with every saved policy. Identity until :meth:`fit` is called. Statistics of a
    few demonstrations can be much narrower than what a failing policy visits (the height of an object that is always
    lifted), so that entries are compressed beyond ``clip`` rather than cut: a critic must tell such states apart.

    :param observation_space: Box or Dict space (anything else passes through)
    :param clip: beyond +- this many standard deviations values grow only logarithmically
    """

    def __init__(self, observation_space: spaces.Space, clip: float = 5.0):
        super().__init__()
        self.clip = clip
        self.is_dict = isinstance(observation_space, spaces.Dict)
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
        self.keys = [k for k, s in parts.items() if isinstance(s, spaces.Box) and not is_image_space(s)]
        for i, key in enumerate(self.keys):
            shape = parts[key].shape or ()
            self.register_buffer(f"mean_{i}", th.zeros(shape))
            self.register_buffer(f"std_{i}", th.ones(shape))

    def fit(self, observations: np.ndarray | dict[str, np.ndarray]) -> None:
        """
        :param observations: (n, ...) raw observations, or a dict of them; all keys of the space
        """
        for i, key in enumerate(self.keys):
            values = np.asarray(observations[key] if isinstance(observations, dict) else observations, dtype=np.float64)
            mean, std = getattr(self, f"mean_{i}"), getattr(self, f"std_{i}")
            mean.copy_(th.as_tensor(values.mean(axis=0)))
            # An entry that never moved carries no scale: leave it centred rather than blow up its first change.
            spread = values.std(axis=0)
            std.copy_(th.as_tensor(np.where(spread < 1e-3, 1.0, spread)))

    def forward(self, obs: PyTorchObs) -> PyTorchObs:
        """
        :param obs: preprocessed observation(s), (B, ...) or a dict
        """
        out = dict(obs) if isinstance(obs, dict) else {"": obs}
        for i, key in enumerate(self.keys):
            z = (out[key] - getattr(self, f"mean_{i}")) / getattr(self, f"std_{i}")
            beyond = (z.abs() / self.clip).clamp_min(1.0)  # 1 inside the interval, where the second term vanishes
            out[key] = z / beyond + z.sign() * beyond.log()
        return out if self.is_dict else out[""]


class FeatureModel(BaseModel):
    """
    A model on features: preprocessing, optional normalisation, features extractor.

    :param keys: entries of a Dict observation that this model sees (all when None)
    :param normalize_observations: standardise vector observations
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(self, *args: Any, keys: Sequence[str] | None = None, normalize_observations: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.keys = list(keys) if keys is not None else None
        self.normalize_observations = normalize_observations
        self.normalizer = ObservationNormalizer(self.observation_space) if normalize_observations else None
        self.features_extractor = self.make_features_extractor()

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """The extractor sees only ``keys`` of a Dict observation (asymmetric actor and critic)."""
        space = self.observation_space
        if self.keys is not None:
            if not isinstance(space, spaces.Dict):
                raise ValueError(f"actor_keys and critic_keys name entries of a Dict observation, found {space}")
            missing = [key for key in self.keys if key not in space.spaces]
            if missing or not self.keys:
                raise ValueError(
                    f"observation keys {missing or self.keys} are not among the observation's {list(space.spaces)}"
                )
            space = spaces.Dict({key: space.spaces[key] for key in self.keys})
        return self.features_extractor_class(space, **self.features_extractor_kwargs)

    def features(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: batch of observations as the replay buffer or ``obs_to_tensor`` gives them
        :return: (B, F)
        """
        processed = preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
        if self.normalizer is not None:
            processed = self.normalizer(processed)
        return self.features_extractor(processed)


class BoundedPolicy(BasePolicy):
    """A policy whose actions lie within the bounds to the last bit."""

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """
        As SB3's, which can round beyond a bound; a clamped sampler puts many actions exactly there.

        :param scaled_action: action in [-1, 1]
        """
        assert isinstance(self.action_space, spaces.Box)
        return np.clip(super().unscale_action(scaled_action), self.action_space.low, self.action_space.high)


class GCPActor(FeatureModel, BoundedPolicy):
    """
    Features and a generative control policy; can be saved and loaded alone.

    :param gcp_class: family of the policy
    :param gcp_kwargs: its constructor arguments beyond the dimensions
    """

    latent: th.Tensor

    def __init__(self, *args: Any, gcp_class: type[GenerativeControlPolicy], gcp_kwargs: dict[str, Any], **kwargs: Any):
        super().__init__(*args, squash_output=True, **kwargs)
        self.gcp_class, self.gcp_kwargs = gcp_class, gcp_kwargs
        action_dim = get_action_dim(self.action_space)
        # Only some networks look at the steps of a chunk.
        knows_chunks = "chunk_size" in inspect.signature(gcp_class).parameters
        chunks: dict[str, Any] = dict(chunk_size=chunk_size_of(self.action_space)) if knows_chunks else {}
        self.gcp = gcp_class(self.features_extractor.features_dim, action_dim, **chunks, **gcp_kwargs)
        # One latent for predict(deterministic=True). A draw, not zeros: zero can lie between the modes.
        self.register_buffer("latent", th.randn(action_dim))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            gcp_class=self.gcp_class,
            gcp_kwargs=self.gcp_kwargs,
            keys=self.keys,
            normalize_observations=self.normalize_observations,
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=self.features_extractor_kwargs,
        )
        return data

    def sample(self, obs: PyTorchObs, noise: th.Tensor | None = None) -> th.Tensor:
        """
        Deterministic sampler (ODE).

        :param obs: observations
        :param noise: (B, D) latents; fresh when None
        :return: (B, D) in [-1, 1]
        """
        return self.gcp.sample(self.features(obs), noise)

    def sample_each(self, obs: PyTorchObs, latents: th.Tensor) -> th.Tensor:
        """
        Deterministic sampler (ODE) for several latents per observation; of tokens, a draw that the latent determines.

        :param obs: observations (B)
        :param latents: (B, N, D)
        :return: (B, N, D) in [-1, 1]
        """
        features = self.features(obs).repeat_interleave(latents.shape[1], dim=0)
        return self.gcp.candidate(features, latents.flatten(0, 1)).view(latents.shape)

    def sample_chain(self, obs: PyTorchObs, n: int = 1) -> Chain:
        """
        Stochastic sampler (SDE), n chains per observation, chains of one observation adjacent.

        :param obs: observations (B)
        :param n: chains per observation
        """
        return self.gcp.sample_chain(self.features(obs), n)

    def chain_log_prob(self, obs: PyTorchObs, states: th.Tensor, begin: int = 0) -> th.Tensor:
        """
        Log-likelihood of given chains, in blocks: for use without gradient.

        :param obs: observations (B)
        :param states: (K+1, B * n, D), chains of one observation adjacent
        :param begin: first step that counts
        :return: (B * n,)
        """
        condition, total = self.gcp.condition(self.features(obs)), states.shape[1]
        owner = owners(len(condition), total // len(condition), states.device)
        blocks = row_blocks(total, states, self.gcp.denoising_steps)
        return th.cat([self.gcp.log_prob_of(condition, states[:, rows], owner[rows], begin) for rows in blocks])

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self._predict(obs, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        features = self.features(observation)
        if deterministic:
            return self.gcp.sample(features, self.latent.expand(len(features), -1))
        return self.gcp.sample_chain(features).actions


class ChunkCritic(FeatureModel):
    """
    Features and a critic ensemble.

    :param n_critics: M
    :param net_arch: widths of the hidden layers
    :param layer_norm: LayerNorm in the critics
    :param activation_fn: activation of the critics
    :param head: kind of the heads, see :class:`ogpo_sb3.common.policies.GCPPolicy`
    :param head_kwargs: its options
    """

    def __init__(
        self,
        *args: Any,
        n_critics: int,
        net_arch: Sequence[int],
        layer_norm: bool,
        activation_fn: type[nn.Module],
        head: str = "mse",
        head_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        dims = self.features_extractor.features_dim, get_action_dim(self.action_space)
        self.ensemble = make_ensemble(head, head_kwargs, *dims, n_critics, net_arch, layer_norm, activation_fn)

    def forward(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: observations (B)
        :param actions: (B, D), or (B, G, D) for G actions per observation
        :return: (M, B), or (M, B, G)
        """
        return self.ensemble(self.features(obs), actions)

    def loss(self, obs: PyTorchObs, actions: th.Tensor, *regressions: Regression) -> Fit:
        """
        The heads' own loss.

        :param obs: observations (B)
        :param actions: (B, D)
        :param regressions: what the values are regressed on
        """
        return self.ensemble.loss(self.features(obs), actions, *regressions)


class ChunkValue(FeatureModel):
    """
    Features and an ensemble of state values.

    :param n_critics: M
    :param net_arch: widths of the hidden layers
    :param layer_norm: LayerNorm in the networks
    :param activation_fn: activation
    """

    def __init__(
        self,
        *args: Any,
        n_critics: int,
        net_arch: Sequence[int],
        layer_norm: bool,
        activation_fn: type[nn.Module],
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.ensemble = CriticEnsemble(self.features_extractor.features_dim, 0, n_critics, net_arch, layer_norm, activation_fn)

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: observations (B)
        :return: (M, B)
        """
        features = self.features(obs)
        return self.ensemble(features, features.new_empty(len(features), 0))


def batch_size(obs: PyTorchObs) -> int:
    """
    :param obs: a batch of observations, or a dict of them
    :return: B
    """
    return len(next(iter(obs.values())) if isinstance(obs, dict) else obs)


def frozen_copy(module: nn.Module) -> Any:
    """A copy in evaluation mode whose parameters are never trained."""
    return copy.deepcopy(module).requires_grad_(False).train(False)


def default_features_extractor(observation_space: spaces.Space) -> type[BaseFeaturesExtractor]:
    """
    :param observation_space: CombinedExtractor for Dict, NatureCNN for images, FlattenExtractor otherwise
    """
    if isinstance(observation_space, spaces.Dict):
        return CombinedExtractor
    return NatureCNN if is_image_space(observation_space) else FlattenExtractor
