"""What each verb of the command line does; what it needs is imported when it runs, so that `--help` is quick."""

import argparse
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpnet import io
from dpnet.companion import presets
from dpnet.io import DPNetError, Places, write

if TYPE_CHECKING:
    from dpnet.data import Benchmark
    from dpnet.predict import Segmenter

SUMMARY = (
    "{runs} runs, {shared} shared by several targets; {finished} finished, {to score} to score, "
    "{to train} to train ({steps:,} steps)."
)
WRITERS = ("reproduce", "train", "evaluate", "report", "site", "speed", "choose")
_SIZED = "data results device preset"
SCRIPTS = {"speed": _SIZED, "choose": f"{_SIZED} benchmark", "documents": ""}  # and their options
OWN = ("voc", "coco", "coco_val", "images", "labels", "classes", "lists", "folds")  # options of benchmark `folder`


def _places(options: argparse.Namespace) -> Places:
    """Where a verb works; for machines that are elsewhere, the device is left for them to find."""
    given: dict[str, Any] = vars(options)
    device: Any = given.get("device")
    elsewhere = given.get("cluster") and device in io.DEVICES
    at = io.places(given.get("root") or given.get("data"), given.get("results"), "cpu" if elsewhere else device)
    if given["verb"] in WRITERS and at.results == at.published:
        raise DPNetError(f"{at.results}: `dpnet publish` alone writes there: leave --results out, or choose another")
    return replace(at, device=device) if elsewhere else at


def prepare(options: argparse.Namespace) -> None:
    """Make a benchmark ready: render it, fetch what is missing of it, or read your own images."""
    from dpnet import data

    setting, root = presets.resolve(options.benchmark, options.preset), _places(options).data
    if options.benchmark == "folder":
        benchmark = _prepare_own(options, root, setting.training.size)
    elif own := [name for name in OWN if getattr(options, name)]:
        ways = {"shapes": "its images are rendered", "coco": "give the folder that holds coco with --root"}
        way = ways.get(options.benchmark, "give the folder that holds VOCdevkit with --root")
        option = own[0].replace("_", "-")
        raise DPNetError(f"--{option} is for benchmark folder, not for {options.benchmark}: {way}")
    else:
        benchmark = data.prepare(options.benchmark, root, setting.recipe, fetch=not options.offline)
    print(f"{benchmark.name}: {len(benchmark.entries)} images of {len(benchmark.classes)} classes are ready")


def _prepare_own(options: argparse.Namespace, data: Path, size: int) -> "Benchmark":
    """Your own images; what was read, and which classes are not tested, is printed."""
    from dpnet.data import custom, forms

    ways = {"--voc": options.voc, "--coco": options.coco, "--labels": options.labels}
    given = [name for name, value in ways.items() if value]
    if len(given) != 1 or (options.labels and None in (options.images, options.classes)):
        what = f"{' and '.join(given)} are given" if len(given) > 1 else "more is needed"
        raise DPNetError(f"{what}: {custom.USAGE}")
    root = data / "folder"
    if options.coco:
        own = forms.of_coco(options.coco, root, options.coco_val, options.images)
    elif options.voc:
        own = forms.of_voc(options.voc, root, options.classes)
    else:
        own = forms.of_pngs(options.images, options.labels, options.classes, root, options.lists)
    made = custom.prepare(own, root, options.folds, size)

    def names(classes: Iterable[int]) -> str:
        return ", ".join(made.classes[c - 1] for c in sorted(classes))

    tests = sum(entry.split == "val" for entry in made.entries)
    folds = "; ".join(map(names, made.folds))
    in_folds, tested = set().union(*made.folds), set().union(*made.tested)
    untested = {
        "fewer than two of their images could be set aside for that": in_folds - tested,
        "--folds leaves them out: they are for training": {*range(1, len(made.classes) + 1)} - in_folds,
    }
    split = f"{len(made.entries) - tests} images to train on, {tests} to test; folds: {folds}"
    lacks = [f"not tested, since {why}: {names(classes)}" for why, classes in untested.items() if classes]
    print(*made.recipe["notes"], split, *lacks, sep="\n")
    return made


