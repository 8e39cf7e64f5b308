"""Notebooks as functions: parameters are checked, a failure writes nothing, equal runs give equal files."""

import hashlib
import json
import os
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
INLINE = "module://matplotlib_inline.backend_inline"


def installed() -> bool:
    """Whether papermill is there; runs do without it, executed notebooks do not."""
    return find_spec("papermill") is not None


def start(names: Mapping[str, Any]) -> None:
    """What a template does first, with its globals(): check parameters, widen tables, let `import drawing` work."""
    import pandas as pd

    for name, kind in names["__annotations__"].items():
        if type(value := names[name]) is not kind:
            raise DPNetError(f"parameter {name}={value!r}: a {kind.__name__} is needed, not {type(value).__name__}")
    for option, size in PANDAS.items():
        pd.set_option(option, size)
    if str(TEMPLATES) not in sys.path:
        sys.path.insert(0, str(TEMPLATES))


@contextmanager
def kernel_environment(at: Places, **more: str) -> Iterator[None]:
    """Within it, `io.places()` gives these, here and in every kernel and process that is started."""
    before = dict(os.environ)
    os.environ.update({f"DPNET_{name.upper()}": str(value) for name, value in vars(at).items()}, **more)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def own_kernel(folder: Path) -> dict[str, str]:
    """Variables for kernels of this interpreter, without the user's profile, start-up file, backend and style."""
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "Python 3", "language": "python"}
    write(folder / "kernels" / "python3" / "kernel.json", to_json(spec))
    first = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "JUPYTER_PATH": str(folder),
    }
    own = {name: str(folder / name.lower()) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR")}
    return {**first, **own, "PYTHONSTARTUP": "", "MPLBACKEND": INLINE, "MATPLOTLIBRC": os.devnull}


def execute(name: str, output: Path, parameters: Mapping[str, Any], at: Places | None = None) -> None:
    """Execute a template, in a kernel that works at `at` (None: where this process does), and write it if it ends.

    What a failed one shows is left beside it, as `.failed.ipynb`. A kernel that dies is started again.
    """
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    # A folder that cannot be written is an error before hours of training.
    write(output.with_suffix(".failed.ipynb"), b"")
    output.with_suffix(".failed.ipynb").unlink(missing_ok=True)
    for _ in range(ATTEMPTS):
        # Aside, since another process may be executing the same one, and killed ones leave no trace in the results.
        with (
            suppress(DeadKernelError, CellTimeoutError),
            TemporaryDirectory(prefix="dpnet-", ignore_cleanup_errors=True) as aside,
            kernel_environment(at or places(), **{RELAY: terminal()}, **own_kernel(Path(aside))),
        ):
            return write(output, _executed(name, output, parameters, Path(aside) / output.name))
    raise DPNetError(f"{output.name}: its kernel died or hung {ATTEMPTS} times (killed, or out of memory)")


def _executed(name: str, output: Path, parameters: Mapping[str, Any], aside: Path) -> bytes:
    """A notebook as it is published: without timestamps and random ids."""
    import nbformat
    import papermill
    from nbstripout import strip_output

    if unknown := parameters.keys() - (declared := papermill.inspect_notebook(template(name))).keys():
        raise DPNetError(f"unknown parameter {min(unknown)!r}: this notebook has {', '.join(declared)}")
    how = {"kernel_name": "python3", "cwd": ROOT, "progress_bar": False, "coalesce_streams": True}
    how |= {"execution_timeout": None if name == "train" else PATIENCE}
    how |= {"stderr_file": sys.stderr}  # a kernel's progress is passed on, and is no part of the notebook
    try:
        quiet = ["--IPKernelApp.log_level=50"]
        papermill.execute_notebook(template(name), aside, dict(parameters), extra_arguments=quiet, **how)
    except papermill.PapermillExecutionError as error:
        if error.ename == "DPNetError":
            raise DPNetError(error.evalue) from None
        failed = output.with_suffix(".failed.ipynb")
        write(failed, aside.read_bytes())
        raise DPNetError(f"{failed}: failed with {error.ename}: {error.evalue}") from None
    notebook = strip_output(nbformat.read(aside, 4), True, True, False, CHURN)
    drawn: set[str] = set()
    for cell in (cell for cell in notebook.cells if "outputs" in cell):
        for displayed in cell.outputs:
            if displayed.get("name") == "stderr":
                displayed.text = "".join(t for t in displayed.text.splitlines(True) if not t.startswith(LINE))
            displayed.get("data", {}).pop(WIDGET, None)  # the picture beside it stays
            drawn |= {*displayed.get("data", {})} & {"image/png", "image/jpeg"}
        cell.outputs = [displayed for displayed in cell.outputs if displayed.get("text") != ""]
    draws = parameters.get("pictures", True) and any("figures." in cell.source for cell in notebook.cells)
    if draws and not drawn:
        raise DPNetError(f"{output.name}: its figures were not drawn: something sets another backend of matplotlib")
    notebook.metadata["dpnet"] = {"source": source(name, output)}
    return (nbformat.writes(notebook) + "\n").encode()


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
    """Twelve hex digits of what an executed notebook was made from: if it carries others, it is stale."""
    # Its template; except for training also the CSVs beside it (the explorer's predictions), and the code that
    # reads and draws results.
    cells = json.loads(template(name).read_text())["cells"]
    digest = hashlib.sha256(json.dumps([cell["source"] for cell in cells]).encode())
    if name != "train":
        beside = sorted(output.parent.glob("*.csv" if name == "report" else f"{name}*.csv"))
        beside += sorted(output.parent.glob(f"{name}.npz"))
        code = [*sorted(Path(__file__).parent.glob("*.py")), *sorted(TEMPLATES.glob("*.py"))]
        for file in [*code, *beside]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def current(name: str, output: Path) -> bool:
    """Whether an executed notebook is there and was made from what is there now."""
    if not output.exists():
        return False
    metadata = json.loads(output.read_text())["metadata"]
    return metadata.get("dpnet", {}).get("source") == source(name, output)
