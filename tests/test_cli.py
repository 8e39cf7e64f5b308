"""What a user types: the command line, the Makefile, and the files that must agree."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from dpnet import cli, io, verbs
from dpnet.companion import experiments, presets, runner
from dpnet.companion.cohort import plan
from dpnet.io import DPNetError

ROOT = Path(__file__).parents[1]


# ---- verbs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("reproduce table9", r"unknown target 'table9': choose from table1, .*table6, fig3, .*all"),
        ("reproduce diversity --benchmark pascal", r"pascal has no diversity to set: make reproduce-diversity"),
        ("reproduce table3 --benchmark voc", r"unknown benchmark 'voc': choose from shapes, pascal"),
        ("reproduce table3 --preset huge", r"unknown preset 'huge': choose from tiny, quick, mini, paper"),
        ("reproduce table3 --device tpu", r"unknown device 'tpu'"),
        ("reproduce table3 --device tpu --cluster slurm", r"unknown device 'tpu'"),
        ("reproduce table3 --benchmark pascal-part --data nowhere", r"nowhere: no such folder"),
        (
            "reproduce table3 --results results",
            r"results: `dpnet publish` alone writes there",
        ),
        ("publish table3 --benchmark folder", r"results of your own images are not published"),
        ("train --variant nope", r"unknown variant 'nope': table3 has base, pim, pim\+msf\+ccm"),
        ("train --benchmark shapes --fold 9 --preset tiny", r"no fold 9"),
        ("evaluate --fold 7 --preset tiny", r"shapes has no fold 7 to test: its folds are"),
        ("train --diversity 0.2", r"--diversity 0\.2: table3 has none to set"),
        ("train diversity --diversity 0.33", r"--diversity 0\.33: diversity has 0"),
        ("train diversity --diversity 0.20000000001", r"--diversity 0\.20000000001: diversity has 0"),
        ("report --results results", r"results: `dpnet publish` alone writes there"),
        ("reproduce all+table3", r"unknown target 'all': choose from table1, .*; or all, alone"),
        ("speed --preset tiny", r"speed\.py: not there: `speed` needs a checkout of the project"),
    ],
)
def test_bad_input_is_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str],
                               tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    for name in ("DPNET_DATA", "DPNET_RESULTS"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv(io.RELAY, os.devnull)
    if arguments.startswith("speed"):
        monkeypatch.setattr(io, "ROOT", tmp_path)
    assert cli.main(arguments.split()) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(message, error)
    assert not list(tmp_path.glob("*-*/runs"))  # nothing half-written


@pytest.mark.parametrize(
    "arguments",
    ["reproduce table3 --betta 1", "nonsense", "", "reproduce table3 --seeds 0", "train --seed -1", "train --fold ²"],
)
def test_wrong_words_are_one_line(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments.split())
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_leads_somewhere_and_says_what_it_does(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(getattr(verbs, verb))
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    text = capsys.readouterr().out
    assert text.count(" --") >= 1
    assert len(text.split("\n\n")[1].strip()) > 20  # what it does, in a sentence


def test_places_are_those_that_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def places(words: str) -> io.Places:
        return verbs._places(cli.parser().parse_args(words.split()))

    monkeypatch.setenv("DPNET_RESULTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert places("plan table3 --data d --device cpu") == io.Places(tmp_path / "d", tmp_path, "cpu")
    assert places("prepare shapes --root r").data == tmp_path / "r"
    assert places("reproduce all --results x --cluster slurm").device == "auto"  # for the machines that compute
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert places("reproduce all --cluster slurm --device cuda").device == "cuda"
    with pytest.raises(DPNetError, match="no CUDA device is available here: DEVICE=cpu"):
        places("reproduce all --device cuda")


def test_a_script_is_given_the_places_and_its_exit_code_is_the_verbs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("speed", "choose"):
        (tmp_path / "scripts" / f"{name}.py").write_text("import sys; print(*sys.argv[1:]); sys.exit(3)")
    monkeypatch.setattr(io, "ROOT", tmp_path)
    assert cli.main(["choose", "--device", "cpu", "--data", "/d", "--results", "/r"]) == 3
    assert capfd.readouterr().out == "--benchmark=shapes --preset=quick --data=/d --results=/r --device=cpu\n"
    assert cli.main(["speed", "--device", "cpu", "--preset", "tiny"]) == 3
    assert "--benchmark" not in capfd.readouterr().out


def test_importing_is_light() -> None:
    code = (
        "import sys, dpnet, dpnet.cli, dpnet.companion.paper; "
        "bad = {'papermill', 'nbformat', 'jupyter_client', 'distributed', 'torch', 'timm'} & set(sys.modules); "
        "assert not bad, bad; assert {'segment', 'results'} <= {*dir(dpnet)}; dpnet.DPNet; dpnet.results; "
        "bad = {'papermill', 'nbformat', 'jupyter_client', 'distributed', 'pycocotools'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# ---- what a target needs


def test_the_plan_counts_what_is_there_and_what_is_shared(tmp_path: Path) -> None:
    setting = presets.resolve("shapes", "tiny")
    cohort = runner.Cohort("table3", setting, 0, 0, tmp_path)
    nothing = {"cohort": "table3-fold0-seed0", "runs": 3, "shared": 1, "finished": 0, "to score": 0, "to train": 3,
               "steps": 3 * setting.training.steps}  # fmt: skip
    assert plan([cohort]).iloc[0].to_dict() == nothing
    for run in cohort.runs[:2]:  # trained, and not scored
        cohort.store.begin(run).joinpath("checkpoint.safetensors").write_bytes(b"")
    now = nothing | {"to score": 2, "to train": 1, "steps": setting.training.steps}
    assert plan([cohort]).iloc[0].to_dict() == now


def test_cohorts_are_by_diversity() -> None:
    setting = presets.resolve("shapes", "quick")
    cohort = runner.Cohort("diversity", setting, 0, 0, Path(), diversity=1.0)
    assert cohort.name == "diversity-fold0-seed0-diversity1"
    assert [run.recipe.diversity for run in cohort.runs] == [1.0, 1.0]
    assert not runner.Cohort("table3", setting, 0, 0, Path(), diversity=1.0).runs


# ---- files that must agree


def test_environment_yml_and_the_lock_agree_with_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, through_pip = environment["dependencies"]
    assert (python, pip) == ("python=3.11", "pip")
    assert through_pip == {"pip": ["-c requirements.lock", "-e .[notebooks,cluster,dev]"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    assert (locked["torch"], locked["torchvision"]) == ("2.14.1", "0.29.1")
    extras = project["optional-dependencies"]
    needed = {re.split(r"[><=]", n)[0] for e in (project["dependencies"], *extras.values()) for n in e}
    assert needed <= locked.keys()


def test_ci_and_hooks_run_what_a_user_runs() -> None:
    (job,) = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert "make test" in [step.get("run") for step in job["steps"]]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    named = {hook["id"] for repo in hooks for hook in repo["hooks"]}
    assert {"ruff-check", "ruff-format", "nbstripout", "trailing-whitespace"} <= named
    locked = (ROOT / "requirements.lock").read_text()
    for repo in hooks:  # the versions of the lock
        for name in ("ruff", "nbstripout"):
            if repo["repo"].endswith((f"/{name}", f"/{name}-pre-commit")):
                assert f"{name}=={str(repo['rev']).removeprefix('v')}\n" in locked


def test_make_help_lists_every_public_target() -> None:
    listed = subprocess.run(["make", "help"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    for target in ("setup", "test", "reproduce-table3", "reproduce-all", "plan-table3", "report", "site", "test-site",
                   "test-faults", "clean"):  # fmt: skip
        assert re.search(rf"make {target} ", listed)
    names = [f"{verb}-{name}" for name in [*experiments.EXPERIMENTS, "all"] for verb in ("reproduce", "plan")]
    dry = subprocess.run(["make", "-n", *names], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    for name in names:
        assert f"dpnet {name.replace('-', ' ')} --benchmark" in dry


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout of git")
def test_no_file_of_the_project_names_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    kinds = {".py", ".md", ".toml", ".yml", ".yaml", ".json", ".csv", ".cff", ""}
    named = [
        file
        for file in listed
        if (ROOT / file).suffix in kinds
        and re.search(r"(?<![\w.])/(work|farm|root|home)/\w", (ROOT / file).read_text(errors="replace"))
    ]
    assert named == []
