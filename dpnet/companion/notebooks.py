"""Notebooks as functions: parameters are checked, failures keep no output, what is kept has no churn."""

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from dpnet import io
from dpnet.data.index import end_with_parent
from dpnet.io import RELAY, DPNetError, progress, write

ATTEMPTS = 3  # at a notebook whose kernel dies
AT_ONCE = 2  # notebooks of tables and figures that are executed side by side

# What differs between two identical runs.
CHURN = [
    "metadata.papermill",
    "cell.metadata.papermill",
    "cell.metadata.execution",
    "metadata.language_info",
    "metadata.widgets",
    "cell.metadata.jupyter",
]
WIDGET = "application/vnd.jupyter.widget-view+json"  # a control's random id: an error message without its kernel
PREDEFINED = {"In", "Out", "exit", "quit", "get_ipython", "open"}  # by IPython


def installed() -> bool:
    """Whether papermill is there; runs do without it, executed notebooks do not."""
    return find_spec("papermill") is not None


def check_parameters(names: Mapping[str, Any]) -> None:
    """Fail on an unknown or mistyped parameter; papermill itself only warns, and runs the default.

    Arguments:
        names: the notebook's globals(), after its parameters and before anything else but imports.

    Raises:
        DPNetError: a name that the template does not declare, or a value of another type.
    """
    declared = names["__annotations__"]
    for name, value in names.items():
        if name.startswith("_") or name in PREDEFINED or isinstance(value, type(sys)):
            continue
        if name not in declared:
            raise DPNetError(f"unknown parameter {name!r}: this notebook has {', '.join(declared)}")
        if type(value) is not declared[name]:
            kind = declared[name].__name__
            raise DPNetError(f"parameter {name}={value!r}: a {kind} is needed, not {type(value).__name__}")


def execute(name: str, output: Path, parameters: Mapping[str, Any]) -> None:
    """Execute a template.

    Arguments:
        name: of the template in `notebooks/`, without its suffix.
        output: the executed notebook; written only on success, without timestamps and random ids. A failed
            one is kept beside it as `.failed.ipynb`.
        parameters: for its parameters cell.

    Raises:
        DPNetError: the notebook failed, and the message is its error's; or its kernel died `ATTEMPTS` times.
    """
    from nbclient.exceptions import DeadKernelError

    # A folder that cannot be written is found out before hours of training.
    write(output.with_suffix(".failed.ipynb"), b"")
    output.with_suffix(".failed.ipynb").unlink(missing_ok=True)
    for _ in range(ATTEMPTS):
        # Aside, since another process may be executing the same one, and killed ones leave no trace in the results.
        with TemporaryDirectory(prefix="dpnet-", ignore_cleanup_errors=True) as aside, suppress(DeadKernelError):
            return _execute(name, output, parameters, Path(aside))
    raise DPNetError(f"{output.name}: its kernel died {ATTEMPTS} times (killed, or out of memory)")


def _execute(name: str, output: Path, parameters: Mapping[str, Any], aside: Path) -> None:
    import nbformat
    import papermill
    from nbstripout import strip_output
    from papermill.exceptions import PapermillExecutionError

    executed = aside / output.name
    with _relayed_progress(aside / "progress.log"):
        try:
            papermill.execute_notebook(
                io.ROOT / "notebooks" / f"{name}.ipynb",
                executed,
                dict(parameters),
                kernel_name="python3",
                cwd=io.ROOT,
                progress_bar=False,
                coalesce_streams=True,
                extra_arguments=["--IPKernelApp.log_level=50"],
            )
        except PapermillExecutionError as error:
            if error.ename == "DPNetError":
                raise DPNetError(error.evalue) from None
            failed = output.with_suffix(".failed.ipynb")
            write(failed, executed.read_bytes())
            raise DPNetError(f"{failed}: failed with {error.ename}: {error.evalue}") from None
    notebook = strip_output(nbformat.read(executed, 4), True, True, False, CHURN)
    for shown in (o for cell in notebook.cells for o in cell.get("outputs", []) if "data" in o):
        shown.data.pop(WIDGET, None)  # the picture beside it stays
    notebook.metadata["dpnet"] = {"source": source(name, output)}
    write(output, (nbformat.writes(notebook) + "\n").encode())


