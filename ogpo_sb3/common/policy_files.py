"""Files of ``policy.save``: what they hold, and whether a policy can start from them."""

import inspect
import os
import pathlib
from typing import TYPE_CHECKING, Any

import torch as th
from gymnasium import spaces

from ogpo_sb3.common.saved_files import kind_of

if TYPE_CHECKING:
    from ogpo_sb3.common.policies import GCPPolicy


def read_policy_file(
    path: str | os.PathLike[str], device: th.device | str = "cpu", family: str | None = None
) -> dict[str, Any]:
    """
    :param path: file written by :meth:`ogpo_sb3.common.policies.GCPPolicy.save`
    :param device: where its tensors go
    :param family: that its policy must be of; any when None
    :return: state_dict, data (constructor arguments), policy_class, gcp_names
    :raises ValueError: no such file, a file of another kind, or of another family of policies
    """
    if not pathlib.Path(path).is_file():
        raise ValueError(f"pretrained_policy {str(path)!r} does not exist")
    try:
        content = th.load(path, map_location=device, weights_only=False)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        raise ValueError(
            f"pretrained_policy {str(path)!r} should be a file of model.policy.save, found {kind_of(path)}"
        ) from error
    if not isinstance(content, dict) or "policy_class" not in content:
        raise ValueError(f"pretrained_policy {str(path)!r} should be a file of model.policy.save, found another of torch.save")
    if family is not None and content["policy_class"] != family:
        raise ValueError(f"{path} holds a {content['policy_class']}, wanted a {family}")
    return content


def check_spaces(path: str | os.PathLike[str], saved: dict[str, Any], owner: Any) -> None:
    """
    :param path: of a policy file, for the sentence
    :param saved: its content
    :param owner: the policy, or the algorithm, that is to act by it
    :raises ValueError: it has other spaces
    """
    for name in ("observation_space", "action_space"):
        found, wanted = saved["data"][name], getattr(owner, name)
        if found != wanted:
            raise ValueError(f"{path} was trained with {name} {found}, wanted {wanted}")


def pretrained_actor_state(path: str | os.PathLike[str], policy: "GCPPolicy") -> dict[str, th.Tensor]:
    """
    The EMA actor of a BC checkpoint, checked against the policy that is to start from it.

    :param path: file written by :meth:`ogpo_sb3.common.policies.GCPPolicy.save`
    :param policy: the one that is to start
    :return: a state dict that fits its actors
    :raises ValueError: another family of policies, other spaces or another architecture, or a DPPO policy whose frozen steps
        are made by another network than its trained ones
    """
    saved = read_policy_file(path, policy.device, policy.family())
    check_spaces(path, saved, policy)
    # Differences that no parameter's shape would betray
    own_data = policy._get_constructor_parameters()
    defaults = {name: p.default for name, p in inspect.signature(policy.gcp_class).parameters.items()}
    for name in ("activation_fn", "normalize_observations", "normalize_images", *policy.gcp_class.trained_for):
        theirs, ours = (data.get(name, defaults.get(name)) for data in (saved["data"], own_data))
        if theirs != ours:
            raise ValueError(f"{path} was trained with {name}={theirs}, policy_kwargs want {ours}")
    if isinstance(policy.observation_space, spaces.Dict):
        theirs, ours = (sorted(data.get("actor_keys") or policy.observation_space) for data in (saved["data"], own_data))
        if theirs != ours:
            raise ValueError(f"{path} was trained with actor_keys={theirs}, policy_kwargs want {ours}")
    state, slow = (
        {k.removeprefix(prefix): v for k, v in saved["state_dict"].items() if k.startswith(prefix)}
        for prefix in ("actor_ema.", "actor_slow.")
    )
    frozen = saved["data"].get("frozen_steps", 0)
    if frozen and any(not th.equal(v, slow[k]) for k, v in state.items()):
        raise ValueError(
            f"{path} is a fine-tuned policy whose first {frozen} denoising steps are made by a frozen actor, wanted "
            "one network for all steps (DPPO with finetuned_steps=None)"
        )
    own = policy.actor_ema.state_dict()
    for part in policy.gcp_class.not_cloned:
        # Nothing was learned of these: a policy that has them begins with its own, another one does without.
        untrained = {k: v for k, v in own.items() if k.startswith(f"gcp.{part}")}
        if not untrained or not any(k.startswith(f"gcp.{part}") for k in state):
            state = {k: v for k, v in state.items() if not k.startswith(f"gcp.{part}")} | untrained
    for part in policy.gcp_class.not_needed:
        if not any(k.startswith(f"gcp.{part}") for k in own):
            state = {k: v for k, v in state.items() if not k.startswith(f"gcp.{part}")}
    for name in sorted(own.keys() | state.keys()):
        found = tuple(state[name].shape) if name in state else "nothing"
        wanted = tuple(own[name].shape) if name in own else "nothing"
        if found != wanted:
            raise ValueError(f"{path} has another architecture: {name} is {found}, policy_kwargs want {wanted}")
    return state
