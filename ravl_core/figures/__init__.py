"""Figures: one style, one function per figure, each returning a matplotlib Figure; `save` writes png and pdf."""

from ravl_core.figures.accuracy import before_after, class_accuracy, wilson_interval
from ravl_core.figures.certainty import agreement, claims_per_model, null_histogram
from ravl_core.figures.clusters import embedding_map, silhouettes
from ravl_core.figures.discovery import method_bars, power_curves, precision_panels
from ravl_core.figures.images import composites, top_regions
from ravl_core.figures.overview import overview
from ravl_core.figures.repair import paired_change
from ravl_core.figures.strength import strength_curve, validity_counts
from ravl_core.figures.style import save
from ravl_core.figures.training import loss_curves

__all__ = [
    "agreement",
    "before_after",
    "claims_per_model",
    "class_accuracy",
    "composites",
    "embedding_map",
    "loss_curves",
    "method_bars",
    "null_histogram",
    "overview",
    "paired_change",
    "power_curves",
    "precision_panels",
    "save",
    "silhouettes",
    "strength_curve",
    "top_regions",
    "validity_counts",
    "wilson_interval",
]
