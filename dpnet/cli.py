"""The verbs: `python -m dpnet …`, for people, for Make, and for machines without notebooks."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dpnet import __version__, io
from dpnet.io import DPNetError, Places, write

if TYPE_CHECKING:
    from dpnet.data import Benchmark

Verb = Callable[[argparse.Namespace], int | None]


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Print it, say where help is, and exit with 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> Parser:
    """All verbs and their options."""
    top = Parser(prog="dpnet", description="Dual Prototype Network: a paper, beside the runs that test it.")
    top.add_argument("--version", action="version", version=__version__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)

    def add(name: str, verb: Verb, what: str, *parents: Parser) -> Parser:
        one = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.", parents=parents)
        one.set_defaults(call=verb)
        return one

    _add_data_verbs(add)
    _add_target_verbs(add)
    _add_model_verbs(add)
    _add_result_verbs(add)
    return top


def _add_data_verbs(add: Callable[..., Parser]) -> None:
    prepare = add("prepare", _prepare, "render, or fetch what is absent of, and index, a benchmark")
    prepare.add_argument("benchmark", help="shapes, pascal, pascal-mini, coco or folder")
    prepare.add_argument("--root", type=Path, help="the data folder [data]")
    prepare.add_argument("--preset", default="quick", help="whose sizes to render [quick]")
    prepare.add_argument("--voc", type=Path, help="folder of your own in VOC's layout (benchmark folder)")
    for name, what in (("images", "folder"), ("labels", "folder"), ("classes", "file of class names")):
        prepare.add_argument(f"--{name}", type=Path, help=f"{what} of your own (benchmark folder)")
    prepare.add_argument("--folds", default="", help='of your own: a number, or "cat,dog;cow,hen" [by themselves]')
    prepare.add_argument("--offline", action="store_true", help="never use the network: say what to put where")
    check = add("check", _check, "decode everything again, count, and compare with known counts")
    check.add_argument("benchmark", help="a prepared benchmark")
    check.add_argument("--root", type=Path, help="the data folder [data]")
    check.add_argument("--preset", default="quick", help="whose sizes were rendered [quick]")


def _add_target_verbs(add: Callable[..., Parser]) -> None:
    setting = _shared("benchmark", "preset", "data", "results", "device")
    several, one_fold = Parser(add_help=False), Parser(add_help=False)
    targets = "table1 … table6, fig3, fig4, fig5, diversity; several, joined by +; or all"
    several.add_argument("target", help=targets)
    several.add_argument("--seeds", type=positive, default=1, help="trainings per variant and fold [1]")
    several.add_argument("--jobs", type=positive, default=1, help="cohorts at a time [1]")
    several.add_argument("--cluster", default="", help="slurm, or a Dask scheduler's address [this machine]")
    one_fold.add_argument("target", nargs="?", default="table3", help=f"{targets} [table3]")
    one_fold.add_argument("--fold", type=natural, default=0, help="whose classes are novel [0]")
    one_fold.add_argument("--variant", help="one variant only, e.g. pim+msf+ccm [all of the target's]")
    one_fold.add_argument("--diversity", type=float, help="of shapes, for target diversity [the preset's]")
    one_fold.add_argument("--seed", type=natural, default=0, help="of parameters, episodes and dropout [0]")
    add("plan", _plan, "show what a target needs, and run nothing", several, setting)
    add("reproduce", _reproduce, "make a target: train, score, write CSVs and notebooks", several, setting)
    add("train", _run, "train and score a target's variants on one fold, without notebooks", one_fold, setting)
    add("evaluate", _run, "print the scores of a target's runs on one fold", one_fold, setting)


def _add_model_verbs(add: Callable[..., Parser]) -> None:
    trained = Parser(add_help=False)
    trained.add_argument("--checkpoint", type=Path, required=True, help="a run's folder, results/*/runs/ID")
    trained.add_argument("--beta", type=float, default=0.2, help="the discriminator's threshold [0.2]")
    predict = add("predict", _predict, "segment your own image with a trained run", trained)
    masks = "its mask, PNG (ids, or white on black) or JSON with polygons; one for each support"
    for name, what in (("support", "an image; repeat for more shots"), ("mask", masks)):
        predict.add_argument(f"--{name}", type=Path, action="append", required=True, help=what)
    predict.add_argument("--query", type=Path, required=True, help="the image to segment")
    predict.add_argument("--out", type=Path, required=True, help="PNG to write: 0 background, 1 foreground")
    predict.add_argument("--overlay", type=Path, help="PNG to write: the query, with its foreground in colour")
    predict.add_argument("--probability", type=Path, help="PNG of 16 bits to write: 0 to 65535 for 0 to 1")
    export = add("export", _export, "write a trained run as a program that needs only torch", trained)
    export.add_argument("--out", type=Path, required=True, help=".pt2 file to write, for torch.export.load")
    export.add_argument("--shots", type=positive, default=1, help="number of supports that it takes [1]")


def _add_result_verbs(add: Callable[..., Parser]) -> None:
    results = _shared("results")
    report = add("report", _report, "write tables, reports and README from the results; train nothing", results)
    report.add_argument("--benchmark", help="one only [all that have results]")
    report.add_argument("--preset", default="quick", help="its preset [quick]")
    add("site", _site, "write static pages of all results, in results/site", results)
    setting = _shared("benchmark", "preset", "data", "results")
    explore = add("explore", _explore, "open JupyterLab on stored predictions, to move the threshold", setting)
    explore.add_argument("--no-browser", action="store_true", help="print the address instead of opening it")
    sizes = _shared("preset", "data", "results", "device")
    add("speed", _script, "measure this package against usual code on shapes, on this machine", sizes)
    choose = add("choose", _script, "compare recipes on training images of classes that no table tests", sizes)
    choose.add_argument("--benchmark", default="pascal-mini", help="whose [pascal-mini]")


def _shared(*names: str) -> Parser:
    """A parent with options that several verbs have."""
    known: dict[str, dict[str, Any]] = {
        "benchmark": {"default": "shapes", "help": "shapes, pascal, pascal-mini, coco or folder [shapes]"},
        "preset": {"default": "quick", "help": "sizes: tiny, quick, mini or paper [quick]"},
        "data": {"type": Path, "help": "the folder of all data [data]"},
        "results": {"type": Path, "help": "the folder of all results [results]"},
        "device": {"default": "auto", "help": "cpu, cuda or auto [auto]"},
    }
    shared = Parser(add_help=False)
    for name in names:
        shared.add_argument(f"--{name}", **known[name])
    return shared


def positive(text: str) -> int:
    """A number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def natural(text: str) -> int:
    """A number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Run a verb, and return the exit code; 1 after an error that the user can mend, printed in one line."""
    options = parser().parse_args(arguments)
    try:
        code = options.call(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has what it wanted, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except DPNetError as error:
        print(f"dpnet: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"dpnet: error: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dpnet: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return code or 0


def _places(options: argparse.Namespace) -> Places:
    """Where a verb works; for machines that are elsewhere, the device is left for them to find."""
    given: dict[str, Any] = vars(options)
    device: Any = given.get("device")
    elsewhere = given.get("cluster") and device in io.DEVICES
    at = io.places(given.get("root") or given.get("data"), given.get("results"), "cpu" if elsewhere else device)
    return replace(at, device=device) if elsewhere else at


def _prepare(options: argparse.Namespace) -> None:
    from dpnet import data as benchmarks
    from dpnet.companion import presets

    if options.benchmark == "folder":
        images, labels, classes = options.images, options.labels, options.classes
        lists = None
        if options.voc:
            parts = benchmarks.voc_parts(options.voc)
            images, labels, classes, lists = images or parts[0], labels or parts[1], classes or parts[2], parts[3]
        if None in (images, labels, classes):
            raise DPNetError("prepare folder needs --voc DIR, or --images DIR --labels DIR --classes FILE")
        benchmark = benchmarks.prepare_folder(images, labels, classes, _places(options).data, options.folds, lists)
        tests = sum(entry.split == "val" for entry in benchmark.entries)
        print(f"{len(benchmark.entries) - tests} images to train on, {tests} to test; folds: {_folds(benchmark)}")
        cut, tested = ({c for fold in folds for c in fold} for folds in (benchmark.folds, benchmark.tested))
        for why, classes in (
            ("fewer than two of their images could be set aside for that", cut - tested),
            ("--folds leaves them out: they are for training", {*range(1, len(benchmark.classes) + 1)} - cut),
        ):
            if classes:
                print(f"not tested, since {why}: {', '.join(benchmark.classes[c - 1] for c in sorted(classes))}")
    else:
        recipe = presets.resolve(options.benchmark, options.preset).recipe
        own = next((name for name in ("voc", "images", "labels", "classes", "folds") if getattr(options, name)), None)
        if own:
            holds = {"shapes": "its images are rendered", "coco": "give the folder that holds coco with --root"}
            way = holds.get(options.benchmark, "give the folder that holds VOCdevkit with --root")
            raise DPNetError(f"--{own} is for benchmark folder, not for {options.benchmark}: {way}")
        benchmark = benchmarks.prepare(options.benchmark, _places(options).data, recipe, fetch=not options.offline)
    print(f"{benchmark.name}: {len(benchmark.entries)} images of {len(benchmark.classes)} classes are ready")


def _folds(benchmark: "Benchmark") -> str:
    return "; ".join(", ".join(benchmark.classes[c - 1] for c in fold) for fold in benchmark.folds)


def _check(options: argparse.Namespace) -> None:
    from dpnet import data as benchmarks
    from dpnet.companion import presets

    recipe = presets.resolve(options.benchmark, options.preset).recipe
    benchmark = benchmarks.load(options.benchmark, _places(options).data, recipe)
    print(benchmarks.check(benchmark).to_string())
    known = benchmarks.known(benchmark)
    if len(known):
        print(f"\n{known.to_string(index=False)}\n\n{(known.deviates != 0).sum()} of {len(known)} counts deviate")


def _plan(options: argparse.Namespace) -> None:
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


def _reproduce(options: argparse.Namespace) -> None:
    from dpnet.companion import notebooks, presets, report, runner, tables
    from dpnet.companion.results import Reader

    setting, at = presets.resolve(options.benchmark, options.preset), _places(options)
    asked = runner.train_all(options.target, setting, at, options.seeds, options.jobs, options.cluster)
    reader = Reader(options.benchmark, options.preset, at.results, options.seeds)
    with notebooks.kernel_environment(at):
        report.write_tables(reader, asked)
        if options.target == "all":
            report.publish(reader)
    if options.target == "all":
        print(report.overview(options.benchmark, options.preset, at.results).to_string(index=False))
    else:
        print(*(tables.as_text(reader, experiment) for experiment in asked), sep="\n\n")


def _run(options: argparse.Namespace) -> None:
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


def _predict(options: argparse.Namespace) -> None:
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
        options.query, options.support, options.mask, options.checkpoint, options.beta
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


def _export(options: argparse.Namespace) -> None:
    from dpnet import predict

    S = predict.export(options.checkpoint, options.out, options.shots, options.beta).size
    K = options.shots
    print(
        f"{options.out}: torch.export.load(…).module() takes supports [1, {K}, 3, {S}, {S}], "
        f"masks [1, {K}, {S}, {S}] and query [1, 3, {S}, {S}], all uint8, and gives the probability [1, {S}, {S}]"
    )


def _report(options: argparse.Namespace) -> None:
    from dpnet.companion import notebooks, report

    with notebooks.kernel_environment(_places(options)):
        report.publish_all(options.benchmark, options.preset)


def _site(options: argparse.Namespace) -> None:
    from dpnet.companion import site

    results = _places(options).results
    pages = site.build(results, results / "site")
    print(f"{len(pages)} pages: open {results / 'site' / 'index.html'}")


def _explore(options: argparse.Namespace) -> None:
    from dpnet.companion import explorer, notebooks

    with notebooks.kernel_environment(_places(options)):
        explorer.serve(explorer.cohort(options.benchmark, options.preset), not options.no_browser)


def _script(options: argparse.Namespace) -> int:
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
