"""A learned score, which the correction of a flow's noise can use in place of the velocity's."""

import torch as th

from ogpo_sb3.gcp.networks import VelocityNet


class VelocityAndScore(VelocityNet):
    """
    Two networks of one architecture side by side: (B, 2 D) out, the velocity and the predicted noise.

    The second is a constant here: it is trained by its own regression alone. Were it trained by a chain's likelihood it would
    not stay a score, and what it learned would be lost to the deterministic sampler, which does without it.

    :param velocity: v(s, x, t)
    :param score: z(s, x, t)
    """

    def __init__(self, velocity: VelocityNet, score: VelocityNet):
        super().__init__()
        self.velocity, self.score = velocity, score

    def condition(self, features: th.Tensor) -> th.Tensor:
        """Both networks', side by side."""
        with th.no_grad():
            of_score = self.score.condition(features)
        return th.cat([self.velocity.condition(features), of_score], dim=1)

    def embed_times(self, t: th.Tensor) -> th.Tensor:
        """Both networks', side by side; the score knows the time alone."""
        with th.no_grad():
            of_score = self.score.embed_times(t if t.dim() == 1 else t[:, 0])
        return th.cat([self.velocity.embed_times(t), of_score], dim=1)

    def forward(self, condition: th.Tensor, time: th.Tensor, x: th.Tensor) -> th.Tensor:
        """See the base class."""
        (first, second), (time, time_score) = condition.chunk(2, dim=1), time.chunk(2, dim=1)
        with th.no_grad():
            noise = self.score(second, time_score, x)
        return th.cat([self.velocity(first, time, x), noise], dim=-1)

    def chains(self, condition: th.Tensor, owner: th.Tensor, time: th.Tensor, x: th.Tensor) -> th.Tensor:
        """See the base class."""
        (first, second), (time, time_score) = condition.chunk(2, dim=1), time.chunk(2, dim=1)
        with th.no_grad():
            noise = self.score.chains(second, owner, time_score, x)
        return th.cat([self.velocity.chains(first, owner, time, x), noise], dim=-1)