def execute_stale(folder: Path, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Execute the templates whose notebooks are not up to date, `AT_ONCE` at a time.

    Arguments:
        folder: of the executed notebooks.
        wanted: template -> parameters.

    Raises:
        DPNetError: one failed; the others are finished first.
    """
    if not installed():
        print("papermill is not installed: no executed notebooks (pip install -e '.[notebooks]')")
        return
    stale = []
    for name in wanted:
        if current(name, folder / f"{name}.ipynb"):
            print(f"{name}.ipynb: up to date")
        else:
            stale.append(name)
    # Processes, since papermill changes the working directory; fresh ones: a fork would inherit torch's threads.
    fresh = get_context("spawn")
    with ProcessPoolExecutor(AT_ONCE, fresh, _beside_others) as pool:
        begun = [pool.submit(execute, name, folder / f"{name}.ipynb", wanted[name]) for name in stale]
        for future in progress(as_completed(begun), "tables and figures", "notebook", len(begun)):
            try:
                future.result()
            except BrokenProcessPool:
                raise DPNetError("a process at a notebook was killed; the same command goes on from here") from None


def _beside_others() -> None:
    os.environ[RELAY] = os.devnull  # bars would overwrite each other
    end_with_parent()


def source(name: str, output: Path) -> str:
    """Twelve hex digits of what an executed notebook was made from.

    Arguments:
        name: of the template.
        output: the executed notebook; a table's depends on the CSVs beside it, the report's on all of them, the
            explorer's on what is kept for it.

    Returns:
        the digits; if they are not those that the notebook carries, it is stale.
    """
    template = json.loads((io.ROOT / "notebooks" / f"{name}.ipynb").read_text())
    found = hashlib.sha256(json.dumps([cell["source"] for cell in template["cells"]]).encode())
    if name != "train":
        beside = sorted(output.parent.glob("*.csv" if name == "report" else f"{name}*.csv"))
        beside += sorted(output.parent.glob(f"{name}.npz"))
        for file in [*sorted(Path(__file__).parent.glob("*.py")), *beside]:
            found.update(file.read_bytes())
    return found.hexdigest()[:12]


def current(name: str, output: Path) -> bool:
    """Whether an executed notebook is there and was made from what is there now."""
    if not output.exists():
        return False
    metadata = json.loads(output.read_text())["metadata"]
    return metadata.get("dpnet", {}).get("source") == source(name, output)


class _relayed_progress:  # noqa: N801 - used as a statement
    """Draws on this terminal the progress that a kernel writes to a file."""

    def __init__(self, file: Path) -> None:
        self.file, self.stop = file, threading.Event()
        self.outer = os.environ.get(RELAY)  # set: this process draws nothing itself
        self.quiet = self.outer is not None or not sys.stderr.isatty()

    def __enter__(self) -> None:
        self.file.write_text("")
        os.environ[RELAY] = str(self.file)
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        del os.environ[RELAY]
        if self.outer is not None:
            os.environ[RELAY] = self.outer
        self.file.unlink()

    def follow(self) -> None:
        bar, shown, rest = None, None, ""
        with self.file.open() as lines:
            while not self.stop.is_set():
                *whole, rest = (rest + lines.read()).split("\n")  # the last line may still be in the writing
                for now in map(json.loads, whole):
                    if bar is None or shown != (now["what"], now["total"]):
                        if bar is not None:
                            bar.close()
                        shown = (now["what"], now["total"])
                        bar = tqdm(
                            total=now["total"],
                            desc=now["what"],
                            unit=now["unit"],
                            leave=False,
                            dynamic_ncols=True,
                            disable=self.quiet,
                        )
                    bar.update(now["done"] - bar.n)
                time.sleep(0.3)
        if bar is not None:
            bar.close()
