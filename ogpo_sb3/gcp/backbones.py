"""The networks that a generative control policy can be made with, by name."""

from collections.abc import Sequence

from torch import nn

from ogpo_sb3.gcp.networks import VelocityMLP, VelocityNet
from ogpo_sb3.gcp.residual import ResidualMLP
from ogpo_sb3.gcp.transformer import ChunkTransformer
from ogpo_sb3.gcp.unet import ConditionalUNet

NETWORKS = ("mlp", "residual", "transformer", "unet")
# Constructor arguments that decide what a network's parameters mean, whether or not their shapes show it.
TRAINED_FOR = ("time_scale", "network", "attention_heads")


def make_network(
    network: str,
    features_dim: int,
    action_dim: int,
    net_arch: Sequence[int],
    activation_fn: type[nn.Module] = nn.GELU,
    time_embed_dim: int = 32,
    time_scale: float = 1000.0,
    unet_channels: Sequence[int] = (64, 128),
    attention_heads: int = 4,
    chunk_size: int = 1,
    time_inputs: int = 1,
) -> VelocityNet:
    """
    A function of features, a noisy chunk and time.

    :param network: "mlp"; "residual": blocks with shortcuts and LayerNorm; "transformer": attention between the steps of a
        chunk; "unet": convolutions over them
    :param features_dim: F
    :param action_dim: D
    :param net_arch: widths of the hidden layers, or one width for each block of "residual" and "transformer"
    :param activation_fn: activation
    :param time_embed_dim: width of the time embedding
    :param time_scale: see :class:`ogpo_sb3.gcp.networks.TimeEmbedding`
    :param unet_channels: channels of the U-Net's levels
    :param attention_heads: heads of the transformer's blocks
    :param chunk_size: h, the steps that D numbers stand for ("transformer", "unet")
    :param time_inputs: numbers of the time embedding
    :raises ValueError: an unknown name, or options that the network cannot be built with
    """
    if network not in NETWORKS:
        raise ValueError(f"network must be one of {NETWORKS}, found {network!r}")
    rest = (activation_fn, time_embed_dim, time_scale, time_inputs)
    if network == "mlp":
        return VelocityMLP(features_dim, action_dim, net_arch, *rest)
    if network == "residual":
        return ResidualMLP(features_dim, action_dim, net_arch, *rest)
    if network == "transformer":
        return ChunkTransformer(features_dim, action_dim, chunk_size, net_arch, attention_heads, *rest)
    return ConditionalUNet(features_dim, action_dim, chunk_size, unet_channels, *rest)
