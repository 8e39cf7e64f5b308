"""What each verb of the command line does; what it needs is imported when it runs, so that `--help` is quick."""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpnet import io
from dpnet.io import DPNetError, Places, write

if TYPE_CHECKING:
    from dpnet.data import Benchmark


def _places(options: argparse.Namespace) -> Places:
    """Where a verb works; for machines that are elsewhere, the device is left for them to find."""
    given: dict[str, Any] = vars(options)
    device: Any = given.get("device")
    elsewhere = given.get("cluster") and device in io.DEVICES
    at = io.places(given.get("root") or given.get("data"), given.get("results"), "cpu" if elsewhere else device)
    return replace(at, device=device) if elsewhere else at


def prepare(options: argparse.Namespace) -> None:
    """Render, fetch or read, and index, a benchmark."""
    from dpnet import data as benchmarks
    from dpnet.companion import presets

    setting = presets.resolve(options.benchmark, options.preset)
    if options.benchmark == "folder":
        benchmark = _prepare_own(options, _places(options).data, setting.training.size)
        tests = sum(entry.split == "val" for entry in benchmark.entries)
        _print_lines(benchmark.recipe["notes"])
        print(f"{len(benchmark.entries) - tests} images to train on, {tests} to test; folds: {_folds(benchmark)}")
        cut, tested = ({c for fold in folds for c in fold} for folds in (benchmark.folds, benchmark.tested))
        for why, classes in (
            ("fewer than two of their images could be set aside for that", cut - tested),
            ("--folds leaves them out: they are for training", {*range(1, len(benchmark.classes) + 1)} - cut),
        ):
            if classes:
                print(f"not tested, since {why}: {', '.join(benchmark.classes[c - 1] for c in sorted(classes))}")
    else:
        names = ("voc", "coco", "coco_val", "images", "labels", "classes", "lists", "folds")
        if own := next((name for name in names if getattr(options, name)), None):
            holds = {"shapes": "its images are rendered", "coco": "give the folder that holds coco with --root"}
            way = holds.get(options.benchmark, "give the folder that holds VOCdevkit with --root")
            option = own.replace("_", "-")
            raise DPNetError(f"--{option} is for benchmark folder, not for {options.benchmark}: {way}")
        at, fetch = _places(options), not options.offline
        benchmark = benchmarks.prepare(options.benchmark, at.data, setting.recipe, fetch=fetch)
    print(f"{benchmark.name}: {len(benchmark.entries)} images of {len(benchmark.classes)} classes are ready")


def _prepare_own(options: argparse.Namespace, data: Path, size: int) -> "Benchmark":
    from dpnet.data import custom

    forms = {"--voc": options.voc, "--coco": options.coco, "--labels": options.labels}
    given = [name for name, value in forms.items() if value]
    if len(given) != 1 or (options.labels and None in (options.images, options.classes)):
        what = f"{' and '.join(given)} are given" if len(given) > 1 else "more is needed"
        raise DPNetError(f"{what}: {custom.USAGE}")
    if options.coco:
        return custom.prepare_coco(options.coco, data, options.coco_val, options.images, options.folds, size)
    if options.voc:
        return custom.prepare_voc(options.voc, data, options.folds, options.classes, size)
    return custom.prepare_folder(
        options.images, options.labels, options.classes, data, options.folds, options.lists, size
    )


def _print_lines(lines: list[str]) -> None:
    for line in lines:
        print(line)


def _folds(benchmark: "Benchmark") -> str:
    return "; ".join(", ".join(benchmark.classes[c - 1] for c in fold) for fold in benchmark.folds)


def check(options: argparse.Namespace) -> None:
    """Decode everything again, count, compare with known counts, and draw a contact sheet."""
    from dpnet import data as benchmarks
    from dpnet.companion import presets
    from dpnet.data import checks, images

    setting = presets.resolve(options.benchmark, options.preset)
    benchmark = benchmarks.load(options.benchmark, _places(options).data, setting.recipe)
    print(benchmarks.check(benchmark).to_string())
    _print_lines([checks.void(benchmark), *benchmark.recipe.get("notes", ())])
    size = benchmark.recipe.get("size", setting.training.size)
    if options.benchmark == "folder" and size != setting.training.size:
        again = f"for --preset {options.preset}, {setting.training.size} x {setting.training.size}, prepare it again"
        print(f"objects that are too thin were counted at {size} x {size}: {again}")
    known = benchmarks.known(benchmark)
    if len(known):
        print(f"\n{known.to_string(index=False)}\n\n{(known.deviates != 0).sum()} of {len(known)} counts deviate")
    sheet = benchmark.root / "contact_sheet.png"
    io.write(sheet, images.png(checks.contact_sheet(benchmark)), "--root")
    print(f"{sheet}: a few images of each class with their outlines, to look at")


def plan(options: argparse.Namespace) -> None:
    """Print what a target needs."""
    from dpnet import data
    from dpnet.companion import cohort, experiments, presets

    setting, at = presets.resolve(options.benchmark, options.preset), _places(options)
    experiments.several(options.target, options.benchmark)
    benchmark = data.prepare(options.benchmark, at.data, setting.recipe)
    table = cohort.plan(cohort.cohorts(options.target, setting, benchmark, options.seeds, at.results))
    total = table.drop(columns="cohort").sum()
    print(table.to_string(index=False))
    print(
        f"\n{options.target}: {total['runs']} runs, {total['shared']} shared by several targets; "
        f"{total['finished']} finished, {total['to score']} to score, {total['to train']} to train "
        f"({total['steps']:,} steps)."
    )


