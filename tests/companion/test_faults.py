"""Real processes and real signals: `make test-faults`. What is finished is never lost, and the end is the same."""

import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import cloudpickle
import dask
import distributed
import pandas as pd
import psutil
import pytest

from dpnet import cli, io
from dpnet.companion import cluster
from dpnet.io import Places

LEFT_BEHIND = 10.0  # seconds within which every process of a killed driver is gone
FINISHED = ("checkpoint.safetensors", "metrics.json", "counts.npz", "train/")
PATTERNS = {"kernel": "ipykernel_launcher", "worker": "spawn_main"}
LOG: list[dict[str, object]] = []  # of each fault: what was lost, and after how long work went on
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def words(folder: Path, verb: str = "train", *more: str) -> list[str]:
    return [verb, "table3", "--preset=tiny", f"--data={folder.parent / 'data'}", f"--results={folder}", *more]


def start(folder: Path, verb: str = "train", *more: str, limit: int | None = None) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DPNET_")}
    return subprocess.Popen(
        [sys.executable, "-m", "dpnet", *words(folder, verb, *more)],
        env={**environment, "DPNET_SAVE_EVERY": "0.5"}, cwd=io.ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip


def finished(folder: Path, verb: str = "train", *more: str) -> str:
    process = start(folder, verb, *more)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return printed


def snapshot(folder: Path, *kinds: str) -> dict[str, bytes]:
    files = {str(f.relative_to(folder)): f for f in sorted(folder.rglob("*")) if f.is_file()}
    return {name: f.read_bytes() for name, f in files.items() if not kinds or any(k in name for k in kinds)}


def processes(folder: Path, name: str = "") -> list[psutil.Process]:
    """Every process that works on these results."""
    result = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            line = " ".join(process.cmdline())
            works = process.environ().get("DPNET_RESULTS") == str(folder) or f"--results={folder}" in line
            if works and name in line and process.status() != psutil.STATUS_ZOMBIE:
                result.append(process)
    return result


def all_is_gone_and_counted(results: Path) -> None:
    """A dead driver leaves no process behind, and the plan says what the files say."""
    begun = time.monotonic()
    while left := processes(results):
        assert time.monotonic() - begun < LEFT_BEHIND, [p.cmdline() for p in left]
        time.sleep(0.2)
    (line,) = [text for text in finished(results, "plan").splitlines() if " runs, " in text]
    named = ("runs", "finished", "to score", "to train")
    runs, done, to_score, to_train = (int(re.search(rf"(\d+) {what}", line)[1]) for what in named)
    heads = list(results.rglob("checkpoint.safetensors"))
    scored = [file for file in heads if (file.parent / "metrics.json").exists()]
    assert (runs, to_train) == (12, 12 - len(heads))
    assert (done, to_score) == (len(scored), len(heads) - len(scored))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rendered data, and what an undisturbed training of a fold leaves in `fold`."""
    folder = tmp_path_factory.mktemp("faults")
    finished(folder / "fold")
    return folder


@pytest.fixture(scope="module")
def undisturbed(world: Path) -> tuple[dict[str, bytes], float]:
    """What Table 3 leaves, and how long it takes."""
    begun = time.monotonic()
    finished(world / "undisturbed", "reproduce")
    return snapshot(world / "undisturbed"), time.monotonic() - begun


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    yield
    if len(LOG) >= 20:
        columns = {
            "times injected": ("lost", "size"),
            "finished files lost": ("lost", "sum"),
            "work goes on after (s, median)": ("recovery", "median"),
            "longest (s)": ("recovery", "max"),
        }
        table = pd.DataFrame(LOG).groupby("fault", sort=False).agg(**columns).round(1)
        file = io.ROOT / "results" / "faults" / f"cpu-{os.cpu_count()}-cores.csv"
        io.write(file, table.reset_index().to_csv(index=False, lineterminator="\n").encode())
        print(f"\n\n{table.to_string()}")


def note(fault: str, results: Path, before: dict[str, bytes], begun: float) -> None:
    """What a fault came to; nothing that was finished may be lost."""
    after, recovery = snapshot(results, *FINISHED), time.monotonic() - begun
    lost = sum(after.get(name) != content for name, content in before.items())
    LOG.append({"fault": fault, "lost": lost, "recovery": recovery})
    assert not lost


def until_it_goes_on(results: Path, driver: subprocess.Popen[str], since: float) -> None:
    """Wait for a first new file of a run, or for the end."""
    while driver.poll() is None:
        with suppress(FileNotFoundError):
            if any(f.stat().st_mtime > since for f in results.rglob("runs/*/*") if f.is_file()):
                return
        time.sleep(0.1)


# ---- kills


# Seven drivers, seven workers and six kernels: twenty moments in all.
@pytest.mark.long
@pytest.mark.parametrize(
    ("jobs", "victims"),
    [(1, ["driver", "kernel"] * 4), (2, ["worker", "driver", "worker", "kernel"] * 2 + ["worker"] * 3 + ["driver"])],
)
def test_killed_at_random_moments(
    world: Path, undisturbed: tuple[dict[str, bytes], float], jobs: int, victims: list[str]
) -> None:
    results, command = world / f"killed-{jobs}", ("reproduce", f"--jobs={jobs}")
    expected, whole = undisturbed
    rng, left = random.Random(jobs), list(victims)
    driver = start(results, *command)
    while left:
        time.sleep(rng.uniform(0, whole / 16))
        if driver.poll() is not None:  # it was through: from the start again, so that there is something to kill
            ended(driver, results, expected, *command)
            shutil.rmtree(results)
            driver = start(results, *command)
            until_it_goes_on(results, driver, time.time())
            continue
        targets = [driver]
        if left[0] != "driver":
            targets = [p for p in processes(results, PATTERNS[left[0]]) if p.pid != driver.pid]
            if not targets:
                continue
        before, begun, now = snapshot(results, *FINISHED), time.monotonic(), time.time()
        rng.choice(targets).send_signal(signal.SIGKILL)
        victim = left.pop(0)
        if victim == "driver":
            driver.communicate()
            all_is_gone_and_counted(results)
            begun, now = time.monotonic(), time.time()
            driver = start(results, *command)
        until_it_goes_on(results, driver, now)
        note(f"kill -9 of a {victim}, JOBS={jobs}", results, before, begun)
    ended(driver, results, expected, *command)
    assert "nothing to train" in finished(results, *command)


def ended(driver: subprocess.Popen[str], results: Path, expected: dict[str, bytes], *command: str) -> None:
    """Wait for the end; where more was killed than is tried again, one line says so and the same command goes on."""
    printed, _ = driver.communicate()
    if driver.returncode:
        assert driver.returncode == 1, printed
        assert "Traceback" not in printed, printed
        assert "dpnet: error: " in printed
        finished(results, *command)
    assert snapshot(results) == expected
    all_is_gone_and_counted(results)


def interrupt(process: subprocess.Popen[str], results: Path) -> None:
    """Ctrl-C, which the terminal sends to all that run in front."""
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 130, printed
    assert "dpnet: stopped; the same command goes on from here" in printed.splitlines()
    assert "Traceback" not in printed, printed
    all_is_gone_and_counted(results)


@pytest.mark.long
def test_interrupted_then_two_at_once(world: Path, undisturbed: tuple[dict[str, bytes], float]) -> None:
    """Ctrl-C leaves what is finished; two that go on from there at once train no run twice."""
    expected, whole = undisturbed
    results = world / "two"
    first = start(results, "reproduce")
    time.sleep(whole / 2)
    interrupt(first, results)
    before, begun = snapshot(results, *FINISHED), time.monotonic()
    both, trained = [start(results, "reproduce") for _ in range(2)], set()
    while any(process.poll() is None for process in both):
        with suppress(FileNotFoundError):
            trained |= {(str(f), f.stat().st_ino, f.stat().st_mtime) for f in results.rglob("checkpoint.safetensors")}
        time.sleep(0.05)
    printed = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert snapshot(results) == expected
    assert len(trained) == 12  # each file was written once
    note("Ctrl-C, then two calls at once", results, before, begun)


@pytest.mark.long
def test_ctrl_c_with_workers(world: Path) -> None:
    results = world / "interrupted"
    process = start(results, "reproduce", "--jobs=2")
    until_it_goes_on(results, process, 0)
    for listening in (c for p in [psutil.Process(process.pid), *processes(results)] for c in p.net_connections()):
        assert listening.status != psutil.CONN_LISTEN or listening.laddr.ip == "127.0.0.1"
    interrupt(process, results)


def test_a_killed_driver(world: Path) -> None:
    results = world / "killed"
    driver = start(results)
    while not list(results.rglob("state-*.pt")):
        assert driver.poll() is None
        time.sleep(0.02)
    driver.kill()
    driver.communicate()
    all_is_gone_and_counted(results)
    mended("kill -9 of a driver before its first head", results, world)


# ---- the queue


def spread(work: object, named: dict[str, object], jobs: int, at: Path, where: str = "") -> dict[str, str | None]:
    return dict(cluster.spread(work, named, jobs, Places(at / "data", at / "results", "cpu"), where))


def test_whoever_dies_is_tried_again_and_what_fails_for_good_is_named(tmp_path: Path) -> None:
    def work(number: int) -> str | None:
        tried = tmp_path / f"tried-{number}"
        if number == 1 or (number % 10 == 3 and not tried.exists()):
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "no such data" if number == 2 else None

    ends = spread(work, {f"job-{i}": i for i in range(30)}, 2, tmp_path)
    assert ends.pop("job-1").startswith("its worker was killed 3 times")
    assert ends == {f"job-{i}": "no such data" if i == 2 else None for i in range(30) if i != 1}
    assert len(list(tmp_path.glob("tried-*"))) == 4


def test_workers_know_the_places_and_the_environment_stays(tmp_path: Path) -> None:
    before = dict(os.environ)
    ends = spread(lambda name: os.environ[name], {n: n for n in ["DPNET_DATA"]}, 2, tmp_path)
    assert ends == {"DPNET_DATA": str(tmp_path / "data")}
    assert dict(os.environ) == before


@pytest.mark.parametrize(("listed", "given"), [(None, {"0", "1"}), ("2,GPU-3ab,5", {"2", "GPU-3ab"})])
def test_each_worker_has_a_gpu_of_those_that_the_user_lists(
    listed: str | None, given: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)  # of three listed, one is not there
    with mock.patch("distributed.SpecCluster") as started, mock.patch.dict(os.environ):
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        os.environ |= {"CUDA_VISIBLE_DEVICES": listed} if listed else {}
        cluster._local(3, "cuda")
    slots, _ = started.call_args.args
    assert {slot["options"]["env"]["CUDA_VISIBLE_DEVICES"] for slot in slots.values()} == given


SBATCH = """#!/bin/sh
cp "$1" "{folder}/script-$$"
sh "{folder}/script-$$" > "{folder}/out-$$" 2>&1 &
echo "Submitted batch job $!"
"""


def slurm(folder: Path, deadly: int) -> dict[str, str | None]:
    """Four jobs through the queue of a fake Slurm; the first `deadly` of them end with their queue's job, once."""

    def work(number: int) -> str | None:
        assert os.environ["DPNET_RESULTS"] == str(folder / "results")
        assert distributed.get_worker().state.nthreads == 1  # one cohort at a time, whatever the job's cores
        if number < deadly and not (folder / f"tried-{number}").exists():
            (folder / f"tried-{number}").touch()
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        return f"bad {number}" if number == 2 else None

    settings = {"cores": 2, "memory": "2GB", "interface": "lo", "queue": "gpus", "walltime": "02:00:00"}
    with dask.config.set({f"jobqueue.slurm.{key}": value for key, value in settings.items()}):
        return spread(work, {f"job-{i}": i for i in range(4)}, 2, folder, "slurm")


def test_slurm_says_which_paths_its_scripts_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(io.DPNetError, match=r"two words/results: a path of plain letters, without spaces, is needed"):
        spread(print, {"job": 1}, 1, tmp_path / "two words", "slurm")


@pytest.mark.parametrize("deadly", [0, pytest.param(2, marks=pytest.mark.long)])
def test_slurm_as_far_as_a_machine_without_it_allows(
    deadly: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scripts that would be submitted, and a fake `sbatch` that runs them."""
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", SBATCH.format(folder=tmp_path)), ("scancel", "#!/bin/sh\nkill $1\n")):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:  # dask-jobqueue leaves files open
        ends = apart.submit(slurm, tmp_path, deadly).result()
    assert ends == {"job-0": None, "job-1": None, "job-2": "bad 2", "job-3": None}
    script, *others = sorted(tmp_path.glob("script-*"))
    assert len(others) > 1 if deadly else len(others) == 1  # what the queue ended is submitted anew
    text = script.read_text()
    for line in ("#SBATCH -p gpus", "#SBATCH -t 02:00:00", "#SBATCH --cpus-per-task=2", "tls://", "--tls-key",
                 "--dashboard-address 127.0.0.1:0"):  # fmt: skip
        assert line in text
    assert "tcp://" not in text
    assert not list((tmp_path / "results").rglob("*"))  # no key is left behind


def test_an_existing_scheduler_and_one_that_does_not_answer(tmp_path: Path) -> None:
    with (
        mock.patch.dict(os.environ),  # Dask leaves its own behind, the number of threads among it
        distributed.LocalCluster(n_workers=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as there,
    ):
        assert spread(lambda _: "done", {"one": 1}, 1, tmp_path, there.scheduler_address) == {"one": "done"}
    for where in ("tcp://127.0.0.1:9", "slrum"):
        with pytest.raises(io.DPNetError, match=f"CLUSTER={where}: "):
            spread(print, {"one": 2}, 1, tmp_path, where)


# ---- the lock

HOLDER = """
import socket, sys, time, pathlib
from dpnet import io
socket.gethostname = lambda: sys.argv[2]
io.LEASE = 1.5
with io.file_lock(pathlib.Path(sys.argv[1]), "a test"):
    print("locked", flush=True); time.sleep(60)
"""


@pytest.mark.parametrize("host", [socket.gethostname(), "elsewhere"], ids=["here", "elsewhere"])
def test_a_lock_stays_with_the_living_and_is_taken_from_the_dead(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "LEASE", 1.5)
    file, took = tmp_path / "locks" / "lock", threading.Event()
    command = [sys.executable, "-c", HOLDER, str(file), host]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=io.ROOT)
    assert other.stdout
    assert other.stdout.readline() == "locked\n"

    def take() -> None:
        with io.file_lock(file, "a test"):
            took.set()

    waiting = threading.Thread(target=take, daemon=True)
    waiting.start()
    for jump in (-1e6, 1e6, 0):  # clocks that are wrong, or set
        os.utime(file, (time.time() + jump, time.time() + jump))
        assert not took.wait(2)
    other.kill()
    other.communicate()
    assert took.wait(10)
    waiting.join(5)
    assert not file.exists()


# ---- bad worlds: one clear line, and a second call completes


def error_line(capsys: pytest.CaptureFixture[str], folder: Path, verb: str = "train") -> str:
    """The one line that a failing call prints."""
    assert cli.main(words(folder, verb)) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("dpnet: error"))
    return line


def mended(fault: str, results: Path, world: Path) -> None:
    """A second call completes what a fault left."""
    before, begun = snapshot(results, *FINISHED), time.monotonic()
    assert cli.main(words(results)) == 0
    note(fault, results, before, begun)
    assert snapshot(results) == snapshot(world / "fold")


def test_a_full_disk(world: Path) -> None:
    results = world / "full"
    process = start(results, limit=30_000)  # bytes of any file: checkpoints are larger
    printed, _ = process.communicate()
    assert process.returncode == 1
    assert "cannot be written (File too large): make room, and the same command goes on" in printed
    assert "Traceback" not in printed
    mended("disk full", results, world)


@pytest.mark.parametrize("verb", ["train", "reproduce"])
def test_a_folder_that_cannot_be_written(verb: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "a file").touch()
    assert "choose another folder with RESULTS=…" in error_line(capsys, world / "a file", verb)


def test_a_torn_checkpoint(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = shutil.copytree(world / "fold", world / "torn")
    file = next(results.rglob("checkpoint.safetensors"))
    file.write_bytes(file.read_bytes()[:500])
    for scores in ("counts.npz", "metrics.json"):  # so that it is needed
        (file.parent / scores).unlink()
    assert re.search(rf"{file}.*remove the folder", error_line(capsys, results))
    shutil.rmtree(file.parent)
    mended("checkpoint torn", results, world)


def test_a_benchmark_that_changed_under_its_runs(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = shutil.copytree(world / "fold", world / "changed")
    theirs = {file: file.read_bytes() for file in results.rglob("metrics.json")}
    for file, content in theirs.items():
        file.write_bytes(content.replace(b'"data": "', b'"data": "0'))
    before = snapshot(results)
    for verb in ("train", "reproduce"):
        assert "scored on other data" in error_line(capsys, results, verb)
        assert before.items() <= snapshot(results).items()
    for file, content in theirs.items():
        file.write_bytes(content)
    shutil.rmtree(results / "shapes-tiny" / "episodes")
    mended("benchmark changed", results, world)


def test_a_label_damaged_after_indexing(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = world / "apart" / "results"
    shutil.copytree(world / "data", world / "apart" / "data", ignore=shutil.ignore_patterns("features"))
    process = start(results, limit=100_000)  # features are larger
    assert "choose another folder with DATA=…" in process.communicate()[0]
    label = sorted((world / "apart" / "data").rglob("labels/*.png"))[-1]
    whole = label.read_bytes()
    label.write_bytes(whole[: len(whole) // 2])
    assert str(label) in error_line(capsys, results)
    label.write_bytes(whole)
    mended("label damaged", results, world)
