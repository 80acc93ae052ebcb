"""What a user has to set, in numbers: the records of the grid *sensitivity* as tables, by variation and by model.

Intervals are 95 % percentile bootstrap intervals over settings; those that share a domain and a class are drawn
together. A difference is paired: to the base run of the same model.
"""

from collections.abc import Iterable

import pandas as pd

from ravl_core.discovery_summaries import clustered_interval
from ravl_core.discovery_tables import RECIPES, stability_table
from ravl_core.mitigation_summaries import changes_of_methods
from ravl_core.repair_tables import DIAGNOSED, repairs_table
from ravl_core.settings import THRESHOLDS
from ravl_core.study import setting_columns

BASES = {"temperature": "0.07", "mixture": "balanced"}  # of the poolings it is the model's own, their first row
LAMBDAS = {"RaVL, λ = 0.5": 0.5, "RaVL": 0.8, "RaVL, λ = 0.95": 0.95}


def variations_table(records: Iterable[dict]) -> pd.DataFrame:
    """One row a model, variation and recipe: `stability_table`'s columns, and those of the model.

    `initial` names the architecture, `batchnorm` says whether its statistics were "training" or "frozen", `margin` (in
    points) how far the planted correlation was learned.
    """
    records = list(records)
    models = pd.DataFrame([{"position": at} | model_of(record) for at, record in enumerate(records)])
    return stability_table(records, of="sensitivity").merge(models, on="position", validate="many_to_one")


def model_of(record: dict) -> dict:
    """What tells the models of the grid apart, and how far each learned its shortcut."""
    batchnorm = {"batchnorm": record["arguments"]["budget"]["batchnorm"]}
    return {name: setting_columns(record)[name] for name in ("initial", "margin")} | batchnorm


def repairs_by_model(records: Iterable[dict]) -> pd.DataFrame:
    """`repairs_table` of the grid, with `batchnorm`: a setting has a block of rows for each of its models."""
    by_batchnorm = {}
    for record in records:
        by_batchnorm.setdefault(record["arguments"]["budget"]["batchnorm"], []).append(record)
    tables = [repairs_table(own).assign(batchnorm=name) for name, own in by_batchnorm.items()]
    return pd.concat(tables, ignore_index=True)


def learned(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of models that learned the planted correlation by ten points: in others there is nothing to find."""
    return table[table.margin >= THRESHOLDS[0]]


def precision_by_variation(rows: pd.DataFrame, by: Iterable[str] = ()) -> pd.DataFrame:
    """Mean Precision@10 of each variation and recipe, and its paired difference to the base run.

    Parameters
    ----------
    rows : of `variations_table`
    by : further columns to tell apart, for instance "initial"

    Returns
    -------
    pandas.DataFrame
        Columns of `by`, kind, variation, recipe; n; mean, low, high (0 … 1); change, change_low, change_high.
    """
    keys, table = [*by, "kind", "variation", "recipe"], []
    with_base = rows.merge(base_runs(rows), on=["position", "kind", "recipe"], validate="many_to_one")
    for key, part in with_base.groupby(keys, sort=False):
        cells = dict(zip(keys, key, strict=True)) | {"n": len(part)}
        drawn_together = part.domain + " " + part.planted_attribute.astype(str)
        cells |= _ends(("mean", "low", "high"), part.precision_at_10, drawn_together)
        names = "change", "change_low", "change_high"
        table.append(cells | _ends(names, part.precision_at_10 - part.base, drawn_together))
    return pd.DataFrame(table)


def base_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """Precision@10 of the base run of each model, kind and recipe, in a column `base`."""
    own = rows[rows.kind == "pooling"].drop_duplicates(["position", "recipe"])  # a model's own pooling comes first
    others = rows[rows.variation == rows.kind.map(BASES)]
    columns = {"precision_at_10": "base"}
    return pd.concat([own, others])[["position", "kind", "recipe", *columns]].rename(columns=columns)


def precision_by_model(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean Precision@10 of stage 1 as it is, one row a model and recipe, with its interval over settings."""
    as_it_is = rows[rows.kind == "pooling"].drop_duplicates(["position", "recipe"]).pipe(with_model_names)
    table = []
    for (model, recipe), part in as_it_is.groupby(["model", "recipe"], sort=False):
        drawn_together = part.domain + " " + part.planted_attribute.astype(str)
        ends = _ends(("mean", "low", "high"), part.precision_at_10, drawn_together)
        table.append({"model": model, "recipe": recipe, "n": len(part)} | ends)
    order = pd.CategoricalDtype(RECIPES, ordered=True)
    return pd.DataFrame(table).astype({"recipe": order}).sort_values(["recipe"], kind="stable", ignore_index=True)


def with_model_names(table: pd.DataFrame) -> pd.DataFrame:
    """A column `model`: the architecture, and whether BatchNorm's statistics were frozen."""
    frozen = table.batchnorm.map({"training": "", "frozen": ", BatchNorm frozen"})
    return table.assign(model=table.initial + frozen)


def changes_by_model(repairs: pd.DataFrame) -> pd.DataFrame:
    """Paired change of each recipe against standard fine-tuning of the same model, in points, one row a metric."""
    own = repairs[repairs.method != DIAGNOSED].pipe(with_model_names)
    parts = [changes_of_methods(part).assign(model=model) for model, part in own.groupby("model", sort=False)]
    return pd.concat(parts, ignore_index=True)


def changes_by_lambda(repairs: pd.DataFrame, above: float = 0.6) -> pd.DataFrame:
    """The same of RaVL with three weights λ of CLIP's loss, on the settings that all three repaired.

    `repairs` are those of table 3; kept are settings whose Precision@10 is above the cut.
    """
    there = repairs[(repairs.trained == "head") & (repairs.precision_at_10 > above)]
    complete = there.groupby("seed").method.transform(lambda methods: set(LAMBDAS) <= set(methods))
    changed = changes_of_methods(there[complete & there.method.isin(["standard", *LAMBDAS])], methods=list(LAMBDAS))
    return changed.assign(weight=changed.method.map(LAMBDAS)).sort_values("weight", kind="stable", ignore_index=True)


def _ends(names: tuple[str, str, str], values: pd.Series, drawn_together: pd.Series) -> dict:
    return dict(zip(names, clustered_interval(values.to_numpy(), drawn_together.to_numpy()), strict=True))
