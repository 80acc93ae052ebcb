"""The README: its numbers come from the reference run, its links lead somewhere, its code runs."""

import re
from pathlib import Path
from textwrap import dedent

import numpy as np
import pandas as pd
import pytest
from evaluations import planted
from PIL import Image
from tiny import digits, tiny_vlm

import ravl_core
from ravl_core import discovery_summaries, discovery_tables, mitigation_summaries, sensitivity_tables, summaries
from ravl_core.audits.rates import trial_rates
from ravl_core.language.summaries import changes as language_changes
from ravl_core.mitigation import Budget, finetune
from ravl_core.pretraining import uncorrelated_set
from ravl_core.repair_text import changes_text
from ravl_core.settings import THRESHOLDS

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_repair_table_is_that_of_the_reference_run():
    head = mitigation_summaries.of_table_3(summaries.reference_table("repairs"))
    found = mitigation_summaries.with_precision_above(head, 0.6)
    section = README.split("**Stage 2.**")[1].split("## ")[0]
    assert f"over the {found.seed.nunique()} of {head.seed.nunique()} repaired settings" in " ".join(section.split())
    written = {cells(line)[0]: cells(line)[1:] for line in section.splitlines() if line.startswith("| ")}
    methods = [name for name in written if name in set(found.method)]
    assert {"RaVL", "upsampled", "VL-ERM", "VL-GDRO", "Spurious-Aware", "swaps + RaVL"} <= set(methods)
    changes = changes_text(mitigation_summaries.changes_of_methods(found, methods=methods))
    for method in methods:
        assert [changes.loc[method, figure] for figure in mitigation_summaries.FIGURES] == written[method], method
    means = 100 * found[found.method == "standard"][list(mitigation_summaries.FIGURES)].mean()
    assert written["*standard itself, in %*"] == [f"{mean:.1f}" for mean in means]


def test_the_table_of_valid_settings_is_that_of_the_reference_run():
    planted = summaries.of_standard_models(summaries.reference_table()).query("strength > 0")
    for domain, row in summaries.validity_table(planted, by=["domain"]).iterrows():
        assert f"| {domain} | " + " | ".join(map(str, [*row.iloc[1:], row.iloc[0]])) + " |" in README
    total = [int((planted.margin >= threshold).sum()) for threshold in THRESHOLDS]
    assert "| all | " + " | ".join(map(str, [*total, len(planted)])) + " |" in README


def test_the_counts_of_settings_are_those_of_the_reference_run():
    models = summaries.of_standard_models(summaries.reference_table())
    planted, words = models.query("strength > 0"), " ".join(README.split())
    assert f"{len(planted)} planted settings" in words
    assert f"{(planted.margin >= 10).sum()} of them were learned" in words
    assert f"{len(models) - len(planted)} more have nothing planted" in words
    assert len(summaries.evaluated(models)) == summaries.PAPERS_SETTINGS == 654 and "first 654" in words


def interval(row, name=""):
    names = (name, f"{name}_low", f"{name}_high") if name else ("mean", "low", "high")
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(row[each] for each in names))


@pytest.fixture(scope="module")
def judged():
    return discovery_summaries.judged(discovery_tables.reference_tables())


def test_the_table_of_methods_is_that_of_the_reference_run(judged):
    methods = (*discovery_summaries.TABLE_1, *discovery_summaries.VARIANTS)
    parts = [judged, *(judged[judged.kind == kind] for kind in ("synthetic", "real-world"))]
    tables = [discovery_summaries.precision_table(part, methods, (10,)).loc[10] for part in parts]
    for method in methods:
        assert f"| {method} | " + " | ".join(interval(table.loc[method]) for table in tables) + " |" in README, method
    assert "| n | " + " | ".join(str(table.n.iloc[0]) for table in tables) + " |" in README


def test_the_precision_by_feature_is_that_of_the_reference_run(judged):
    words = " ".join(README.split())
    by_feature = discovery_summaries.precision_by(judged, ["domain", "feature"])
    for (domain, feature, method), row in by_feature.iterrows():
        if method == "RaVL":
            assert f"{domain}, {feature}: {interval(row)}, n = {row.n:.0f}" in words


