"""Notebooks as functions: parameters are checked, a failure writes nothing, equal runs give equal files."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dpnet.data.index import end_with_parent
from dpnet.io import LINE, RELAY, ROOT, DPNetError, Places, places, progress, terminal, to_json, write

TEMPLATES = ROOT / "notebooks"
ATTEMPTS = 3  # at a notebook whose kernel dies
PATIENCE = 300  # seconds for a cell that does not train; now and then a kernel of widgets never answers
AT_ONCE = 2  # notebooks of tables and figures that are executed side by side
PANDAS = {"display.width": 250, "display.max_columns": 20, "display.max_rows": 200, "display.max_colwidth": 120}
# What differs between two identical runs.
CHURN = ["metadata.papermill", "metadata.language_info", "metadata.widgets"]
CHURN += ["cell.metadata.papermill", "cell.metadata.execution", "cell.metadata.jupyter"]
WIDGET = "application/vnd.jupyter.widget-view+json"  # a control's random id: an error message without its kernel
DRAWS = re.compile(r"^( *)(?:_|figure) = (?:figures|drawing)\.", re.MULTILINE)  # a picture below its cell
KERNEL = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--IPKernelApp.log_level=50"]
INLINE = "module://matplotlib_inline.backend_inline"


def installed() -> bool:
    """Whether papermill is there; runs do without it, executed notebooks do not."""
    return find_spec("papermill") is not None


def start(names: Mapping[str, Any]) -> None:
    """What a template does first, with its globals(): check parameters, set styles, let `import drawing` work."""
    import pandas as pd

    # Cells are read, since a person's start-up files define names, too.
    declared = dict(re.findall(r"^(\w+): (\w+) = ", "\n".join(names["In"]), re.MULTILINE))
    injected = "\n".join(cell for cell in names["In"] if cell.startswith("# Parameters"))  # by papermill
    for name in re.findall(r"^(\w+) = ", injected, re.MULTILINE):
        if name not in declared:  # of which papermill only warns
            raise DPNetError(f"unknown parameter {name!r}: this notebook has {', '.join(declared)}")
    for name, kind in declared.items():
        if (given := type(names[name]).__name__) != kind:
            raise DPNetError(f"parameter {name}={names[name]!r}: a {kind} is needed, not {given}")
    if "get_ipython" in names:  # in any kernel, also of nbval and JupyterLab
        from dpnet.companion.figures import plt

        names["get_ipython"]().run_line_magic("matplotlib", "inline")
        plt.rcdefaults()
    for option, size in PANDAS.items():
        pd.set_option(option, size)
    if str(TEMPLATES) not in sys.path:
        sys.path.insert(0, str(TEMPLATES))


@contextmanager
def kernel_environment(at: Places, **more: str) -> Iterator[None]:
    """Within it, `io.places()` gives these, here and in all that is started; kernels are of this interpreter."""
    before = dict(os.environ)
    with TemporaryDirectory(prefix="dpnet-", ignore_cleanup_errors=True) as own:
        # First on the path, and without the profile, the start-up files and the style of whoever calls.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # of `dpnet` in its shell
        env = {"PATH": path, "IPYTHONDIR": own, "PYTHONSTARTUP": "", "MATPLOTLIBRC": os.devnull, "MPLBACKEND": INLINE}
        spec = {"argv": KERNEL, "env": env, "display_name": "Python 3", "language": "python"}
        write(Path(own) / "kernels" / "python3" / "kernel.json", to_json(spec))
        here = {f"DPNET_{name.upper()}": str(value) for name, value in vars(at).items()}
        os.environ.update(here, JUPYTER_PATH=own, JUPYTER_RUNTIME_DIR=own, **more)
        try:
            yield
        finally:
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)


def execute(name: str, output: Path, parameters: Mapping[str, Any], at: Places | None = None) -> None:
    """Execute a template, in a kernel that works at `at` (None: where this process does), and write it if it ends.

    What a failed one shows is left beside it, as `.failed.ipynb`. A kernel that dies is started again.
    """
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    output.with_suffix(".failed.ipynb").unlink(missing_ok=True)
    for _ in range(ATTEMPTS):
        # Aside, since another process may be executing the same one, and killed ones leave no trace in the results.
        with (
            suppress(DeadKernelError, CellTimeoutError),
            TemporaryDirectory(prefix="dpnet-", ignore_cleanup_errors=True) as aside,
            kernel_environment(at or places(), **{RELAY: terminal()}),
        ):
            return write(output, _executed(name, output, parameters, Path(aside) / output.name))
    raise DPNetError(f"{output.name}: its kernel died or hung {ATTEMPTS} times (killed, or out of memory)")


def _executed(name: str, output: Path, parameters: Mapping[str, Any], aside: Path) -> bytes:
    """A notebook as it is published: without timestamps, random ids and progress, which is passed on."""
    import nbformat
    import papermill
    from nbstripout import strip_output

    how = {"kernel_name": "python3", "cwd": ROOT, "progress_bar": False, "coalesce_streams": True}
    how |= {"execution_timeout": None if name == "train" else PATIENCE, "stderr_file": sys.stderr}
    try:
        papermill.execute_notebook(template(name), aside, dict(parameters), **how)
        problem = _undrawn(nbformat.read(aside, 4))
    except papermill.PapermillExecutionError as error:
        if error.ename == "DPNetError":
            raise DPNetError(error.evalue) from None
        problem = f"failed with {error.ename}: {error.evalue}"
    if problem:
        failed = output.with_suffix(".failed.ipynb")
        write(failed, aside.read_bytes())
        raise DPNetError(f"{failed}: {problem}")
    notebook = strip_output(nbformat.read(aside, 4), True, True, False, CHURN)
    for cell in (cell for cell in notebook.cells if "outputs" in cell):
        for shows in cell.outputs:
            if shows.get("name") == "stderr":
                shows.text = "".join(line for line in shows.text.splitlines(True) if not line.startswith(LINE))
            shows.get("data", {}).pop(WIDGET, None)  # the picture beside it stays
        cell.outputs = [shows for shows in cell.outputs if shows.get("text") != ""]
    notebook.metadata["dpnet"] = {"source": source(name, output)}
    return (nbformat.writes(notebook) + "\n").encode()


def _undrawn(notebook: Any) -> str:
    """What is wrong where a cell draws and no picture is below it; "" if nothing is."""
    for cell in notebook.cells:
        data = [output.get("data", {}) for output in cell.get("outputs", [])]
        drawing, images = DRAWS.search(cell.source), [kind for of in data for kind in of if "image/" in kind]
        # Where it draws on a condition there may be nothing to draw, and then nothing is displayed.
        empty = all("Empty DataFrame" in of.get("text/plain", "") for of in data)
        if drawing and not images and not (drawing[1] and empty):
            return f"no picture below the cell with `{drawing[0].strip()}`"
    return ""


def execute_stale(folder: Path, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Execute the notebooks (name -> parameters) of a folder that are not up to date; all, even if one fails."""
    if not installed():
        print("papermill is not installed: no executed notebooks (pip install -e '.[notebooks]')")
        return
    stale = [name for name in wanted if not current(name, folder / f"{name}.ipynb")]
    for name in wanted:
        if name not in stale:
            print(f"{name}.ipynb: up to date")
    # Processes, since papermill changes the working directory; fresh ones: a fork would inherit torch's threads.
    with ProcessPoolExecutor(AT_ONCE, get_context("spawn"), _beside_others) as pool:
        begun = [pool.submit(execute, name, folder / f"{name}.ipynb", wanted[name]) for name in stale]
        for future in progress(as_completed(begun), "tables and figures", "notebook", len(begun)):
            try:
                future.result()
            except BrokenProcessPool:
                raise DPNetError("a process at a notebook was killed; the same command goes on from here") from None


