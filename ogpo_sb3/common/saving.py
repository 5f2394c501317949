"""Saving and loading: SB3's zip, the replay buffer, and full checkpoints that a run goes on from; all written atomically."""

import io
import json
import pathlib
import pickle
import random
import zipfile
from collections.abc import Iterable
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file, open_path
from stable_baselines3.common.type_aliases import GymEnv, TensorDict
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecNormalize

from ogpo_sb3.common.arguments import constructor_arguments
from ogpo_sb3.common.buffers import ChunkReplayBuffer
from ogpo_sb3.common.chunked_env import chunk_like
from ogpo_sb3.common.files import atomic_write, with_suffix
from ogpo_sb3.common.names import check_known
from ogpo_sb3.common.optimization import prepare_optimizer
from ogpo_sb3.common.options import check_replacements
from ogpo_sb3.common.policies import GCPPolicy
from ogpo_sb3.common.precision import check_precision
from ogpo_sb3.common.saved_files import CHECKPOINT, WRITTEN_BY, algorithm_name, check_model_file, kind_of
from ogpo_sb3.envs.chunking import chunk_size_of

SelfSaving = TypeVar("SelfSaving", bound="ModelSavingMixin")
_FORMAT = 1
CHECKPOINT_SUFFIX = ".ckpt"


