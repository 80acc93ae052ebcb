"""Which repairs are compared, and on which settings: the rows of table 3, fixed before any of their results.

Every recipe has the same search behind it: three learning rates on six settings of their own, the one kept whose mean
worst-group accuracy on val, by the groups of the discovered cluster, is highest (`mitigation.selection`).
"""

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from ravl_core.mitigation.selection import select
from ravl_core.repairs import Repair

if TYPE_CHECKING:
    import pandas

RATES = (3e-4, 1e-3, 3e-3)  # peaks of the one-cycle schedule that the search tries

RAVL = Repair("RaVL", followed=True)
SWAPS = Repair("swaps", "swaps", {"clip_weight": 1.0}, followed=True)
BOTH = Repair("swaps + RaVL", "swaps", followed=True)
SPURIOUS_AWARE = Repair("Spurious-Aware", "spurious_aware")
SEARCHED = (
    Repair("standard", "standard"),
    Repair("upsampled", "upsampled"),
    Repair("VL-ERM", "vl_erm"),
    Repair("VL-GDRO", "vl_gdro"),
    SPURIOUS_AWARE,
    replace(SPURIOUS_AWARE, name="Spurious-Aware, as released", options={"as_released": True}),
    replace(RAVL, followed=False),
    replace(SWAPS, followed=False),
    replace(BOTH, followed=False),
)
# What the search chose, by name; a test holds these to the committed table of the search.
LEARNING_RATES = {
    "standard": 3e-4,
    "upsampled": 3e-4,
    "VL-ERM": 3e-4,
    "VL-GDRO": 1e-3,
    "Spurious-Aware": 3e-4,
    "Spurious-Aware, as released": 3e-4,
    "RaVL": 3e-4,
    "swaps": 1e-3,
    "swaps + RaVL": 3e-4,
}


def _row(repair: Repair, searched: str | None = None, **changes) -> Repair:
    """A row with the learning rate that was chosen for its recipe."""
    return replace(repair, **changes, learning_rate=LEARNING_RATES[searched or repair.name])


def _variant(base: Repair, name: str, assignment: str = "discovered", **options) -> Repair:
    """A row that differs from its recipe's in the named options."""
    changed = {"options": base.options | options, "assignment": assignment, "followed": False}
    return _row(base, name=f"{base.name}, {name}", searched=base.name, **changed)


def _at(name: str, rate: float) -> str:
    return f"{name}, learning rate {rate:g}"


HEADLINE = tuple(_row(one) for one in SEARCHED[:6]) + (_row(RAVL),)
WITHOUT_STAGE_1 = _variant(RAVL, "no spurious regions", "none")
ORACLES = tuple(_variant(one, "true regions", "true") for one in (*SEARCHED[1:2], *SEARCHED[3:5], RAVL, BOTH))
OURS = (_row(SWAPS), _row(BOTH))
LATE = _variant(RAVL, "late regions", regions="late")
# Told what boxes are called. Came after the search; the rate is the one that was chosen for most recipes.
LANGUAGE_GUIDED = Repair("Language-guided", "language_guided", assignment="none", learning_rate=3e-4)
READINGS = (
    _variant(RAVL, "distinct labels", labels_in_batch="distinct"),
    _variant(RAVL, "L_R only", aligned_weight=0.0),
    _variant(RAVL, "L_A only", relevant_weight=0.0),
    *(_variant(RAVL, f"λ = {weight}", clip_weight=weight) for weight in (0.5, 0.95)),
)
IDEAS = (
    *(_variant(base, f"{source} clusters", source) for base in (RAVL, BOTH) for source in ("significant", "fine")),
    *(_variant(base, "balanced", balanced=True) for base in (RAVL, SWAPS, BOTH)),
    *(_variant(base, "with classes", class_weight=1.0) for base in (SWAPS, BOTH)),
    _variant(RAVL, "λ from 0", first_clip_weight=0.0),
    replace(_variant(RAVL, "from the fine-tuned model"), start="fine-tuned"),
    replace(_variant(RAVL, "twice"), rounds=2),
    _variant(BOTH, "late regions", regions="late"),
)
REPORTED = (*HEADLINE, WITHOUT_STAGE_1, *OURS, *ORACLES, LATE)  # on every repaired setting
ROWS = (*REPORTED, *READINGS, *IDEAS, LANGUAGE_GUIDED)  # on the half that variants are chosen on
# What was best there in worst-group accuracy of images, and of regions; reported on the other half.
CHOSEN_IDEAS = tuple(idea for idea in IDEAS if idea.name in ("swaps + RaVL, balanced", "swaps + RaVL, with classes"))


