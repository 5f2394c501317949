"""
Looking into a trained run: what its policy does over the stages of training, and what its critics believe.

``python -m ogpo_sb3.analyze RUN --out DIR``; see docs/guide/analysis.md. One file per analysis, each with ``compute``, which
gives numbers, and ``draw``, which makes a picture of these numbers alone.
"""

from ogpo_sb3.analyze.report import ANALYSES, analyse
from ogpo_sb3.analyze.stages import Source, find

__all__ = ["ANALYSES", "Source", "analyse", "find"]
