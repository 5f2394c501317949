"""Environment steps where RL-Zoo counts decisions."""

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    ProgressBarCallback,
)

from ogpo_sb3.envs.chunking import chunk_size_of, steps_in
from ogpo_sb3.zoo import ALGORITHMS


class EnvironmentSteps(BaseCallback):
    """
    Let frequencies, totals and the progress bar of an RL-Zoo run over action chunks mean environment steps.

    RL-Zoo hands its evaluation, checkpoint and trial callbacks a number of *calls*, one per decision. This callback, which the
    door puts first, divides them by the chunk size (at least one call). The algorithms of this package count environment steps
    themselves; for others, such as SAC, ``model.num_timesteps`` is raised by the steps that a decision executed beyond its
    first, so that totals, ``learning_starts``, schedules and logs agree between algorithms. Their updates per collected
    transition remain per decision.

    :param verbose: as in SB3
    """

    def __init__(self, verbose: int = 0):
        super().__init__(verbose)
        self._bars: list[ProgressBarCallback] | None = None
        self._shown = 0

    def _on_training_start(self) -> None:
        self._shown = self.model.num_timesteps
        if self._bars is not None:  # learn() was called again with the same callbacks
            return
        chunk_size = chunk_size_of(self.model.action_space)
        parent = self.locals.get("callback")
        siblings = parent.callbacks if isinstance(parent, CallbackList) else []
        self._bars = [c for c in siblings if type(c) is ProgressBarCallback]
        for sibling in siblings:
            if isinstance(sibling, EvalCallback):
                sibling.eval_freq = max(sibling.eval_freq // chunk_size, 1)
            elif isinstance(sibling, CheckpointCallback):
                sibling.save_freq = max(sibling.save_freq // chunk_size, 1)

    def _on_step(self) -> bool:
        if not isinstance(self.model, tuple(ALGORITHMS.values())):
            infos = self.locals["infos"]
            self.model.num_timesteps += sum(steps_in(info) for info in infos) - len(infos)
        for bar in self._bars or []:
            # The bar itself advances by one per environment and call.
            bar.pbar.update(self.model.num_timesteps - self._shown - self.training_env.num_envs)
        self._shown = self.model.num_timesteps
        return True

    def _on_training_end(self) -> None:
        # After an interruption RL-Zoo ends its first callback alone, meaning the bar.
        for bar in self._bars or []:
            bar.on_training_end()
