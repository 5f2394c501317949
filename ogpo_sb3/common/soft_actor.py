"""The update of a squashed Gaussian actor against a critic, with its temperature (SAC): shared by several algorithms."""

import torch as th
from stable_baselines3.common.preprocessing import get_action_dim

from ogpo_sb3.common.gaussian import TanhGaussian, Temperature
from ogpo_sb3.common.options import check_positive
from ogpo_sb3.common.updates import UpdatesMixin


class SoftActorMixin(UpdatesMixin):
    """For algorithms whose policy has :class:`~ogpo_sb3.common.gaussian.TanhGaussian` actors."""

    target_entropy: float | str | None
    initial_temperature: float

    def _check_options(self) -> None:
        super()._check_options()
        check_positive("initial_temperature", self.initial_temperature)

    def _setup_model(self) -> None:
        super()._setup_model()
        for part in self.policy.modules():
            if isinstance(part, Temperature):
                part.reset(self.initial_temperature)

    @property
    def wanted_entropy(self) -> float:
        """``target_entropy``, or minus half the dimension of a chunk: of the variable in (-1, 1), before any scaling."""
        given = self.target_entropy
        return -0.5 * get_action_dim(self.action_space) if given is None or given == "auto" else float(given)

    def _improve(
        self,
        name: str,
        actor: TanhGaussian,
        temperature: Temperature,
        log_prob: th.Tensor,
        q: th.Tensor,
        regulariser: th.Tensor | None = None,
    ) -> dict[str, th.Tensor]:
        """
        One step on mean(alpha log pi - Q) + regulariser, one on the temperature.

        :param name: of the actor, in logs and errors
        :param actor: which drew
        :param temperature: its entropy coefficient
        :param log_prob: of its draws, with gradient
        :param q: their values, same shape, with gradient
        :param regulariser: scalar that is added to the loss
        """
        loss = (temperature.value() * log_prob - q).mean()
        if regulariser is not None:
            loss = loss + regulariser
        grad_norm = self._optimise(actor, loss, f"{name}_loss")
        self._optimise(temperature, temperature.loss(log_prob, self.wanted_entropy), f"{name}_temperature_loss")
        return {
            f"{name}_loss": loss,
            f"{name}_entropy": -log_prob.mean(),
            f"{name}_temperature": temperature.value(),
            f"{name}_grad_norm": grad_norm,
        }
