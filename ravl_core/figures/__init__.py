"""Figures: one style, one function per figure, each returning a matplotlib Figure; `save` writes png and pdf."""

from ravl_core.figures.accuracy import before_after, class_accuracy
from ravl_core.figures.auditing import accuracy_with_without, gallery, mask_effects
from ravl_core.figures.certainty import agreement, claims_per_model, null_histogram
from ravl_core.figures.clusters import silhouettes
from ravl_core.figures.discovery import method_bars, power_curves, precision_panels
from ravl_core.figures.images import composites, top_regions
from ravl_core.figures.language import accuracy_by_method, accuracy_by_size
from ravl_core.figures.looking import before_after_maps
from ravl_core.figures.mitigation import forest, gain_against_cost, gain_by_condition
from ravl_core.figures.overview import overview
from ravl_core.figures.sensitivity import choices
from ravl_core.figures.strength import strength_curve, validity_counts
from ravl_core.figures.style import save
from ravl_core.figures.swaps import swapped_pairs

__all__ = [
    "accuracy_by_method",
    "accuracy_by_size",
    "accuracy_with_without",
    "agreement",
    "before_after",
    "before_after_maps",
    "choices",
    "claims_per_model",
    "class_accuracy",
    "composites",
    "forest",
    "gain_against_cost",
    "gain_by_condition",
    "gallery",
    "mask_effects",
    "method_bars",
    "null_histogram",
    "overview",
    "power_curves",
    "precision_panels",
    "save",
    "silhouettes",
    "strength_curve",
    "swapped_pairs",
    "top_regions",
    "validity_counts",
]