class ModelSavingMixin(BaseAlgorithm):
    """Saving and loading of an algorithm whose policy is a :class:`ogpo_sb3.common.policies.GCPPolicy`."""

    policy: GCPPolicy
    _bc_optimizer_state: Any

    def set_parameters(
        self,
        load_path_or_dict: str | TensorDict,
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """
        As SB3's; optimisers saved on another device are adapted to this one.

        :param load_path_or_dict: file, or parameters by name
        :param exact_match: every name and tensor must be given
        :param device: where tensors are read to
        """
        super().set_parameters(load_path_or_dict, exact_match, device)
        self._prepare_optimizers()

    def _prepare_optimizers(self) -> None:
        """Let the optimisers suit the device."""
        for model in self.policy.trained:
            prepare_optimizer(model.optimizer, self.device)  # type: ignore[arg-type]

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        As SB3's; a file appears under its name only when it is complete.

        :param path: file name (".zip" is added where it has no suffix) or open file
        :param exclude: attributes to leave out
        :param include: attributes to keep although they would be left out
        """
        setattr(self, WRITTEN_BY, algorithm_name(type(self)))
        if not isinstance(path, str | pathlib.Path):
            return super().save(path, exclude, include)
        with atomic_write(with_suffix(path, ".zip")) as file:
            super().save(file, exclude, include)  # type: ignore[arg-type]

    @classmethod
    def load(
        cls: type[SelfSaving],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfSaving:
        """
        As SB3's; a per-step environment (or its id) is wrapped with the saved chunk size.

        :param path: the zip file
        :param env: environment to go on with; None for prediction
        :param device: device
        :param custom_objects: replacements for saved attributes
        :param print_system_info: print the versions it was saved with
        :param force_reset: reset the environment before training goes on
        :param kwargs: attributes to override
        :raises ValueError: no model, one of another algorithm, or an attribute that is unknown, out of range, contradicts the
            others or would have no effect
        """
        check_model_file(path, cls)
        if "precision" in kwargs:  # a model of a GPU's precision may be loaded elsewhere, where it is not asked for
            check_precision(kwargs["precision"], get_device(device))
        if isinstance(env, str):
            env = gym.make(env)
        if isinstance(env, gym.Env) or kwargs:
            start = path.tell() if isinstance(path, io.IOBase) else 0
            data, _, _ = load_from_zip_file(path, device="cpu", custom_objects=custom_objects)
            if isinstance(path, io.IOBase):
                path.seek(start)
            assert data is not None, "No data found in the saved file"
            chunk_size = chunk_size_of(data["action_space"])
            known = {*constructor_arguments(cls), *data}
            for name in kwargs:
                check_known(f"attribute of {cls.__name__}", name, known)
            check_replacements(data, chunk_size, kwargs)
            kwargs.pop("chunk_size", None)  # follows from the action space
            if isinstance(env, gym.Env):
                env = chunk_like(env, chunk_size)
        return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)

    def save_checkpoint(self, path: str | pathlib.Path) -> pathlib.Path:
        """
        Write the model's zip, its replay buffer (off-policy) with success marks, counters and the state of all random
        generators.

        A run continued from it on a restarted environment equals, bit for bit on a CPU, the run that called
        :meth:`restart_env` at this moment and went on.

        :param path: file name; ".ckpt" is added where it has no suffix
        :return: the path written
        """
        path = with_suffix(path, CHECKPOINT_SUFFIX)
        model = io.BytesIO()
        self.save(model)
        optimizer = io.BytesIO()
        th.save(self._bc_optimizer_state, optimizer)
        with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            about = {"format": _FORMAT, "algorithm": type(self).__name__, "num_timesteps": self.num_timesteps}
            archive.writestr("about.json", json.dumps(about))
            archive.writestr("model.zip", model.getvalue())
            archive.writestr("bc_optimizer.pth", optimizer.getvalue())
            archive.writestr("random_state.pkl", pickle.dumps(self._random_state()))
            self._write_experience(archive)
            if self._vec_normalize_env is not None:
                archive.writestr("vec_normalize.pkl", pickle.dumps(self._vec_normalize_env))
        return path

    @classmethod
    def load_checkpoint(
        cls: type[SelfSaving], path: str | pathlib.Path, env: Any = None, device: th.device | str = "auto", **kwargs: Any
    ) -> SelfSaving:
        """
        Go on from :meth:`save_checkpoint`: ``learn(remaining, reset_num_timesteps=False)``.

        :param path: the file
        :param env: environment to go on with; it is restarted, see :meth:`restart_env`
        :param device: device
        :param kwargs: attributes to override, as in ``load`` (``demonstrations=`` where they were given as an object)
        :raises ValueError: no checkpoint, or one of another algorithm
        """
        path = with_suffix(path, CHECKPOINT_SUFFIX)
        if (found := kind_of(path)) != CHECKPOINT:
            raise ValueError(f"{path} should be a checkpoint written by save_checkpoint, found {found}")
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read("about.json"))
            if about["algorithm"] != cls.__name__:
                raise ValueError(f"{path} is a checkpoint of {about['algorithm']}, wanted one of {cls.__name__}")
            model = cls.load(io.BytesIO(archive.read("model.zip")), env=env, device=device, **kwargs)
            model._read_experience(archive)
            model._bc_optimizer_state = th.load(
                io.BytesIO(archive.read("bc_optimizer.pth")), map_location=model.device, weights_only=False
            )
            state = pickle.loads(archive.read("random_state.pkl"))
            normalised = "vec_normalize.pkl" in archive.namelist()
            statistics = pickle.loads(archive.read("vec_normalize.pkl")) if normalised else None
        if env is not None:
            model._check_experience(path)
            model._adopt_statistics(statistics, path)
            model.restart_env()
        model._set_random_state(state)
        return model

    def _write_experience(self, archive: zipfile.ZipFile) -> None:
        """What was collected and is still needed; nothing where updates use it up."""

    def _read_experience(self, archive: zipfile.ZipFile) -> None:
        """The counterpart of :meth:`_write_experience`."""

    def _check_experience(self, path: pathlib.Path) -> None:
        """
        :param path: of the checkpoint
        :raises ValueError: the environment does not suit what was collected
        """

    def restart_env(self) -> None:
        """
        Reset the environment before the next step, seeded by the run's seed and the steps done.

        An environment's inner state cannot be saved in general; restarting it from a seed that both the uninterrupted and the
        continued run know is what makes the two equal, and does not replay the episodes of the run's beginning.
        """
        assert self.env is not None, "You must set the environment before restarting it"
        entropy = [0 if self.seed is None else self.seed + 1, self.num_timesteps]
        self.env.seed(int(np.random.SeedSequence(entropy).generate_state(1)[0] % (2**31 - self.env.num_envs)))
        self._last_obs = None

    def _adopt_statistics(self, saved: VecNormalize | None, path: pathlib.Path) -> None:
        """What VecNormalize had learned of observations and rewards; its options are those of the environment given."""
        given = self._vec_normalize_env
        if (saved is None) != (given is None):
            word = ("without", "with") if saved is None else ("with", "without")
            raise ValueError(f"{path} was written {word[0]} VecNormalize, found an environment {word[1]} it")
        for name in ("obs_rms", "ret_rms"):
            if hasattr(saved, name):
                setattr(given, name, getattr(saved, name))

    def _random_state(self) -> dict[str, Any]:
        return {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": th.get_rng_state(),
            "cuda": th.cuda.get_rng_state_all() if th.cuda.is_available() else [],
            "action_space": self.action_space.np_random.bit_generator.state,
        }

    def _set_random_state(self, state: dict[str, Any]) -> None:
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])
        th.set_rng_state(state["torch"])
        if th.cuda.is_available() and len(state["cuda"]) == th.cuda.device_count():
            th.cuda.set_rng_state_all(state["cuda"])
        self.action_space.np_random.bit_generator.state = state["action_space"]


class SavingMixin(ModelSavingMixin, OffPolicyAlgorithm):
    """The saving side of :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm`: with a replay buffer."""

    replay_buffer: ChunkReplayBuffer
    _captured: dict[Any, Any]

    def _prepare_optimizers(self) -> None:
        """Let the optimisers suit the device; updates recorded with other tensors are forgotten."""
        super()._prepare_optimizers()
        self._captured.clear()

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        As SB3's, atomically.

        :param path: file name (".pkl" is added where it has no suffix) or open file
        """
        if not isinstance(path, str | pathlib.Path):
            return super().save_replay_buffer(path)
        with atomic_write(with_suffix(path, ".pkl")) as file:
            super().save_replay_buffer(file)  # type: ignore[arg-type]

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        As SB3's.

        :param path: file name or open file
        :param truncate_last_traj: the environment starts afresh, so that nothing joins the last stored step
        :raises ValueError: no replay buffer, or one that does not suit the model, which keeps its own
        """
        self._load_replay_buffer(path, truncate_last_traj, None if self.env is None else self.env.num_envs)

    def _load_replay_buffer(
        self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool, n_envs: int | None
    ) -> None:
        """
        :param path: see :meth:`load_replay_buffer`
        :param truncate_last_traj: see :meth:`load_replay_buffer`
        :param n_envs: environments that will fill it, None for any number
        """
        own = self.replay_buffer
        try:
            if isinstance(path, str | pathlib.Path):
                # Opened here, because SB3 leaves a file open that it cannot read
                with open_path(path, "r", self.verbose, "pkl") as file:
                    super().load_replay_buffer(file, truncate_last_traj)
            else:
                super().load_replay_buffer(path, truncate_last_traj)
            self._check_replay_buffer(n_envs)
        # What pickle raises for half a file, and for a file that is none
        except (pickle.UnpicklingError, EOFError, AttributeError, AssertionError, IndexError, KeyError) as error:
            self.replay_buffer = own
            raise ValueError(f"{path} cannot be read as a replay buffer of save_replay_buffer ({error})") from error
        except BaseException:
            self.replay_buffer = own
            raise
        if truncate_last_traj:
            self.replay_buffer.cut()

    def _check_replay_buffer(self, n_envs: int | None) -> None:
        """
        :param n_envs: environments that will fill it, None for any number
        :raises ValueError: what was loaded does not suit the model
        """
        if not isinstance(self.replay_buffer, ChunkReplayBuffer):
            raise ValueError(f"the replay buffer must be a ChunkReplayBuffer, found {type(self.replay_buffer).__name__}")
        wanted = chunk_size_of(self.action_space)
        if self.replay_buffer.chunk_size != wanted:
            raise ValueError(f"the replay buffer holds chunks of {self.replay_buffer.chunk_size} steps, wanted {wanted}")
        if self.replay_buffer.gamma != self.gamma:
            raise ValueError(f"the replay buffer discounts with gamma={self.replay_buffer.gamma}, the model with {self.gamma}")
        for name in ("observation_space", "action_space"):
            if (found := getattr(self.replay_buffer, name)) != getattr(self, name):
                raise ValueError(f"the replay buffer has the {name} {found}, wanted the model's, {getattr(self, name)}")
        if n_envs is not None and self.replay_buffer.n_envs != n_envs:
            raise ValueError(f"the replay buffer is of {self.replay_buffer.n_envs} environment(s), wanted {n_envs}")

    def _write_experience(self, archive: zipfile.ZipFile) -> None:
        with archive.open("replay_buffer.pkl", "w", force_zip64=True) as member:
            pickle.dump(self.replay_buffer, member, protocol=pickle.HIGHEST_PROTOCOL)

    def _read_experience(self, archive: zipfile.ZipFile) -> None:
        with archive.open("replay_buffer.pkl") as member:
            reader = io.BufferedReader(member)  # type: ignore[type-var]
            self._load_replay_buffer(reader, truncate_last_traj=False, n_envs=None)  # that is checked with the file's name

    def _check_experience(self, path: pathlib.Path) -> None:
        if self.n_envs != self.replay_buffer.n_envs:
            raise ValueError(
                f"{path} was written with {self.replay_buffer.n_envs} environment(s), found {self.n_envs}: each has its "
                "own stream in the replay buffer, pass as many"
            )
