"""Critics that classify: a histogram of values per head, trained on Gaussians around the targets (HL-Gauss)."""

import math
from collections.abc import Sequence

import torch as th
from torch import nn

from ogpo_sb3.critics.ensemble import CriticEnsemble
from ogpo_sb3.critics.regression import Fit, Regression, weighted_mean, weighted_sum

MARGIN = 3.0  # standard deviations of the smoothed target that a derived support leaves beyond the range of targets


class HLGaussEnsemble(CriticEnsemble):
    """
    M heads of which each gives a histogram over [v_min, v_max]; the value is its mean (Imani and White 2018; Farebrother et
    al. 2024, arXiv 2403.03950).

    A target becomes a Gaussian of standard deviation ``sigma_ratio`` bins around it, the loss is the cross-entropy to that.
    Targets beyond the support count as its end, which is logged. Within about three standard deviations of an end the
    Gaussian is cut, and what is learned lies further inside than the target: the support should reach a few bins beyond the
    values.

    :param features_dim: F
    :param action_dim: D
    :param n_critics: M
    :param net_arch: widths of the hidden layers
    :param layer_norm: LayerNorm before each activation
    :param activation_fn: activation
    :param v_min: lower end of the support, a discounted return
    :param v_max: upper end
    :param n_bins: bins of the histogram, at least 2; 256 in OGPO's code
    :param sigma_ratio: standard deviation of a smoothed target, in bins, above 0
    :raises ValueError: no support, or arguments out of range
    """

    edges: th.Tensor
    centres: th.Tensor

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        n_critics: int = 10,
        net_arch: Sequence[int] = (512, 512, 512, 512),
        layer_norm: bool = True,
        activation_fn: type[nn.Module] = nn.GELU,
        v_min: float | None = None,
        v_max: float | None = None,
        n_bins: int = 256,
        sigma_ratio: float = 0.75,
    ):
        if v_min is None or v_max is None:
            raise ValueError(
                "critic_head='hl_gauss' needs the range of values: give critic_head_kwargs=dict(v_min=..., v_max=...) or "
                f"target_range, found v_min={v_min} and v_max={v_max}"
            )
        if not (math.isfinite(v_min) and math.isfinite(v_max) and v_min < v_max):
            raise ValueError(f"critic_head='hl_gauss' needs finite v_min < v_max, found {v_min} and {v_max}")
        if n_bins < 2:
            raise ValueError(f"n_bins must be at least 2, found {n_bins}")
        if not (0.0 < sigma_ratio < math.inf):
            raise ValueError(f"sigma_ratio must be positive and finite, found {sigma_ratio}")
        super().__init__(features_dim, action_dim, n_critics, net_arch, layer_norm, activation_fn, n_outputs=n_bins)
        self.v_min, self.v_max = float(v_min), float(v_max)
        self.sigma = sigma_ratio * (self.v_max - self.v_min) / n_bins
        edges = th.linspace(self.v_min, self.v_max, n_bins + 1, dtype=th.float64)
        self.register_buffer("edges", edges.float())
        self.register_buffer("centres", ((edges[:-1] + edges[1:]) / 2).float())

    def read_out(self, outputs: th.Tensor) -> th.Tensor:
        """
        Mean of the histogram.

        :param outputs: (..., n_bins) logits
        :return: (...) within the support
        """
        return outputs.softmax(dim=-1) @ self.centres

    def loss(self, features: th.Tensor, actions: th.Tensor, *regressions: Regression) -> Fit:
        """
        Mean cross-entropy to the smoothed targets. Logs ``clamped_targets``, the share of the first ones beyond the support.

        :param features: (B, F)
        :param actions: (B, D) in [-1, 1]
        :param regressions: what the values are regressed on
        """
        logits = self.outputs(features, actions)
        log_probs = logits.log_softmax(dim=-1)
        losses = [self._cross_entropy(log_probs, regression) for regression in regressions]
        return Fit(weighted_sum(regressions, losses), self.read_out(logits), self._logged(regressions[0].target))

    def _logged(self, target: th.Tensor) -> dict[str, th.Tensor]:
        outside = (target < self.v_min) | (target > self.v_max)
        return dict(clamped_targets=outside.float().mean())

    def _cross_entropy(self, log_probs: th.Tensor, regression: Regression) -> th.Tensor:
        target = regression.target.detach()
        wanted = smoothed(target.clamp(self.v_min, self.v_max), self.edges, self.sigma)
        loss = weighted_mean(-(wanted * log_probs).sum(dim=-1), regression.weights)
        return loss + 0.0 * target.sum()  # an infinite target must not pass as the support's end


def smoothed(target: th.Tensor, edges: th.Tensor, sigma: float) -> th.Tensor:
    """
    A Gaussian around each target, cut at the ends of the support, as a histogram (2403.03950, section 3.1):

    p_i = ( Phi((e_{i+1} - y) / sigma) - Phi((e_i - y) / sigma) ) / ( Phi((e_n - y) / sigma) - Phi((e_0 - y) / sigma) )

    :param target: (...) y, within the support
    :param edges: (n + 1,) e_0 < ... < e_n
    :param sigma: standard deviation, in units of values
    :return: (..., n), sums to 1
    """
    cdf = th.erf((edges - target[..., None]) / (sigma * math.sqrt(2.0)))
    return cdf.diff(dim=-1) / (cdf[..., -1:] - cdf[..., :1])


def support_of(target_range: tuple[float, float], n_bins: int = 256, sigma_ratio: float = 0.75) -> tuple[float, float]:
    """
    A support in which no smoothed target of a range is cut noticeably: ``MARGIN`` standard deviations beyond it on each side.

    :param target_range: lowest and highest target
    :param n_bins: of the histogram
    :param sigma_ratio: standard deviation of a smoothed target, in bins
    :return: v_min, v_max
    :raises ValueError: too few bins for the margin
    """
    inner = n_bins - 2.0 * MARGIN * sigma_ratio
    if inner < 1.0:
        raise ValueError(
            f"n_bins={n_bins} is too few for sigma_ratio={sigma_ratio}: a support derived from target_range leaves "
            f"{MARGIN:g} standard deviations on each side"
        )
    margin = MARGIN * sigma_ratio * (target_range[1] - target_range[0]) / inner
    return target_range[0] - margin, target_range[1] + margin
