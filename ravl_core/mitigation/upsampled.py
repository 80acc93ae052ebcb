"""Upsampled fine-tuning: CLIP's loss on batches that are drawn evenly from all groups."""

from dataclasses import dataclass
from typing import ClassVar

from ravl_core.mitigation.standard import Standard


@dataclass(frozen=True)
class Upsampled(Standard):
    """Standard fine-tuning, groups being class × spurious region or none; rare groups come as often as common ones.

    Source: resampling by group as in Sagawa et al. 2020 and WILDS; RaVL's table 3 names the recipe and no details.
    """

    balanced: bool = True
    needs_assignment: ClassVar[bool] = True