def check(options: argparse.Namespace) -> None:
    """Decode everything again, count, compare with known counts, and draw a contact sheet."""
    from dpnet import data
    from dpnet.data import checks, images

    setting = presets.resolve(options.benchmark, options.preset)
    benchmark, wanted = data.load(options.benchmark, _places(options).data, setting.recipe), setting.training.size
    print(data.check(benchmark).to_string())
    print(checks.void(benchmark), *benchmark.recipe.get("notes", ()), sep="\n")
    size = benchmark.recipe.get("size", wanted)
    if options.benchmark == "folder" and size != wanted:
        again = f"for --preset {options.preset}, {wanted} x {wanted}, prepare it again"
        print(f"objects that are too thin were counted at {size} x {size}: {again}")
    known = data.known(benchmark)
    if len(known):
        print(f"\n{known.to_string(index=False)}\n\n{(known.deviates != 0).sum()} of {len(known)} counts deviate")
    sheet = benchmark.root / "contact_sheet.png"
    write(sheet, images.png(checks.contact_sheet(benchmark)), "--root")
    print(f"{sheet}: a few images of each class with their outlines, to look at")


def plan(options: argparse.Namespace) -> None:
    """Show what a target needs, and train nothing."""
    from dpnet import data
    from dpnet.companion import cohort, experiments

    setting, at = presets.resolve(options.benchmark, options.preset), _places(options)
    experiments.several(options.target, options.benchmark)
    benchmark = data.prepare(options.benchmark, at.data, setting.recipe)
    table = cohort.plan(cohort.cohorts(options.target, setting, benchmark, options.seeds, at.results))
    total = table.drop(columns="cohort").sum().to_dict()
    print(f"{table.to_string(index=False)}\n\n{options.target}: {SUMMARY.format(**total)}")


def reproduce(options: argparse.Namespace) -> None:
    """Make a target yourself: train, score, write CSVs and notebooks, and compare with what is published."""
    from dpnet.companion import compare, experiments, notebooks, report, results, sentences, verdicts

    at, asked = _places(options), experiments.several(options.target, options.benchmark)
    scores = results.load(_trained(options, at), at.results, options.seeds)
    with notebooks.kernel_environment(at):
        report.write_tables(scores, asked)
        if options.target == "all":
            report.publish(scores)
    if options.target == "all":
        print(verdicts.overview(scores).to_string(index=False))
        print(*(f"{one.heading}: {compare.closing(scores, one)}" for one in asked), sep="\n")
    else:
        print(*(sentences.as_text(scores, one) for one in asked), sep="\n\n")
        print(*(f"\n{compare.as_text(scores, one)}" for one in asked), sep="\n")
    print(f"\nTables and notebooks: {scores.store.root}")


def _trained(options: argparse.Namespace, at: Places) -> presets.Setting:
    """Train and score what a target lacks, of the setting that is returned."""
    from dpnet.companion import runner

    setting = presets.resolve(options.benchmark, options.preset)
    runner.train_all(options.target, setting, at, options.seeds, options.jobs, options.cluster)
    return setting


def publish(options: argparse.Namespace) -> int:
    """For maintainers: make a target (or report, speed, choose) in results/, where what is published stands."""
    from dpnet.companion import notebooks

    at = _places(options)
    at = replace(at, results=at.published)
    if options.target in SCRIPTS:
        return _script(options.target, at, options)
    if options.benchmark == "folder":
        raise DPNetError("results of your own images are not published: `dpnet reproduce`")
    if options.target != "report":
        _trained(options, at)
    _report(at, None if options.target == "report" else options.benchmark, options.preset)
    with notebooks.kernel_environment(at):
        return _script("documents", at, options) if at.published == io.ROOT / "results" else 0


def train(options: argparse.Namespace) -> None:
    """Train and score a target's variants on one fold, without notebooks."""
    from dpnet import data, episodes
    from dpnet.companion import experiments, runner, tables

    experiments.check_diversity(options.target, options.benchmark, options.diversity)
    setting, at = presets.resolve(options.benchmark, options.preset), _places(options)
    which = {name: getattr(options, name) for name in ("fold", "seed", "diversity")}
    cohort = runner.Cohort(options.target, setting, **which, results=at.results, only=options.variant)
    untrained = cohort.untrained()
    benchmark = data.prepare(options.benchmark, at.data, setting.recipe)
    episodes.need_fold(benchmark, options.fold)
    if options.verb == "evaluate" and untrained:
        raise DPNetError(f"{untrained[0].id} and {len(untrained) - 1} more are not trained: `dpnet train` first")
    runner.run_cohort(cohort, at)
    runner.describe(benchmark, cohort.store)
    print(tables.scores(cohort.store, cohort.scored).to_string(index=False))


def evaluate(options: argparse.Namespace) -> None:
    """Print the scores of a target's runs on one fold."""
    train(options)


