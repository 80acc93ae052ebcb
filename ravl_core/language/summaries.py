"""From the records of the language-guided study to the deck's table, and to a verdict on each of its claims.

Intervals are 95 % percentile bootstrap intervals over seeds, each with its own fine-tuning and test set. Differences
are paired: between two methods on the same sets. Accuracies are in per cent, differences in points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ravl_core.claims import verdict
from ravl_core.domains import habitats
from ravl_core.language.study import BINARY, GUIDED
from ravl_core.metrics import Interval, bootstrap_interval

N = 2000  # fine-tuning images of the deck
FEWEST_SEEDS = 3  # that an interval is taken from; fewer leave a claim open
GROUPS = tuple(f"{name} in a {habitat}" for name in habitats.CLASS_NAMES for habitat in habitats.HABITATS)
FIGURES = ("overall", *habitats.CLASS_NAMES, *GROUPS, "worst group")
OTHER_TASK = "which object"
# What the deck reports on Waterbirds, as printed; waterbirds in the place of vehicles, water in that of streets. The
# groups of its model 1 average to neither of its classes. The worst group is the smallest of the four.
DECK = pd.DataFrame(
    {
        "zero-shot ViT-L/14": (83.69, 93.73, 48.44, 98.94, 88.69, 33.02, 63.55, 33.02),
        "binary ViT-B/32": (80.29, 84.61, 65.11, 99.25, 69.98, 40.65, 89.56, 40.65),
        "binary ViT-L/14": (89.35, 92.92, 76.79, 99.87, 85.99, 61.06, 92.52, 61.06),
        "model 1 (ViT-B/32)": (90.61, 92.97, 82.32, 97.52, 75.48, 68.07, 93.46, 68.07),
        "model 2 (ViT-L/14)": (96.01, 98.51, 87.62, 99.20, 97.83, 84.74, 90.50, 84.74),
    },
    index=FIGURES,
)
PLACES = tuple(f"{bird} on {place}" for bird in ("landbird", "waterbird") for place in ("land", "water"))
DECK_NAMES = dict(zip(FIGURES[1:-1], ("landbird", "waterbird", *PLACES), strict=True))


def language_table(finished: Iterable[dict]) -> pd.DataFrame:
    """Records as a table, one row a fine-tuning set and method: seed, n, method, `FIGURES` and the like in per cent.

    Beside them: `which object` (the other task), `images` of each test set, and for what is said of objects and of
    backgrounds `recall at 1` and `at 5`, `distance`, and the `uniformity` of images.
    """
    rows = []
    for record in finished:
        told = {name: record["arguments"][name] for name in ("seed", "n")}
        rows += [told | _columns(method) for method in record["metrics"]["methods"]]
    return pd.DataFrame(rows).sort_values(["n", "seed"], kind="stable", ignore_index=True)


def _columns(method: dict) -> dict:
    flat = (method["overall"], *method["classes"], *np.ravel(method["groups"]), method["worst_group"])
    figures = {name: 100 * value for name, value in zip(FIGURES, flat, strict=True)}
    figures |= {OTHER_TASK: 100 * method["objects"], "images": int(np.sum(method["counts"]))}
    for side, found in method["alignment"].items():
        figures |= {f"{side}, recall at {k}": 100 * found[f"recall_at_{k}"] for k in (1, 5)}
        figures |= {f"{side}, distance": found["alignment"]}
    return {"method": method["name"]} | figures | {"uniformity": method["alignment"]["objects"]["uniformity"]}


def means(table: pd.DataFrame, figures: Sequence[str] = FIGURES, n: int = N) -> pd.DataFrame:
    """Mean of each method's figures with its interval: method, figure, mean, low, high, seeds."""
    rows = []
    for method, part in table[table.n == n].groupby("method", sort=False):
        for figure in figures:
            interval = dict(zip(("mean", "low", "high"), bootstrap_interval(part[figure].to_numpy()), strict=True))
            rows.append({"method": method, "figure": figure} | interval | {"seeds": len(part)})
    return pd.DataFrame(rows, columns=["method", "figure", "mean", "low", "high", "seeds"])


