"""The same commands in two processes that agree on nothing but their arguments leave the same bytes.

One hashes strings by another seed than the other, so that sets come in another order, and runs a study in one process
where the other has two. That two runs in one process agree stands where each part is tested.
"""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from tiny import tiny_vlm

import ravl_core as rc
from ravl_core import figures, study
from ravl_core.audits.export import export_audit
from ravl_core.audits.report import write_report
from ravl_core.checkpoints import save_vlm
from ravl_core.grids import repairs_of
from ravl_core.mitigation import Budget
from ravl_core.repair_rows import FEW_ROWS
from ravl_core.settings import Setting
from ravl_core.tasks import Task

SMALL = Setting(strength=0.9, n_finetuning=200, n_val=80, n_test=20)
SHORT = Budget(epochs=1, batch_size=64, learning_rate=1e-3)
LEANING = Setting(strength=0.99, seed=3, n_finetuning=600, n_val=200, n_test=20)
DOMAINS = {"digits": "red rectangle", "photos": "horse", "habitats": "street"}  # and a feature of each
DRIVER = "import sys; from test_determinism import write_all; write_all(*sys.argv[1:])"


# ---- in each process ----


def write_all(folder, model, workers):
    """Write into the folder what a user may: records and tables, images, an audit, figures."""
    folder = Path(folder)
    first = replace(SMALL, initial=model)
    repairs = repairs_of(first.feature, FEW_ROWS)
    run_study("settings", workers, Task(first, SHORT), Task(replace(first, seed=1), SHORT, stability=True))
    run_study("audits", workers, Task(replace(first, seed=2), SHORT, audit=True))
    run_study("search", workers, *(Task(replace(first, seed=seed), SHORT, repairs) for seed in (3, 4)))
    write_sets(folder / "sets.json")
    write_audit(folder)
    write_figures(folder / "figures")


def run_study(kind, workers, *tasks):
    """`python -m ravl_core.study`, on other settings than a profile's."""
    command = ["study", "--profile", "smoke", "--grid", kind, "--workers", workers]
    with patch.object(study, "grid", lambda profile, kind: tasks), patch.object(sys, "argv", command):
        with pytest.raises(SystemExit) as ended:
            study.main()
    assert ended.value.code == 0


def write_sets(path):
    """What the images of each set are."""
    found = {}
    for domain, feature in DOMAINS.items():
        data = rc.build_setting(replace(SMALL, domain=domain, feature=feature, attribute=1))
        for split in ("finetuning", "val", "test"):
            images = getattr(data, split).images
            found[f"{domain} {split}"] = [len(images), hashlib.sha256(images.tobytes()).hexdigest()]
    path.write_text(json.dumps(found))


def write_audit(folder):
    """The tables and the report of an audit that finds something."""
    data = rc.build_setting(LEANING)
    tuned, _ = rc.mitigate(rc.load_vlm("rn-mini"), data.finetuning, recipe="standard", budget=Budget(epochs=4), seed=3)
    val, look = data.val, {"words": ("red", "digit"), "n_permutations": 99, "thorough": False, "seed": 5}
    done = rc.audit(tuned, val.images, val.class_names, val.labels, templates=val.templates, **look)
    assert done.findings
    export_audit(done, folder / "audit")
    write_report(done, folder / "audit" / "index.html")


def write_figures(folder):
    from test_figures import draw_all

    from ravl_core.domains import load_domain

    labels = [label for label in range(10) for _ in range(4)]
    for name, figure in draw_all(load_domain("digits").compose("val", labels, [False, True] * 20, seed=0)).items():
        figures.save(figure, folder, name)


# ---- here ----


def start(folder, model, workers, hash_seed):
    here = Path(__file__).parent
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAVL_PROGRESS": "off", "RAVL_HOME": str(folder)}
    environment |= {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])}
    command = [sys.executable, "-c", DRIVER, str(folder), model, workers]
    folder.mkdir()
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def content(path):
    """The bytes of a file; of a record, without what may differ between equal runs."""
    if path.parent.name != "records":
        return path.read_bytes()
    record = json.loads(path.read_text())
    del record["times"], record["checksum"]
    return json.dumps(record).encode()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What the two processes wrote: name → content."""
    shared = tmp_path_factory.mktemp("both")
    model = f"local-dir:{save_vlm(tiny_vlm(), shared / 'model')}"
    runs = {shared / "one": ("1", "1"), shared / "other": ("2", "2")}
    started = [start(folder, model, *options) for folder, options in runs.items()]
    for run in started:
        problems = run.communicate(timeout=600)[1]
        assert run.returncode == 0, problems
    return [
        {path.relative_to(folder).as_posix(): content(path) for path in sorted(folder.rglob("*")) if path.is_file()}
        for folder in runs
    ]


@pytest.mark.parametrize(
    "kind, least",
    [("results/smoke/records", 5), ("results/smoke/search.csv", 1), ("sets", 1), ("audit", 9), ("figures", 18)],
)
def test_what_two_processes_write_is_the_same(both, kind, least):
    one, other = ({name: bytes_ for name, bytes_ in files.items() if name.startswith(kind)} for files in both)
    assert one.keys() == other.keys() and len(one) >= least
    assert [name for name in one if one[name] != other[name]] == []
    assert all(one.values())


def test_two_processes_write_nothing_else(both):
    assert both[0].keys() == both[1].keys()
