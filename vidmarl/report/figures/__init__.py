"""Plotly figures, each a function that returns one: clips on a frame slider, where and when they
are attacked, the path of an attack, attacks against each other, what a distortion does."""

from vidmarl.report.figures.comparison import budget_curves, sizes
from vidmarl.report.figures.effect import effect
from vidmarl.report.figures.films import frames, side_by_side
from vidmarl.report.figures.path import trajectory
from vidmarl.report.figures.regions import agreement, regions, timeline, where
from vidmarl.report.figures.training import training_curves

__all__ = [
    "agreement",
    "budget_curves",
    "effect",
    "frames",
    "regions",
    "side_by_side",
    "sizes",
    "timeline",
    "training_curves",
    "trajectory",
    "where",
]
