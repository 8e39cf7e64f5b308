"""Makes the environment of `make setup` in a folder: with uv and the hashes of the lock, or with pip.

It needs nothing but Python. A set-up that did not end, or that was moved or copied, is made anew.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ".[notebooks,cluster,dev]"
CACHE = ".uv"  # what was downloaded, until the set-up ends
CONFIGURATIONS = ("ipython", "jupyter", "matplotlib")  # of this environment, not the user's
EVERY = 20  # seconds between two lines of progress


def main() -> None:
    """`environment.py FOLDER`; an error is one line after what uv or pip said."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(f"Python 3.11 to 3.13 is needed, and this is {sys.version.split()[0]}: make setup PYTHON=python3.12")
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    os.chdir(ROOT)
    folder = Path(sys.argv[1]).resolve()
    ready, unfinished = folder / ".ready", folder / ".unfinished"
    made_at = ready.read_text() if ready.exists() else ""
    if made_at and made_at != str(folder):
        print(f"this checkout was moved or copied: its environment was made at {made_at}", flush=True)
    if unfinished.exists() or made_at not in ("", str(folder)) or not runs(folder / "bin" / "python"):
        clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    ready.unlink(missing_ok=True)
    print(f"setting up {sys.argv[1]}: torch and the notebook packages, about 2 minutes and 6 GB", flush=True)
    install(folder)
    for name in CONFIGURATIONS:
        (folder / ".config" / name).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / CACHE, ignore_errors=True)
    ready.write_text(str(folder))
    unfinished.unlink()


def runs(python: Path) -> bool:
    """Whether it is there and starts; an upgrade of the system's Python may have taken what it links to."""
    try:
        return subprocess.run([str(python), "-c", ""], check=False).returncode == 0
    except OSError:
        return False


def clear(folder: Path) -> None:
    """Remove an environment, if it is one, but what was downloaded for it."""
    if (folder / "pyvenv.cfg").exists() or (folder / ".unfinished").exists():
        for path in (path for path in folder.iterdir() if path.name not in (CACHE, ".unfinished")):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def install(folder: Path) -> None:
    """All packages and this project, linked, into the environment."""
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    if not Path(python).exists():
        run([sys.executable, "-m", "venv", str(folder)])
    uv, environment = shutil.which("uv"), dict(os.environ)
    if told(pip):
        uv = None
    elif not uv:
        # Its cache stays here and goes: the user did not ask for the cache of another program.
        environment["UV_CACHE_DIR"] = str(folder / CACHE)
        uv = own_uv(pip, folder)
    if uv:
        command = [uv, "pip", "install", "--quiet", "--python", python]
        run([*command, "-c", "requirements-hashed.lock", "-e", PROJECT], environment)
    else:
        print("with pip, which takes longer and checks no hashes", flush=True)
        run([*pip, "install", "--quiet", "-c", "requirements.lock", "-e", PROJECT])


def own_uv(pip: list[str], folder: Path) -> "str | None":
    """The uv of the lock, in the environment; None where it cannot be had."""
    (pinned,) = re.findall(r"^uv==(?:.*\\\n)+.*\n", Path("requirements-hashed.lock").read_text(), re.MULTILINE)
    file = folder / CACHE / "uv.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text(pinned)
    command = [*pip, "install", "--quiet", "--require-hashes", "-r", str(file)]
    return str(folder / "bin" / "uv") if subprocess.run(command, check=False).returncode == 0 else None


def told(pip: list[str]) -> bool:
    """Whether the user says where pip looks, and PyPI is not all: then uv, with settings of its own, is not asked."""
    settings = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False).stdout
    return "PIP_EXTRA_INDEX_URL" in os.environ or bool(re.search(r"\.(index-url|no-index)=", settings))


def run(command: list[str], environment: "dict[str, str] | None" = None) -> None:
    """Run it, with a line every `EVERY` seconds; end if it fails."""
    begin = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    while True:
        try:
            code = process.wait(EVERY)
            break
        except subprocess.TimeoutExpired:
            print(f"setting up: {time.monotonic() - begin:.0f} s so far", flush=True)
    if code:
        way = (
            " (or with pip: PIP_INDEX_URL=https://pypi.org/simple make setup)"
            if "uv" in Path(command[0]).name
            else ""
        )
        sys.exit(f"the set-up did not end: see above; the same command tries again{way}")


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, OSError) as error:
        sys.exit(f"the set-up did not end ({error or 'stopped'}); the same command begins it again")