def reproduce(options: argparse.Namespace) -> None:
    """Make runs, CSVs and notebooks of a target."""
    from dpnet.companion import notebooks, presets, report, results, runner, tables, verdicts

    setting, at = presets.resolve(options.benchmark, options.preset), _places(options)
    asked = runner.train_all(options.target, setting, at, options.seeds, options.jobs, options.cluster)
    scores = results.load(setting, at.results, options.seeds)
    with notebooks.kernel_environment(at):
        report.write_tables(scores, asked)
        if options.target == "all":
            report.publish(scores)
    if options.target == "all":
        print(verdicts.overview(scores).to_string(index=False))
    else:
        print(*(tables.as_text(scores, experiment) for experiment in asked), sep="\n\n")


def run(options: argparse.Namespace) -> None:
    """Train and score a cohort, or only print its scores."""
    from dpnet import data, episodes
    from dpnet.companion import experiments, presets, runner, tables

    experiments.check_diversity(options.target, options.benchmark, options.diversity)
    setting, at = presets.resolve(options.benchmark, options.preset), _places(options)
    cohort = runner.Cohort(
        options.target, setting, options.fold, options.seed, at.results, options.diversity, options.variant
    )
    untrained = cohort.untrained()
    benchmark = data.prepare(options.benchmark, at.data, setting.recipe)
    episodes.need_fold(benchmark, options.fold)
    if options.verb == "evaluate" and untrained:
        raise DPNetError(f"{untrained[0].id} and {len(untrained) - 1} more are not trained: `dpnet train` first")
    runner.run_cohort(cohort, at)
    runner.describe(benchmark, cohort.store)
    print(tables.scores(cohort.store, cohort.scored).to_string(index=False))


def predict(options: argparse.Namespace) -> None:
    """Segment an image, and write the answer."""
    from PIL import Image

    from dpnet import predict
    from dpnet.data import images

    given = {file.resolve() for file in (options.query, *options.support, *options.mask)}
    written: dict[Path, str] = {}
    for name in ("out", "overlay", "probability"):
        file = getattr(options, name)
        if file and file.resolve() in given:
            raise DPNetError(f"--{name} {file}: is one of the images that are read: choose another name")
        if file and (other := written.setdefault(file.resolve(), name)) != name:
            raise DPNetError(f"--{name} {file}: is what --{other} writes: choose another name")
        if file and file.suffix.lower() != ".png":
            raise DPNetError(f"--{name} {file}: is written as PNG: name it {file.with_suffix('.png').name}")
    mask, probability = predict.segment(
        options.query, options.support, options.mask, options.checkpoint, options.beta, options.soft, options.label
    )
    picture = Image.fromarray(mask)
    picture.putpalette([0, 0, 0, *images.MARK])
    write(options.out, images.png(picture), "--out")
    if options.overlay:
        write(options.overlay, images.png(images.overlay(options.query, mask)), "--overlay")
    if options.probability:
        levels = Image.fromarray((probability * 65535).round().astype("uint16"))
        write(options.probability, images.png(levels), "--probability")
    print(f"{options.out}: {mask.mean():.1%} of the query is foreground")


def export(options: argparse.Namespace) -> None:
    """Write a program that needs only torch."""
    from dpnet import predict

    S = predict.export(options.checkpoint, options.out, options.shots, options.beta).size
    K = options.shots
    print(
        f"{options.out}: torch.export.load(…).module() takes supports [1, {K}, 3, {S}, {S}], "
        f"masks [1, {K}, {S}, {S}] and query [1, 3, {S}, {S}], all uint8, and gives the probability [1, {S}, {S}]"
    )


def report(options: argparse.Namespace) -> None:
    """Write tables, reports and README from results."""
    from dpnet.companion import notebooks, report

    with notebooks.kernel_environment(_places(options)):
        report.publish_all(options.benchmark, options.preset)


def site(options: argparse.Namespace) -> None:
    """Write static pages."""
    from dpnet.companion import site

    results = _places(options).results
    pages = site.build(results, results / "site")
    print(f"{len(pages)} pages: open {results / 'site' / 'index.html'}")


def explore(options: argparse.Namespace) -> None:
    """Open JupyterLab on stored predictions."""
    from dpnet.companion import explorer, notebooks

    with notebooks.kernel_environment(_places(options)):
        explorer.serve(explorer.cohort(options.benchmark, options.preset), not options.no_browser)


def script(options: argparse.Namespace) -> int:
    """Start `scripts/VERB.py`, which is in the checkout and not in the package."""
    script, at = io.ROOT / "scripts" / f"{options.verb}.py", _places(options)
    if not script.exists():
        raise DPNetError(
            f"{script}: not there: `{options.verb}` needs a checkout of the project, not the package alone"
        )
    command = [sys.executable, str(script), "--preset", options.preset]
    command += [word for name, value in vars(at).items() for word in (f"--{name}", str(value))]
    if "benchmark" in options:
        command += ["--benchmark", options.benchmark]
    return subprocess.run(command, check=False).returncode
