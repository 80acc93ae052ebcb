"""The ledgers: every claim has a verdict that follows from the reference run, every test and name in them exists."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pandas as pd
import pytest

from ravl_core import ledger, paths
from ravl_core.figures.ledger import claims_forest
from ravl_core.parity import NO_SWITCH, PARITY, parity_table
from ravl_core.stated_claims import CLAIMS, SOURCES, Claim

TESTS = Path(__file__).parent


def part(ours, verdict, n=10, of="settings"):
    return {"ours": ours, "n": n, "verdict": verdict, "of": of, "table": "a.csv"}


MADE = pd.DataFrame(
    {
        "02: a": part("+0.07 [+0.02, +0.12] to Domino", "holds"),
        "02: b": part("+0.04 [-0.01, +0.09] to Domino", "open", n=7),
        "02: lead": part("+9% [+3%, +17%] over Domino", "does not hold"),
        "04: c": part("-8.3 [-10.2, -5.0] to upsampled; behind upsampled", "does not hold", n=4, of="seeds"),
        "05: d": part("27 of 29, 93% [78%, 98%]", "holds", of="models"),
    }
).T


@pytest.fixture(scope="module")
def parts():
    return ledger.reference_parts()


@pytest.fixture(scope="module")
def rows(parts):
    return ledger.ledger(CLAIMS, parts)


# ---- from parts to claims ----


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["holds"], "holds"),
        (["holds", "holds"], "holds"),
        (["holds", "open"], "holds partly"),
        (["holds", "does not hold"], "holds partly"),
        (["holds partly", "does not hold"], "holds partly"),
        (["open", "does not hold"], "does not hold"),
        (["open", "open"], "open"),
    ],
)
def test_the_verdict_on_several_parts(verdicts, expected):
    assert ledger.together(verdicts) == ledger.together(verdicts[::-1]) == expected


def test_what_is_no_verdict_on_a_part_is_refused():
    with pytest.raises(ValueError, match="verdicts: expected those of one part or more, got none"):
        ledger.together([])
    for word in ("smaller run", "not testable here", "no claim"):
        with pytest.raises(ValueError, match="verdicts: expected one of 'holds'"):
            ledger.together(["holds", word])


def test_a_claim_is_told_with_all_its_parts():
    claim = Claim("RaVL 2", "ahead", "ahead", {"T = 10": "02: a", "T = 20": "02: b"}, {"on seeds": "04: c"}, why="why")
    (row,) = ledger.ledger([claim], MADE).to_dict("records")
    assert row["ours"] == "T = 10: +0.07 [+0.02, +0.12] to Domino; T = 20: +0.04 [-0.01, +0.09] to Domino"
    assert (row["n"], row["of"], row["verdict"], row["why"]) == ("7–10", "settings", "holds partly", "why")
    assert row["beside"] == "on seeds: -8.3 [-10.2, -5.0] to upsampled; behind upsampled, does not hold"
    assert (row["table"], row["notebook"]) == ("results/full/a.csv", "02")


def test_parts_that_say_the_same_are_said_once():
    claim = Claim("RaVL 4", "lead", "up to +8.2 %", {"above 0": "04: c", "as points": "04: c"}, claimed=8.2)
    assert ledger.ledger([claim], MADE).ours[0] == MADE.ours["04: c"]
    drawn = ledger.differences([claim], MADE)
    assert drawn[["label", "difference", "claimed", "verdict"]].values.tolist() == [["", -8.3, 8.2, "does not hold"]]


def test_a_claim_that_cannot_be_tested_has_its_verdict_whatever_its_parts_say():
    settled = Claim("RaVL 7", "demo", "0.782", {"": "05: d"}, settled="not testable here")
    assert ledger.ledger([settled, Claim("GALS", "x", "y", settled="no claim")], MADE).verdict.tolist() == [
        "not testable here", "no claim",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="settled: expected one of"):
        ledger.ledger([Claim("GALS", "x", "y", settled="perhaps")], MADE)


def test_a_claim_without_its_part_is_named():
    with pytest.raises(ValueError, match=r"'ahead' expects rows \['02: z'\]"):
        ledger.ledger([Claim("RaVL 2", "ahead", "ahead", {"": "02: z"})], MADE)


def test_differences_are_in_points_and_shares_are_none():
    claim = Claim("RaVL 2", "all", "ahead", {"a": "02: a", "c": "04: c", "lead": "02: lead", "d": "05: d"})
    drawn = ledger.differences([claim], MADE)
    assert drawn.label.tolist() == ["a", "c", "lead"] and drawn.n.tolist() == [10, 4, 10]
    expected = [[7, 2, 12], [-8.3, -10.2, -5.0], [9, 3, 17]]
    assert drawn[["difference", "low", "high"]].values.tolist() == [pytest.approx(row) for row in expected]


# ---- the reference run ----


def test_every_source_has_claims_and_every_claim_a_verdict(rows):
    assert list(rows.source.unique()) == list(SOURCES)
    assert set(rows.verdict) <= set(ledger.VERDICTS) and not rows.duplicated(["source", "claim"]).any()
    assert (rows.paper != "").all()
    assert (rows.why[~rows.verdict.isin(["holds", "no claim"])] != "").all()
    tested = ~rows.verdict.isin(["not testable here", "no claim"])
    assert (rows[tested][["ours", "n", "of", "table", "notebook"]] != "").all(axis=None)


def test_numbers_are_those_of_the_committed_tables_of_claims(parts):
    folder, compared = paths.PROJECT / "results" / "full", 0
    for notebook in ("02", "03", "04", "06"):
        path = folder / f"{notebook}_claims.csv"
        written = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["claim"])
        for row in written.rename(columns={"seeds": "n"}).to_dict("records"):
            own = parts.loc[f"{notebook}: {row['claim']}"]
            assert [own.ours, own.n, own.verdict] == [row["ours"], row["n"], row["verdict"]], row["claim"]
            compared += 1
    assert compared >= 60


def test_a_table_that_is_named_is_committed(rows):
    named = {name for cell in rows.table for name in cell.split(", ") if name}
    assert len(named) >= 6
    assert [name for name in named if not (paths.PROJECT / name).is_file()] == []


def test_what_the_paper_claims_is_judged_by_each_of_its_rows(parts):
    """Of the tables of claims only the parts beyond the paper's own cells may be in no row."""
    used = {name for claim in CLAIMS for name in (*claim.parts.values(), *claim.beside.values())}
    beyond = re.compile(r": (real-world|synthetic|all settings)$|all data|above the closest rival|^05|^01")
    assert [name for name in parts.index if name not in used and not beyond.search(name)] == []


