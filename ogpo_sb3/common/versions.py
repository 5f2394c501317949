"""What was installed when a result was made."""

import os
import platform
from importlib import metadata

import ogpo_sb3

PACKAGES = ("torch", "stable-baselines3", "gymnasium", "numpy", "mujoco", "gymnasium-robotics", "gym-pusht", "robosuite")


def versions() -> dict[str, str]:
    """Of everything that can change a result."""
    found = {"python": platform.python_version(), "ogpo_sb3": ogpo_sb3.__version__}
    found["machine"] = f"{platform.platform()}, {os.cpu_count()} cores"
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
