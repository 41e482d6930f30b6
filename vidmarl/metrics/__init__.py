"""What is reported about perturbations and about attacks.

Of perturbations (`perturbation`, `perceptual`, `visible_difference`, `temporal`): functions of
(clean, adversarial), float32[b 3 t h w] in [0, 1], to one number per clip, each with its column
(`column`). Of attacks (`attack`, `comparison`): functions of an `Outcome`, which knows every query
of every clip. `table` puts both together.
"""

from vidmarl.metrics.attack import (
    BUDGETS,
    ClipOutcome,
    Outcome,
    average_queries,
    best_l2_at,
    class_names,
    curves,
    first_success,
    outcomes,
    queries_until_success_at,
    success_at,
)
from vidmarl.metrics.column import Column, Metric, columns, list_metrics, metric
from vidmarl.metrics.comparison import PairedRatio, query_ratio, size_ratio
from vidmarl.metrics.perceptual import psnr, ssim, stlpips
from vidmarl.metrics.perturbation import (
    cells_touched,
    frames_touched,
    l0,
    l2,
    linf,
    mean_absolute,
    mean_absolute_support,
    touched,
)
from vidmarl.metrics.statistics import INTERVALS, bootstrap, median_interval, wilcoxon, wilson
from vidmarl.metrics.table import (
    FIGURES,
    SUCCESS_COLUMNS,
    clip_table,
    perturbation_metrics,
    shown_metrics,
    summarise,
    summary_table,
)
from vidmarl.metrics.temporal import flicker, flicker2, flicker_share, warping, warping_error
from vidmarl.metrics.visible_difference import jod

__all__ = [
    "BUDGETS",
    "FIGURES",
    "INTERVALS",
    "SUCCESS_COLUMNS",
    "ClipOutcome",
    "Column",
    "Metric",
    "Outcome",
    "PairedRatio",
    "average_queries",
    "best_l2_at",
    "bootstrap",
    "cells_touched",
    "class_names",
    "clip_table",
    "columns",
    "curves",
    "first_success",
    "flicker",
    "flicker2",
    "flicker_share",
    "frames_touched",
    "jod",
    "l0",
    "l2",
    "linf",
    "list_metrics",
    "mean_absolute",
    "mean_absolute_support",
    "median_interval",
    "metric",
    "outcomes",
    "perturbation_metrics",
    "psnr",
    "queries_until_success_at",
    "query_ratio",
    "shown_metrics",
    "size_ratio",
    "ssim",
    "stlpips",
    "success_at",
    "summarise",
    "summary_table",
    "touched",
    "warping",
    "warping_error",
    "wilcoxon",
    "wilson",
]