# ---- parity ----


def test_every_test_of_the_parity_ledger_exists():
    named = {tuple(name.split("::")) for row in PARITY for name in row.tests}
    assert len(named) > 30 and all(row.tests for row in PARITY)
    for file in {file for file, _ in named}:
        body = ast.parse((TESTS / file).read_text(encoding="utf-8")).body
        there = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        assert {test for other, test in named if other == file} - there == set(), file


def resolved(dotted):
    module, name = dotted.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def test_every_function_and_switch_of_the_parity_ledger_exists():
    switches = [switch for row in PARITY for _, switch in row.departures if switch != NO_SWITCH]
    assert len(switches) > 15
    for row in PARITY:
        assert row.ours and all(callable(resolved(name)) for name in row.ours)
    for switch in switches:
        name, parameter = re.fullmatch(r"([\w.]+)\((\w+)\)", switch).groups()
        assert parameter in inspect.signature(resolved(name)).parameters, switch


def test_every_reference_output_is_in_the_parity_ledger():
    golden = {path.relative_to(TESTS / "golden").as_posix() for path in (TESTS / "golden").rglob("*.npz")}
    assert {name for row in PARITY for name in row.golden} == golden
    for row in PARITY:  # a test that is named reads a file of the same folder
        for folder in {name.split("/")[0] for name in row.golden}:
            assert any(folder in (TESTS / name.split("::")[0]).read_text() for name in row.tests), row.implementation


def test_the_parity_table_has_a_row_for_each_departure():
    table = parity_table(PARITY)
    assert len(table) == sum(max(len(row.departures), 1) for row in PARITY)
    assert table.implementation.nunique() == len(PARITY)
    assert ((table.departure == "") == (table.switch == "")).all()


# ---- the picture ----


def test_the_forest_draws_every_difference(parts):
    drawn = ledger.differences(CLAIMS, parts)
    figure = claims_forest(drawn, SOURCES)
    axes = figure.axes[0]
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert [name for name in names if name in set(drawn.claim)] == list(drawn.claim.unique())
    assert len(axes.containers) == len(drawn)
    middles = [container.lines[0].get_xdata()[0] for container in axes.containers]
    assert middles == pytest.approx(drawn.difference.tolist())


def test_a_verdict_has_a_marker_of_its_own(parts):
    drawn = ledger.differences(CLAIMS, parts)
    markers = {}
    for verdict, container in zip(drawn.verdict, claims_forest(drawn, SOURCES).axes[0].containers, strict=True):
        line = container.lines[0]
        look = line.get_marker(), line.get_markerfacecolor()
        assert markers.setdefault(verdict, look) == look
    assert len(markers) == 4 and len({marker for marker, _ in markers.values()}) == 4


def test_a_table_that_lacks_a_column_is_refused(parts):
    drawn = ledger.differences(CLAIMS, parts)
    with pytest.raises(ValueError, match=r"table: expected columns \['claimed'\]"):
        claims_forest(drawn.drop(columns="claimed"), SOURCES)


def test_claims_of_one_source_stand_together_in_the_order_of_the_sources():
    seen = list(dict.fromkeys(claim.source for claim in CLAIMS))
    assert seen == [source for source in SOURCES if source in seen]
    assert [claim.source for claim in CLAIMS] == sorted((claim.source for claim in CLAIMS), key=seen.index)
