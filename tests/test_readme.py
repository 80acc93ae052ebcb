"""The README: its numbers come from the reference run, its links lead somewhere, its code runs."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

import ravl_core
from ravl_core import summaries
from ravl_core.pretraining import uncorrelated_set
from ravl_core.settings import THRESHOLDS

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_repair_table_is_that_of_the_reference_run():
    changed = summaries.changes(summaries.reference_table("repairs"))
    valid = changed[(changed.trained == "head") & (changed.margin >= 10)]
    expected = summaries.repair_table(valid)
    written = {cells(line)[0]: cells(line)[1:] for line in README.splitlines() if line.startswith("| RaVL")}
    assert {name: [str(value) for value in row] for name, row in expected.iterrows()} == written


def test_the_table_of_valid_settings_is_that_of_the_reference_run():
    planted = summaries.of_standard_models(summaries.reference_table()).query("strength > 0")
    for (domain, initial), row in summaries.validity_table(planted, by=["domain", "initial"]).iterrows():
        assert f"| {domain}, {initial} | " + " | ".join(map(str, [*row.iloc[1:], row.iloc[0]])) + " |" in README
    total = [int((planted.margin >= threshold).sum()) for threshold in THRESHOLDS]
    assert "| all | " + " | ".join(map(str, [*total, len(planted)])) + " |" in README


def test_the_counts_of_settings_are_those_of_the_reference_run():
    models = summaries.of_standard_models(summaries.reference_table())
    planted, words = models.query("strength > 0"), " ".join(README.split())
    assert f"{len(planted)} planted settings" in words
    assert f"{(planted.margin >= 10).sum()} of them were learned" in words
    assert f"{len(models) - len(planted)} more have nothing planted" in words
    assert len(summaries.evaluated(models)) == summaries.PAPERS_SETTINGS == 654 and "first 654" in words


def test_the_precision_is_that_of_the_reference_run():
    reference, words = summaries.reference_table(), " ".join(README.split())
    judged = summaries.evaluated(reference)
    table = summaries.discovery_table(judged)
    for method in ("RaVL", "Random"):
        row = table.loc[(10, method)]
        assert f"{method} {row['mean']:.2f} [{row.low:.2f}, {row.high:.2f}]" in words
    for (domain, feature), group in judged.groupby(["domain", "feature"]):
        row = summaries.mean_with_interval(group, "precision_at_10")
        assert f"{domain}, {feature}: {row['mean']:.2f} [{row.low:.2f}, {row.high:.2f}], n = {len(group)}" in words
    controls = summaries.of_standard_models(reference).query("strength == 0")
    assert f"{controls.n_findings.median():.0f} clusters a model (median)" in words


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    local = [target for target in targets if "://" not in target]
    assert len(local) >= 5
    assert [target for target in local if not (PROJECT / target).exists()] == []


def test_the_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), flags=re.M)
    commands = re.findall(r"^make (\w+)", README, flags=re.M)
    assert commands and set(commands) <= set(targets)


def test_the_table_of_notebooks_names_them_all():
    named = set(re.findall(r"notebooks/(\d\d_\w+\.ipynb)", README))
    assert named == {path.name for path in (PROJECT / "notebooks").glob("*.ipynb")}


def code_blocks():
    return re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_the_ten_lines_run(monkeypatch, capsys):
    (block,) = (block for block in code_blocks() if "build_setting" in block)
    monkeypatch.setenv("RAVL_PROGRESS", "off")
    smaller = block.replace("n_finetuning=2000", "n_finetuning=700, n_val=400, n_test=100")
    assert smaller != block
    names = {}
    exec(compile(smaller, "README.md", "exec"), names)  # noqa: S102  (the project's own text)
    assert "accuracy_in" in capsys.readouterr().out
    assert names["repaired"] is not names["tuned"]


def test_the_audit_of_a_folder_runs(tmp_path, capsys):
    (block,) = (block for block in code_blocks() if "rc.audit" in block)
    data = uncorrelated_set("digits", "val", 100, seed=0)
    for label, name in ((3, "cat"), (5, "dog")):
        (tmp_path / name).mkdir()
        for at in np.flatnonzero(data.labels == label):
            Image.fromarray(data.images[at]).save(tmp_path / name / f"{at}.png")
    here = block.replace('"RN50-quickgelu", "path/to/folder"', f'"rn-mini", {str(tmp_path)!r}')
    assert here != block
    exec(compile(here, "README.md", "exec"), {"rc": ravl_core})  # noqa: S102
    assert capsys.readouterr().err == ""