def test_the_sentences_on_certainty_are_those_of_the_reference_run():
    tables, words = discovery_tables.reference_tables(), " ".join(README.split())
    false = discovery_summaries.false_discoveries(tables)
    for rule in ("paper's recipe", "controlled"):
        row = false.loc[rule]
        assert f"{row.claims:.0f} of {row.n:.0f} (95 % interval {row.low:.0%} to {row.high:.0%})" in words, rule
    power = discovery_summaries.power_table(discovery_summaries.power_rows(tables))
    shares = [f"{power.loc[('controlled', n), 'share']:.0%}" for n in (100, 200, 500, 1000)]
    assert f"{', '.join(shares[:3])} and {shares[3]}" in words


def test_the_rates_of_the_audit_are_those_of_the_reference_run():
    rates, words = trial_rates(summaries.reference_table("audits")), " ".join(README.split())
    wanted = {
        ("learned", "the first finding is the planted feature"): "the first finding is the planted feature in",
        ("learned", "… and hiding it counts (surroundings)"): "hiding it counts in",
        ("nothing planted", "something is found"): "it finds something in",
    }
    for (among, what), start in wanted.items():
        (row,) = rates[(rates.among == among) & (rates.what == what)].itertuples()
        assert f"{start} {row.count} of {row.n} (95 % interval {row.low:.0%} to {row.high:.0%})" in words, what


def test_what_is_said_of_a_vision_transformer_is_of_the_reference_run():
    repairs = sensitivity_tables.learned(summaries.reference_table("sensitivity_repairs"))
    changes = sensitivity_tables.changes_by_model(repairs).set_index(["model", "method", "metric"])
    row = changes.loc[("vit-mini", "swaps", "image_worst_group")]
    said = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*row[["difference", "difference_low", "difference_high"]])
    assert f"swaps move that group by {said} ({row.n} models, notebook 07)" in README


def test_what_is_said_of_language_guided_repair_is_of_the_reference_run():
    changes = language_changes(summaries.reference_table("language")).set_index(["method", "figure"])
    words = " ".join(README.split())
    for figure, end in (("worst group", "points in the worst group"), ("overall", "overall")):
        row = changes.loc[("language-guided", figure)]
        assert f"{row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}] {end}" in words


def test_what_is_said_of_speed_is_of_the_reference_run():
    names = "clustering", "scale", "encoding", "encoding_gpu"
    tables = {name: summaries.reference_table(f"08_{name}") for name in names}
    words = " ".join(README.split())
    costs = tables["clustering"].set_index(["method", "regions"])
    exact = costs.loc["exact", 16_000]
    assert f"{costs.loc['plain', 16_000].seconds / exact.seconds:.1f} times as fast as the published scheme" in words
    assert f"takes {exact.seconds:.1f} s and {exact.peak_mb / exact.matrix_mb:.2f} of the matrix" in words
    million = tables["scale"].set_index(["what", "regions"]).loc["clustering", 1_000_000]
    assert f"1,000,000 regions from a float16 file take {million.seconds:.0f} s" in words
    gpu, cores = (
        tables[name].set_index(["model", "way", "precision"]).regions_per_second.loc["RN50", "early", precision]
        for name, precision in (("encoding_gpu", "bfloat16"), ("encoding", "float32"))
    )
    assert f"encodes {gpu:,.0f} regions a second on the GPU (*early*, bfloat16), {cores:.0f} on the cores" in words


def test_the_lines_on_shards_run(tmp_path, monkeypatch):
    (block,) = re.findall(r"^    shards = .*\n    found = .*\n", README, flags=re.MULTILINE)
    folder = folder_of_two_classes(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    names = {"rc": ravl_core}
    exec(compile(dedent(block).replace("path/to/folder", str(folder)), "README.md", "exec"), names)  # noqa: S102
    again = ravl_core.discover(ravl_core.read_shards("shards"))
    assert len(names["shards"].labels) == len(list(folder.rglob("*.png"))) > 10
    np.testing.assert_array_equal(again.clustering.labels, names["found"].clustering.labels)


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README)
    targets = [link or picture for link, picture in targets]
    local = [target for target in targets if "://" not in target]
    assert len(local) >= 5
    assert [target for target in local if not (PROJECT / target).exists()] == []


