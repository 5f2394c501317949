"""Many dimensions on paper: principal components, or UMAP where it is installed."""

import importlib
import importlib.util
from typing import Any

import numpy as np


class PCA:
    """
    The first two principal components of a cloud of points.

    :param points: (n, D), n at least 2
    """

    def __init__(self, points: np.ndarray):
        points = np.asarray(points, dtype=np.float64)
        self.centre = points.mean(axis=0)
        _, scales, axes = np.linalg.svd(points - self.centre, full_matrices=False)
        # A component's sign is arbitrary: its largest entry is made positive, so that pictures can be compared.
        signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
        self.axes = (axes * np.where(signs == 0, 1.0, signs)[:, None])[:2]
        variances = scales**2
        self.explained = (variances / max(variances.sum(), 1e-300))[:2]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """
        :param points: (..., D)
        :return: (..., 2); the second is 0 where there is one dimension only
        """
        found = (points - self.centre) @ self.axes.T
        return found if found.shape[-1] == 2 else np.concatenate([found, np.zeros_like(found)], axis=-1)


def chosen(how: str) -> str:
    """
    :param how: "pca", "umap", or "auto" for UMAP where it is installed
    :return: "pca" or "umap"
    :raises ValueError: UMAP is wanted and not installed
    """
    installed = importlib.util.find_spec("umap") is not None
    if how == "umap" and not installed:
        raise ValueError('projection "umap" needs umap-learn: pip install "ogpo_sb3[analyze]"')
    return "umap" if how != "pca" and installed else "pca"


def project(points: np.ndarray, how: str, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """
    :param points: (n, D)
    :param how: "pca" or "umap"
    :param seed: of UMAP
    :return: (n, 2), and what the axes are
    """
    if how == "pca":
        components = PCA(points)
        return components(points), dict(projection="pca", explained=[float(share) for share in components.explained])
    reducer = importlib.import_module("umap").UMAP(
        n_components=2, n_neighbors=max(2, min(15, len(points) - 1)), random_state=seed, n_jobs=1
    )
    return np.asarray(reducer.fit_transform(points), dtype=np.float64), dict(projection="umap")