def _beside_others() -> None:
    os.environ[RELAY] = os.devnull  # bars would overwrite each other
    end_with_parent()


def template(name: str) -> Path:
    """The template of an executed notebook: its own, or the one that all tables share."""
    own = TEMPLATES / f"{name}.ipynb"
    return own if own.exists() else TEMPLATES / "table.ipynb"


def source(name: str, output: Path) -> str:
    """Twelve hex digits of what an executed notebook was made from: if it carries others, it is stale.

    That is its template; except for training also the tables or predictions beside it, and the code that reads them.
    """
    cells = json.loads(template(name).read_bytes())["cells"]
    digest = hashlib.sha256(json.dumps([cell["source"] for cell in cells]).encode())
    if name != "train":
        tables = "*.csv" if name == "report" else f"{name}*.csv"
        code = [(Path(__file__).parent, "*.py"), (TEMPLATES, "*.py")]
        held_against = places().published / output.parent.name
        beside = [(of, files) for of in {output.parent: 0, held_against: 0} for files in (tables, f"{name}.npz")]
        for folder, files in [*code, *beside]:
            for file in sorted(folder.glob(files)):
                digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def current(name: str, output: Path) -> bool:
    """Whether an executed notebook is there and was made from what is there now."""
    about = json.loads(output.read_bytes())["metadata"] if output.exists() else {}
    return about.get("dpnet", {}).get("source") == source(name, output)
