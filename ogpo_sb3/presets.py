"""Keyword dictionaries for the algorithms: one sized for two cores, one with the paper's values."""

from typing import Any


def quick() -> dict[str, Any]:
    """
    Small networks, groups and batches: thousands of updates a minute on two CPU cores.

    :return: keyword arguments of :class:`ogpo_sb3.OGPO`; copy and change freely
    """
    return dict(
        learning_rate=5e-4,
        critic_learning_rate=1e-3,
        buffer_size=200_000,
        learning_starts=1_000,
        batch_size=128,
        actor_batch_size=64,
        group_size=16,
        utd_critic=1.0,
        utd_actor=0.5,
        clip_range=0.2,
        actor_tau=0.05,
        tau=0.01,
        policy_kwargs=dict(net_arch=[128, 128, 128], n_critics=5, denoising_steps=4, noise_std=0.15),
    )


def laptop(env_id: str) -> dict[str, Any]:
    """
    What the quickstart uses: fine-tuning a behaviour-cloned policy within minutes on two CPU cores.

    :param env_id: registered task
    :return: keyword arguments of :class:`ogpo_sb3.OGPOCA`, pre-training included
    """
    return dict(
        chunk_size=2,
        gamma=0.97,
        bc_steps=6_000,
        clip_bc=0.4,
        learning_rate=1e-4,
        critic_learning_rate=3e-4,
        buffer_size=200_000,
        learning_starts=15_000,
        critic_warmup_updates=10_000,
        batch_size=128,
        actor_batch_size=32,
        group_size=16,
        utd_critic=1.0,
        utd_actor=0.1,
        clip_range=0.05,
        tau=0.01,
        actor_tau=0.1,
        bc_coef=0.1,
        best_of_n=1,
        policy_kwargs=dict(net_arch=[256, 256], n_critics=5, denoising_steps=4, noise_std=0.1, normalize_observations=True),
    )
