"""Set-up as far as it goes without installing gigabytes: odd folders, moved checkouts, what was left unfinished."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import environment
import pytest

ROOT = Path(__file__).parents[1]
MADE = ("Makefile", "pyproject.toml", "requirements.lock", "requirements-hashed.lock")
STUB = """import os, sys
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "bin").mkdir(parents=True, exist_ok=True)
if not (folder / "bin" / "python").exists():
    (folder / "bin" / "python").symlink_to(sys.executable)
(folder / ".ready").write_text(str(folder.resolve()))
print("set up", os.environ["IPYTHONDIR"])
"""


def checkout(folder: Path) -> Path:
    """What Make needs of a checkout; what makes the environment installs nothing."""
    (folder / "scripts").mkdir(parents=True)
    for name in MADE:
        shutil.copy2(ROOT / name, folder / name)
    (folder / "scripts" / "environment.py").write_text(STUB)
    return folder


def make(folder: Path, *words: str) -> str:
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    command = ["make", *(words or ["setup"]), f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=folder, env=outside, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["dpnet (1)", "it's", "a&b", "two  spaces", "#1", "[x]", "Übung-数据", "a,b;c=d"])
def test_set_up_in_folders_of_any_name(name: str, tmp_path: Path) -> None:
    folder = checkout(tmp_path / name)
    assert make(folder) == f"set up {folder}/.venv/.config/ipython\n"
    assert make(folder) == "make: Nothing to be done for 'setup'.\n"  # it is there
    assert [p.name for p in tmp_path.iterdir()] == [name]  # nothing beside it
    assert {p.name for p in folder.iterdir()} == {*MADE, "scripts", ".venv"}


def test_a_moved_or_copied_checkout_is_set_up_again(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "first")
    make(folder)
    shutil.copytree(folder, tmp_path / "copied", symlinks=True)
    folder.rename(tmp_path / "moved")
    for name in ("copied", "moved"):
        assert make(tmp_path / name) == f"set up {tmp_path / name}/.venv/.config/ipython\n"
        assert "Nothing to be done" in make(tmp_path / name)


def test_an_environment_without_its_python_is_set_up_again(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "a")
    make(folder)
    (folder / ".venv" / "bin" / "python").unlink()
    assert "set up" in make(folder)


# ---- scripts/environment.py itself


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were installed into; a `python` that starts is all that is put there."""
    done: list[Path] = []

    def install(folder: Path) -> None:
        (folder / "bin").mkdir(exist_ok=True)
        if not (folder / "bin" / "python").exists():
            (folder / "bin" / "python").symlink_to(sys.executable)
        (folder / "pyvenv.cfg").touch()
        done.append(folder)

    monkeypatch.setattr(environment, "install", install)
    return done


def set_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["environment.py", str(folder)])
    monkeypatch.chdir(folder.parent)
    environment.main()


def test_what_was_made_elsewhere_or_did_not_end_is_made_anew(
    tmp_path: Path, installs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "venv"
    set_up(folder, monkeypatch)
    (folder / "installed").touch()
    set_up(folder, monkeypatch)
    assert (folder / "installed").exists()  # the lock changed: it is brought up to date
    folder.rename(tmp_path / "moved")
    capsys.readouterr()
    set_up(tmp_path / "moved", monkeypatch)
    assert f"moved or copied: its environment was made at {folder}" in capsys.readouterr().out
    assert not (tmp_path / "moved" / "installed").exists()
    for name in ("installed", ".unfinished"):
        (tmp_path / "moved" / name).touch()
    set_up(tmp_path / "moved", monkeypatch)
    assert not (tmp_path / "moved" / "installed").exists()
    assert (tmp_path / "moved" / ".ready").read_text() == str(tmp_path / "moved")


def test_a_killed_set_up_is_not_taken_for_one(
    tmp_path: Path, installs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    set_up(tmp_path / "venv", monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(environment, "install", killed)
        with pytest.raises(KeyboardInterrupt):
            set_up(tmp_path / "venv", monkeypatch)
    assert not (tmp_path / "venv" / ".ready").exists()
    set_up(tmp_path / "venv", monkeypatch)
    assert (tmp_path / "venv" / ".ready").exists()


def test_another_folder_is_never_emptied(
    tmp_path: Path, installs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    set_up(tmp_path / "mine", monkeypatch)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_both_locks_pin_the_same() -> None:
    pinned = [
        {line.split(" ")[0] for line in (ROOT / name).read_text().splitlines() if "==" in line and line[0] != "#"}
        for name in ("requirements.lock", "requirements-hashed.lock")
    ]
    assert {p.lower().replace("_", "-").replace(".", "-") for p in pinned[0]} == {
        p.lower().replace("_", "-").replace(".", "-") for p in pinned[1]
    }


@pytest.mark.parametrize(("name", "words"), [("environment", "usage: .*FOLDER"), ("documents", "takes no arguments")])
def test_a_script_without_options_says_so(name: str, words: str, tmp_path: Path) -> None:
    call = [sys.executable, ROOT / "scripts" / f"{name}.py", "--help"]
    ended = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert re.search(words, ended.stderr)
    assert not (ROOT / "--help").exists()