def predict(options: argparse.Namespace) -> None:
    """Segment your own image with a trained run."""
    from PIL import Image

    from dpnet.data import checks, images

    taken = {file.resolve(): "" for file in (options.query, *options.support, *options.mask)}
    for name in ("out", "overlay", "probability"):
        file = getattr(options, name)
        if file and (other := taken.setdefault(file.resolve(), name)) != name:
            what = f"what --{other} writes" if other else "one of the images that are read"
            raise DPNetError(f"--{name} {file}: is {what}: choose another name")
        if file and file.suffix.lower() != ".png":
            raise DPNetError(f"--{name} {file}: is written as PNG: name it {file.with_suffix('.png').name}")
    segmenter = _segmenter(options).support(options.support, options.mask, options.soft, options.label)
    mask, probability = segmenter.segment(options.query)
    picture = Image.fromarray(mask)
    picture.putpalette([0, 0, 0, *checks.MARK])
    write(options.out, images.png(picture), "--out")
    if options.overlay:
        write(options.overlay, images.png(checks.overlay(options.query, mask)), "--overlay")
    if options.probability:
        levels = Image.fromarray((probability * 65535).round().astype("uint16"))
        write(options.probability, images.png(levels), "--probability")
    print(f"{options.out}: {mask.mean():.1%} of the query is foreground")


def label(options: argparse.Namespace) -> None:
    """Label a folder of photographs from a few labelled pictures; killed and started again, it goes on."""
    from dpnet import label
    from dpnet.companion import runner

    runner.settle()
    table = label.label(options.photos, options.supports, options.out, _segmenter(options), options.threshold)
    advice = "look at contact_sheet.png: where a class is absent, something else may be marked (docs/head.md)"
    print(table.to_string(index=False), f"{options.out}: labels, instances.json, table.csv; {advice}", sep="\n")


def _segmenter(options: argparse.Namespace) -> "Segmenter":
    """The network of --checkpoint, or the packaged one, which is said."""
    from dpnet.predict import Segmenter

    if options.checkpoint is None:
        print("the head that comes with the package, trained on photographs of 20 classes (docs/head.md)")
    return Segmenter(options.checkpoint, options.beta)


def export(options: argparse.Namespace) -> None:
    """Write a trained run as a program that needs only torch."""
    from dpnet import predict

    K, S = options.shots, predict.export(options.checkpoint, options.out, options.shots, options.beta).size
    print(
        f"{options.out}: torch.export.load(…).module() takes supports [1, {K}, 3, {S}, {S}], "
        f"masks [1, {K}, {S}, {S}] and query [1, 3, {S}, {S}], all uint8, and gives the probability [1, {S}, {S}]"
    )


def report(options: argparse.Namespace) -> None:
    """Write tables, notebooks and reports from your own results; train nothing."""
    _report(_places(options), options.benchmark, options.preset)


def _report(at: Places, benchmark: str | None, preset: str) -> None:
    from dpnet.companion import notebooks, report

    with notebooks.kernel_environment(at):
        report.publish_all(benchmark, preset)


def site(options: argparse.Namespace) -> None:
    """Write static pages of all results, the published ones and yours, in results/local/site."""
    from dpnet.companion import site

    at = _places(options)
    pages = site.build({"": at.published, "Yours: ": at.results}, at.results / "site")
    print(f"{len(pages)} pages: open {at.results / 'site' / 'index.html'}")


def explore(options: argparse.Namespace) -> None:
    """Open JupyterLab on stored predictions, to move the threshold."""
    from dpnet.companion import explorer, notebooks

    with notebooks.kernel_environment(_places(options)):
        explorer.serve(options.benchmark, options.preset, not options.no_browser)


def speed(options: argparse.Namespace) -> int:
    """Measure this package against usual code on shapes, on this machine."""
    return _script("speed", _places(options), options)


def choose(options: argparse.Namespace) -> int:
    """Compare recipes on images that no table tests."""
    return _script("choose", _places(options), options)


def _script(name: str, at: Places, options: argparse.Namespace) -> int:
    """Start `scripts/NAME.py`, which is in the checkout and not in the package."""
    file = io.ROOT / "scripts" / f"{name}.py"
    if not file.exists():
        raise DPNetError(f"{file}: not there: `{name}` needs a checkout of the project")
    words = [f"--{k}={v}" for k, v in {**vars(options), **vars(at)}.items() if k in SCRIPTS[name].split()]
    return subprocess.run([sys.executable, file, *words], check=False).returncode