def test_the_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), flags=re.M)
    commands = re.findall(r"^make (\w+)", README, flags=re.M)
    assert commands and set(commands) <= set(targets)


def test_the_table_of_notebooks_is_that_of_the_committed_run():
    """Each notebook has a row with a picture of its own; the time is in whole minutes, or "seconds" below one."""
    section = README.split("## The notebooks")[1].split("## ")[0]
    rows = [cells(line) for line in section.splitlines() if line.startswith("| [")]
    status = pd.read_csv(PROJECT / "results" / "demo" / "status.csv").set_index("notebook")
    names = sorted(path.stem for path in (PROJECT / "notebooks").glob("*.ipynb"))
    assert len(rows) == len(names)
    for name, (link, picture, shows, took, passed) in zip(names, rows, strict=True):
        seconds = status.seconds[name]
        assert link == f"[{name}](notebooks/{name}.ipynb)" and len(shows) > 20
        assert f'src="figures/demo/{name[:2]}_' in picture and "alt=" in picture
        assert took == ("seconds" if seconds < 60 else f"{seconds / 60:.0f} min"), name
        assert passed == status.status[name] == "pass"


def test_it_is_short():
    assert len(README.splitlines()) <= 250


def code_blocks(page=README):
    return re.findall(r"```python\n(.*?)```", page, flags=re.S)


def test_the_ten_lines_run(monkeypatch, capsys):
    (block,) = (block for block in code_blocks() if "build_setting" in block)
    monkeypatch.setenv("RAVL_PROGRESS", "off")
    smaller = block.replace("n_finetuning=2000", "n_finetuning=700, n_val=400, n_test=100")
    assert smaller != block
    names = {}
    exec(compile(smaller, "README.md", "exec"), names)  # noqa: S102  (the project's own text)
    assert "accuracy_in" in capsys.readouterr().out
    assert names["repaired"] is not names["tuned"]


def folder_of_two_classes(folder):
    data = uncorrelated_set("digits", "val", 100, seed=0)
    for label, name in ((3, "cat"), (5, "dog")):
        (folder / name).mkdir(parents=True)
        for at in np.flatnonzero(data.labels == label):
            Image.fromarray(data.images[at]).save(folder / name / f"{at}.png")
    return folder


def test_the_audit_of_a_folder_runs(tmp_path, capsys, monkeypatch):
    (block,) = (block for block in code_blocks() if "rc.audit" in block)
    folder = folder_of_two_classes(tmp_path / "images")
    here = block.replace('"RN50-quickgelu", "path/to/folder"', f'"rn-mini", {str(folder)!r}')
    assert here != block
    monkeypatch.setenv("RAVL_PROGRESS", "off")
    monkeypatch.chdir(tmp_path)
    exec(compile(here, "README.md", "exec"), {"rc": ravl_core})  # noqa: S102
    out, err = capsys.readouterr()
    assert "answered" in out or "No finding" in out
    assert err == "" and (tmp_path / "report.html").stat().st_size > 5000


def test_the_method_of_a_few_lines_ranks_regions():
    (block,) = (block for block in code_blocks() if "least_sure" in block)
    names, (evaluation, _) = {}, planted(0)
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102
    ranked = names["least_sure"](evaluation)
    images = evaluation.image_index[ranked.regions]
    assert len(images) > 5 and (evaluation.predictions != evaluation.labels)[images].all()
    assert (np.diff(evaluation.image_probs.max(axis=1)[images]) >= 0).all()


def test_the_recipe_of_a_few_lines_trains():
    contributing = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = (block for block in code_blocks(contributing) if "class Cautious" in block)
    names, data = {"__name__": "readme"}, digits(20)
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102
    recipe = names["Cautious"]()
    _, history = finetune(tiny_vlm(), data, recipe, data.shows_feature, Budget(epochs=2, batch_size=10))
    _, without = finetune(
        tiny_vlm(), data, type(recipe)(weight=0.0), data.shows_feature, Budget(epochs=2, batch_size=10)
    )
    assert np.isfinite(history.losses).all() and history.losses[0] > without.losses[0]