def _named(*names: str) -> tuple[Repair, ...]:
    return tuple(next(row for row in ROWS if row.name == name) for name in names)


TOWER_ROWS = _named("standard", "RaVL", "RaVL, late regions", "swaps + RaVL", "swaps + RaVL, late regions")
# of each architecture, and with BatchNorm's statistics frozen
MODEL_ROWS = tuple(replace(row, followed=False) for row in _named("standard", "RaVL", "swaps", "swaps + RaVL"))
# of a competent initial model, see `grids`
COMPETENT_ROWS = _named(
    "standard", "upsampled", "VL-GDRO", "RaVL", "RaVL, no spurious regions", "swaps", "swaps + RaVL"
)
FEW_ROWS = (*HEADLINE, WITHOUT_STAGE_1, *OURS, *_named("RaVL, true regions"), LATE, LANGUAGE_GUIDED)
SEARCH_ROWS = tuple(replace(one, name=_at(one.name, rate), learning_rate=rate) for one in SEARCHED for rate in RATES)

# Of the full grid's settings, by their seeds; see `stratified`. Repaired ones stand by halves.
# fmt: off
SEARCH_SEEDS = (10071, 10168, 20053, 20150, 30127, 30184)
CHOOSE_SEEDS = (
    10007, 10059, 10095, 10126, 10144, 10162, 10196, 20071, 20113, 20114, 20144, 20159, 20195, 20196,
    30001, 30031, 30118, 30195, 30232, 30248, 40011,
)
REPORT_SEEDS = (
    10063, 10085, 10097, 10115, 10128, 10166, 10192, 20033, 20045, 20054, 20088, 20089, 20120, 20165,
    30024, 30153, 30183, 30218, 30245, 40001, 40096,
)
# On these of them the whole image tower is trained, too: of the middle band and the half for reporting, where found.
TOWER_SEEDS = (10063, 10166, 20054, 20165, 30024, 30183)
# fmt: on
STRENGTHS = ((0.7, 0.8), (0.9, 0.95), (0.99,))  # the bands of Cramér's V
REPAIRED_SEEDS = tuple(sorted((*CHOOSE_SEEDS, *REPORT_SEEDS)))
FOUND = 0.6  # Precision@10 above which stage 1 has found what was planted


def stratified(settings: "pandas.DataFrame") -> tuple[list[int], list[int]]:
    """Seeds of the settings for the search and for table 3, from discovery's table of the full grid.

    Of the settings valid at T = 10: for table 3, one for each domain, initial model, half and band of strength where
    stage 1 found what was planted, and one for each domain and half where it did not; for the search, one for each
    domain and initial model where it did, of the half for choosing, of the middle band, and of those that are left.
    Within a cell the one whose seed has the smallest hash.
    """
    valid = settings[(settings.strength > 0) & (settings.margin >= 10)]
    valid = valid.assign(hash=[_hash(seed) for seed in valid.seed]).sort_values("hash")
    valid["band"] = [next(at for at, band in enumerate(STRENGTHS) if v in band) for v in valid.strength]
    found = valid[valid.precision_at_10 > FOUND]
    cells = ["domain", "initial", "half"]
    repaired = [
        *found.groupby([*cells, "band"]).seed.first(),
        *valid[valid.precision_at_10 <= FOUND].groupby(["domain", "half"]).seed.first(),
    ]
    left = found[(found.band == 1) & (found.half == "choose") & ~found.seed.isin(repaired)]
    return sorted(left.groupby(cells).seed.first()), sorted(repaired)


def _hash(seed: int) -> str:
    return hashlib.sha256(f"repairs {seed}".encode()).hexdigest()


def chosen_rates(search: "pandas.DataFrame") -> dict[str, float]:
    """Of each recipe the learning rate with the highest mean `val_worst_group`, from the table of the search."""
    chosen = {}
    for one in SEARCHED:
        own = search[search.method.isin([_at(one.name, rate) for rate in RATES])]
        chosen[one.name] = float(select(own.groupby("learning_rate").val_worst_group.mean().to_dict()))
    return chosen


def search_table(search: "pandas.DataFrame") -> "pandas.DataFrame":
    """Mean `val_worst_group` of each recipe (rows) at each learning rate (columns), 0 … 1."""
    import pandas

    means = search.groupby("method").val_worst_group.mean()
    rows = {one.name: {f"{rate:g}": means[_at(one.name, rate)] for rate in RATES} for one in SEARCHED}
    return pandas.DataFrame.from_dict(rows, orient="index").rename_axis("recipe")