def deck_table(table: pd.DataFrame, n: int = N) -> pd.DataFrame:
    """The deck's table: a row a figure, called as here and as there; a column a method, ours and then the deck's own.

    Ours are "85.1 [84.0, 86.2]"; `images` is how many each seed's test set has of what the row is about.
    """
    own = means(table, n=n)
    text = own.assign(text=[f"{row.mean:.1f} [{row.low:.1f}, {row.high:.1f}]" for row in own.itertuples()])
    ours = text.pivot(index="figure", columns="method", values="text").loc[list(FIGURES), list(own.method.unique())]
    images = int(table[table.n == n].images.iloc[0])
    share = (1, *(2,) * len(habitats.CLASS_NAMES), *(4,) * len(GROUPS), 4)
    ours.insert(0, "images", [images // part for part in share])
    theirs = DECK.rename(columns="deck: {}".format)
    return ours.join(theirs).rename(index={own: f"{own} ({name})" for own, name in DECK_NAMES.items()})


def changes(
    table: pd.DataFrame,
    reference: str = BINARY,
    figures: Sequence[str] = ("overall", "worst group", OTHER_TASK),
    n: int = N,
) -> pd.DataFrame:
    """Each method less the reference on the same sets: method, figure, difference, low, high (points), seeds."""
    rows = []
    for method in table[table.n == n].method.unique():
        for figure in figures if method != reference else ():
            less = paired(table, (method, n), (reference, n), figure)
            interval = dict(zip(("difference", "low", "high"), bootstrap_interval(less), strict=True))
            rows.append({"method": method, "figure": figure} | interval | {"seeds": len(less)})
    return pd.DataFrame(rows, columns=["method", "figure", "difference", "low", "high", "seeds"])


def paired(table: pd.DataFrame, one: tuple[str, int], other: tuple[str, int], figure: str) -> np.ndarray:
    """Of two methods, each with its number of fine-tuning images, one less the other by seed, (S,)."""
    sides = [table[(table.method == method) & (table.n == n)].set_index("seed")[figure] for method, n in (one, other)]
    return (sides[0] - sides[1]).dropna().to_numpy()


def sweep_table(table: pd.DataFrame, figure: str = "worst group") -> pd.DataFrame:
    """A figure over the number of fine-tuning images, for the methods that were tried with several."""
    tried = table.groupby("method").n.nunique()
    swept = table[table.method.isin(tried[tried > 1].index)]
    return pd.concat([means(swept, [figure], n).assign(n=n) for n in np.unique(table.n)], ignore_index=True)


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """What the deck claims and asks, each with our difference, its interval and what follows from it."""
    guided, worst = (GUIDED, N), "worst group"
    claims = {
        "above binary fine-tuning, overall": (guided, (BINARY, N), "overall"),
        "above binary fine-tuning, worst group": (guided, (BINARY, N), worst),
        **{f"above {name}, worst group": (guided, (name, N), worst) for name in ("RaVL", "Spurious-Aware", "GALS")},
        "500 images do what 2,000 do for binary fine-tuning, worst group": ((GUIDED, 500), (BINARY, N), worst),
        "another task gains by it: which object": (guided, ("zero-shot", N), OTHER_TASK),
        "another task suffers less than by binary fine-tuning": (guided, (BINARY, N), OTHER_TASK),
        "images agree better with what is said of their objects": (guided, ("zero-shot", N), "objects, recall at 5"),
        "backgrounds add to it: above the same without them, worst group": (
            guided, (f"{GUIDED}, no background", N), worst),
    }  # fmt: skip
    return pd.DataFrame([_claim(name, paired(table, *sides)) for name, sides in claims.items()]).set_index("claim")


def _claim(name: str, less: np.ndarray) -> dict:
    if not len(less):
        return {"claim": name, "seeds": 0, "ours": "", "verdict": verdict([])}
    found = bootstrap_interval(less)
    ends = (found.low, found.high) if len(less) >= FEWEST_SEEDS else (-np.inf, np.inf)
    return {"claim": name, "seeds": len(less), "ours": _signed(found), "verdict": verdict([ends])}


def _signed(found: Interval) -> str:
    return f"{found.estimate:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
