"""Packaging of ogpo_sb3. Tool configuration lives in pyproject.toml, exact versions in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

# mujoco 3.10 and later break FrankaKitchen or robosuite; see docs/install.md.
MUJOCO = "mujoco>=3.2.7,<3.10"
GYMNASIUM_ROBOTICS = ["gymnasium-robotics>=1.4.2,<2", MUJOCO]
# What robosuite needs to simulate. It is installed without dependencies, as is robomimic (docs/install.md): of those, pynput
# (keyboard control) compiles C.
ROBOSUITE_RUNTIME = [MUJOCO, "h5py>=3.10", "numba", "opencv-python>=4.9,<5", "pillow", "psutil", "scipy", "termcolor"]
LIBERO_RUNTIME = ["easydict", "einops", "future", "huggingface_hub", "networkx", "pyyaml"]

EXTRAS = {
    "adroit": GYMNASIUM_ROBOTICS,
    "kitchen": GYMNASIUM_ROBOTICS,
    "robomimic": ROBOSUITE_RUNTIME,
    "libero": [*ROBOSUITE_RUNTIME, *LIBERO_RUNTIME],
    "data": ["minari[hdf5]>=0.5.3", "h5py>=3.10", "zarr>=3"],
    "video": ["imageio[ffmpeg]>=2.34"],
    "fast": ["tokenizers>=0.21,<1"],
    "zoo": ["rl_zoo3[plots]>=2.9,<3", "optuna>=4", "requests", "rliable>=1.2", "tensorboard>=2.16"],
    "analyze": ["umap-learn>=0.5.7"],  # maps of actions; principal components without it
    "compare": ["rliable>=1.2", "pyyaml"],
    "ray": ["ray>=2.40"],
    "dev": ["build", "codespell", "mypy", "pytest", "pytest-cov", "pytest-xdist", "ruff", "types-PyYAML"],
    "benchmark": ["jax>=0.6"],  # one of the contenders of benchmarks/update; the package and its tests do without
    "docs": ["furo", "myst-parser>=4", "sphinx>=7", "sphinx-copybutton"],
}
# What the tests need; `make test` adds robosuite, robomimic and LIBERO without dependencies.
_WITHOUT = ("analyze", "benchmark")
EXTRAS["all"] = sorted({requirement for name, group in EXTRAS.items() if name not in _WITHOUT for requirement in group})

# Where zoo_configs, which is at the root for everyone to see, lies in an installed package (ogpo_sb3/zoo/configs.py).
CONFIGS = {"ogpo_sb3.zoo_configs": "zoo_configs", "ogpo_sb3.zoo_configs.quick": "zoo_configs/quick"}

setup(
    name="ogpo_sb3",
    version=(ROOT / "ogpo_sb3" / "version.txt").read_text(encoding="utf-8").strip(),
    description="Reinforcement-learning fine-tuning of generative control policies on Stable-Baselines3",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="the ogpo_sb3 authors",
    license="MIT",
    keywords="reinforcement-learning robotics flow-matching diffusion-policy stable-baselines3 gymnasium",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=[*find_packages(include=["ogpo_sb3", "ogpo_sb3.*"]), *CONFIGS],
    package_dir=CONFIGS,
    package_data={
        "ogpo_sb3": ["py.typed", "version.txt", "demonstrations/data/*.npz"],
        **{name: ["*.yml"] for name in CONFIGS},
    },
    entry_points={"console_scripts": ["ogpo-zoo=ogpo_sb3.zoo.door:main"]},
    install_requires=[
        "stable-baselines3>=2.9,<3",
        "gymnasium>=1.2,<2",
        "torch>=2.8,<3",
        "numpy>=2",
        "cloudpickle",
        "matplotlib>=3.8",
        "rich",
        "tqdm",
        "gym-pusht>=0.1.8",
        "pymunk<7",
    ],
    extras_require=EXTRAS,
)
