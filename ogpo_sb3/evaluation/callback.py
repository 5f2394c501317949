"""Evaluation during training, counted in environment steps."""

import csv
import io
import os
import pathlib
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import parse_env_id
from stable_baselines3.common.callbacks import BaseCallback

from ogpo_sb3.common.files import atomic_write, check_folder
from ogpo_sb3.common.options import check_at_least, check_choice
from ogpo_sb3.common.progress import check_counts_itself
from ogpo_sb3.evaluation.rollouts import SAMPLERS, EvaluationResult, evaluate

_FIELDS = ("timesteps", "success_rate", "success_low", "success_high", "mean_return", "mean_length")


class EvaluateCallback(BaseCallback):
    """
    Evaluate on fixed seeds every ``eval_freq`` environment steps; log under eval/ and append a row to a CSV at once.

    SB3's EvalCallback counts decisions and draws new seeds every time; this one does neither.

    :param eval_freq: environment steps between two evaluations
    :param n_episodes: episodes per evaluation
    :param env: as in :func:`ogpo_sb3.evaluate`
    :param csv_path: new file, or one of this callback to append to; None for none
    :param sampler: as in :func:`ogpo_sb3.evaluate`
    :param verbose: 1 prints a line per evaluation
    :raises ValueError: a frequency or a number of episodes below 1, an unknown sampler, a csv_path that cannot be written or
        holds something else, or a place inside ``EveryNTimesteps``
    :raises gymnasium.error.Error: an id of no environment
    """

    def __init__(
        self,
        eval_freq: int,
        n_episodes: int = 50,
        env: Any = None,
        csv_path: str | os.PathLike[str] | None = None,
        sampler: str = "ode",
        verbose: int = 0,
    ):
        super().__init__(verbose)
        if eval_freq < 1:
            raise ValueError(f"eval_freq must be at least 1 environment step, found {eval_freq}")
        check_at_least(n_episodes=(n_episodes, 1))
        check_choice("sampler", sampler, SAMPLERS)
        if isinstance(env, str) and ":" not in env and parse_env_id(env)[2] is not None:  # else gym.make finds out what it is
            gym.spec(env)
        self.csv_path = None if csv_path is None else pathlib.Path(csv_path)
        if self.csv_path is not None:
            if self.csv_path.is_dir():
                raise ValueError(f"csv_path: {csv_path} is a folder, wanted a file")
            check_folder(self.csv_path.parent, "csv_path")
            _check_table(self.csv_path)
        self.eval_freq, self.n_episodes, self.eval_env, self.sampler = int(eval_freq), n_episodes, env, sampler
        self._next = 0

    def _on_training_start(self) -> None:
        check_counts_itself(self, "eval_freq")
        # Multiples of eval_freq, so that a continued run evaluates where an uninterrupted one would have.
        self._next = (self.model.num_timesteps // self.eval_freq + 1) * self.eval_freq

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps >= self._next:
            self._next = (self.model.num_timesteps // self.eval_freq + 1) * self.eval_freq
            self.evaluate()

    def _on_training_end(self) -> None:
        if self.model.num_timesteps >= self._next:
            self.evaluate()

    def evaluate(self) -> EvaluationResult:
        """Evaluate now, log and append."""
        result = evaluate(self.model, self.eval_env, n_episodes=self.n_episodes, sampler=self.sampler)
        self.logger.record("eval/mean_reward", result.mean_return)
        self.logger.record("eval/mean_ep_length", float(result.lengths.mean()))
        if result.success_rate is not None:
            self.logger.record("eval/success_rate", result.success_rate)
        if self.csv_path is not None:
            append_row(self.csv_path, self.model.num_timesteps, result)
        if self.verbose:
            success = "" if result.success_rate is None else f"success {result.success_rate:.2f}, "
            print(f"step {self.model.num_timesteps}: {success}return {result.mean_return:.1f}", flush=True)
        return result


def _check_table(path: pathlib.Path) -> None:
    """
    Its header may be cut off, as :func:`append_row` writes it again.

    :raises ValueError: a file that holds something else than rows of :func:`append_row`
    """
    if not path.is_file():
        return
    header = ",".join(_FIELDS).encode()
    with path.open("rb") as file:
        line = file.readline(len(header) + 2)  # a longer line is another one
    first = line.rstrip(b"\r\n")
    if first != header and (line.endswith(b"\n") or not header.startswith(first)):
        found = first[:60].decode(errors="replace")
        raise ValueError(
            f"csv_path: {path} holds something else ({found!r}), wanted a new file or a table of EvaluateCallback"
        )


def append_row(path: pathlib.Path, timesteps: int, result: EvaluationResult) -> None:
    """
    The file is replaced as a whole, so that a process killed in between leaves no half row.

    :param path: CSV file; header and folder are made
    :param timesteps: environment steps done
    :param result: evaluation to append
    """
    low, high = result.success_interval or ("", "")
    rate: Any = "" if result.success_rate is None else result.success_rate
    content = io.StringIO(newline="")
    if path.exists():
        with path.open(newline="") as file:
            content.writelines(line for line in file if line.endswith("\n"))  # the last may be half of one
    writer = csv.writer(content)
    if content.tell() == 0:
        writer.writerow(_FIELDS)
    writer.writerow([timesteps, rate, low, high, result.mean_return, float(result.lengths.mean())])
    with atomic_write(path) as target:
        target.write(content.getvalue().encode())


def read_rows(path: pathlib.Path) -> list[dict[str, float]]:
    """
    :param path: file written by :func:`append_row`
    :return: rows in order of steps; of rows with equal steps (a continued run) the last
    """
    with path.open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items() if value != ""} for row in csv.DictReader(file)]
    return [row for _, row in sorted({row["timesteps"]: row for row in rows}.items())]
