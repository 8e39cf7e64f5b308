"""The verbs: `python -m dpnet …`, for people, for Make, and for machines without notebooks."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dpnet import __version__, io
from dpnet.io import DPNetError

if TYPE_CHECKING:
    from dpnet.data import Benchmark


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

    prepare = verbs.add_parser("prepare", help="render, or fetch what is absent of, and index, a benchmark")
    prepare.add_argument("benchmark", help="shapes, pascal, pascal-mini, coco or folder")
    prepare.add_argument("--root", type=Path, help="the data folder [data]")
    prepare.add_argument("--preset", default="quick", help="whose sizes to render [quick]")
    prepare.add_argument("--images", type=Path, help="folder of your own photographs (benchmark folder)")
    prepare.add_argument(
        "--labels", type=Path, help="folder of their label PNGs: 0 background, 1…n classes, 255 void"
    )
    prepare.add_argument("--classes", type=Path, help="text file with the class names, one per line")
    prepare.add_argument("--lists", type=Path, help="folder of train.txt and val.txt [sub-folders, or by itself]")
    prepare.add_argument("--voc", type=Path, help="or a folder in VOC's layout, as CVAT and labelme2voc write it")
    prepare.add_argument("--coco", type=Path, help="or an instances file of COCO's format")
    prepare.add_argument("--coco-val", type=Path, help="another one, for testing [a quarter of --coco]")
    prepare.add_argument("--folds", default="", help='a number, or "cat,dog;cow,hen" [by themselves]')
    prepare.add_argument("--offline", action="store_true", help="never use the network: say what to put where")
    check = verbs.add_parser("check", help="decode everything again, count, and compare with known counts")
    check.add_argument("benchmark", help="a prepared benchmark")
    check.add_argument("--root", type=Path, help="the data folder [data]")
    check.add_argument("--preset", default="quick", help="whose sizes were rendered [quick]")

    predict = verbs.add_parser("predict", help="segment your own image with a trained run")
    predict.add_argument(
        "--support", type=Path, action="append", required=True, help="an image; repeat for more shots"
    )
    predict.add_argument(
        "--mask", type=Path, action="append", required=True,
        help="its mask: PNG (ids, or white on black) or LabelMe JSON; one for each support",
    )  # fmt: skip
    predict.add_argument("--soft", action="store_true", help="masks have shades: above one half is foreground")
    predict.add_argument("--label", help="which label of a LabelMe file is meant")
    predict.add_argument("--query", type=Path, required=True, help="the image to segment")
    predict.add_argument("--out", type=Path, required=True, help="PNG to write: 0 background, 1 foreground")
    predict.add_argument("--overlay", type=Path, help="PNG to write: the query, with what was found in colour")
    predict.add_argument("--probability", type=Path, help="PNG of 16 bits to write: 0 to 65535 for 0 to 1")

    export = verbs.add_parser("export", help="write a trained run as a program that torch alone runs")
    export.add_argument("--out", type=Path, required=True, help=".pt2 file to write, for torch.export.load")
    export.add_argument("--shots", type=positive, default=1, help="supports that it takes [1]")
    for one in (predict, export):
        one.add_argument("--checkpoint", type=Path, required=True, help="a run's folder, results/*/runs/ID")
        one.add_argument("--beta", type=float, default=0.2, help="the discriminator's threshold [0.2]")

    report = verbs.add_parser(
        "report", help="tables, reports and README from the results that are there; trains nothing"
    )
    report.add_argument("--benchmark", help="one only [all that have results]")
    report.add_argument("--preset", default="quick", help="its preset [quick]")
    report.add_argument("--results", type=Path, help="the folder of all results [results]")
    site = verbs.add_parser("site", help="static pages of all results, in results/site")
    site.add_argument("--results", type=Path, help="the folder of all results [results]")

    choose = verbs.add_parser("choose", help="compare recipes on training images of classes that no table tests")
    choose.add_argument("--benchmark", default="pascal-mini", help="whose [pascal-mini]")
    choose.add_argument("--preset", default="quick", help="its preset [quick]")
    choose.add_argument("--data", type=Path, help="the data folder [data]")
    choose.add_argument("--results", type=Path, help="the folder of all results [results]")
    choose.add_argument("--device", default="auto", help="cpu, cuda or auto [auto]")

    explorer = verbs.add_parser("explore", help="JupyterLab on predictions: move the threshold, click on cells")
    explorer.add_argument(
        "--benchmark", default="shapes", help="shapes, pascal, pascal-mini, coco or folder [shapes]"
    )
    explorer.add_argument("--preset", default="quick", help="tiny, quick, mini or paper [quick]")
    explorer.add_argument("--data", type=Path, help="the data folder [data]")
    explorer.add_argument("--results", type=Path, help="the folder of all results [results]")
    explorer.add_argument("--no-browser", action="store_true", help="print the address instead of opening it")

    speed = verbs.add_parser("speed", help="measure this package against the field's habits, on this machine")
    speed.add_argument("--preset", default="quick", help="sizes, of shapes [quick]")
    speed.add_argument("--data", type=Path, help="the data folder [data]")
    speed.add_argument("--results", type=Path, help="the folder of all results [results]")
    speed.add_argument("--device", default="auto", help="cpu, cuda or auto [auto]")

    whole = {
        "plan": "say what a target needs, and run nothing",
        "reproduce": "everything that a target consists of: runs, CSV, executed notebooks",
        "train": "train a target's variants on one fold, without notebooks",
        "evaluate": "print the scores of a target's runs on one fold",
    }
    for verb, what in whole.items():
        one = verbs.add_parser(verb, help=what)
        one.add_argument(
            "target",
            nargs="?" if verb in ("train", "evaluate") else None,
            default="table3",
            help="table1 … table6, fig3, fig4, fig5, diversity; several, joined by +; or all",
        )
        one.add_argument("--benchmark", default="shapes", help="shapes, pascal, pascal-mini, coco or folder [shapes]")
        one.add_argument("--preset", default="quick", help="tiny, quick, mini or paper [quick]")
        one.add_argument("--data", type=Path, help="the data folder [data]")
        one.add_argument("--results", type=Path, help="the folder of all results [results]")
        one.add_argument("--device", default="auto", help="cpu, cuda or auto [auto]")
        if verb in ("plan", "reproduce"):
            one.add_argument("--seeds", type=positive, default=1, help="trainings per variant and fold [1]")
            one.add_argument("--jobs", type=positive, default=1, help="cohorts at a time [1]")
            one.add_argument("--cluster", default="", help="slurm, or a Dask scheduler's address [this machine]")
        else:
            one.add_argument("--fold", type=natural, default=0, help="whose classes are novel [0]")
            one.add_argument("--variant", help="one variant only, e.g. pim+msf+ccm [all of the target's]")
            one.add_argument("--diversity", type=float, help="of shapes, for target diversity [the preset's]")
            one.add_argument("--seed", type=natural, default=0, help="of parameters, episodes and dropout [0]")
    return top


def positive(text: str) -> int:
    """A number of things."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def natural(text: str) -> int:
    """A number that counts from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Run a verb.

    Arguments:
        arguments: None: the process's.

    Returns:
        the exit code; 1 after an error of the user's, said in one line.
    """
    options = parser().parse_args(arguments)
    for name, variable in (("root", "DPNET_DATA"), ("data", "DPNET_DATA"), ("results", "DPNET_RESULTS")):
        if getattr(options, name, None) is not None:
            # Whole, since notebooks' kernels work in the checkout, wherever the command was typed.
            os.environ[variable] = str(getattr(options, name).expanduser().absolute())
    verbs: dict[str, Callable[[argparse.Namespace], None]] = {
        "prepare": _prepare,
        "check": _check,
        "plan": _plan,
        "reproduce": _reproduce,
        "report": _report,
    }
    verbs |= {"site": _site, "speed": _speed, "choose": _choose, "explore": _explore}
    verbs |= {"train": _run, "evaluate": _run, "predict": _predict, "export": _export}
    try:
        verbs[options.verb](options)
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
    return 0


def _prepare(options: argparse.Namespace) -> None:
    from dpnet import data as benchmarks
    from dpnet import io
    from dpnet.companion import presets

    setting = presets.resolve(options.benchmark, options.preset)
    if options.benchmark == "folder":
        benchmark = _prepare_own(options, io.places().data, setting.training.size)
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
        benchmark = benchmarks.prepare(options.benchmark, io.places().data, setting.recipe, fetch=not options.offline)
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


def _check(options: argparse.Namespace) -> None:
    from dpnet import data as benchmarks
    from dpnet import io
    from dpnet.companion import presets
    from dpnet.data import checks, images

    setting = presets.resolve(options.benchmark, options.preset)
    benchmark = benchmarks.load(options.benchmark, io.places().data, setting.recipe)
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


def _plan(options: argparse.Namespace) -> None:
    from dpnet import data
    from dpnet.companion import experiments, presets, runner

    setting, at = presets.resolve(options.benchmark, options.preset), io.places()
    experiments.several(options.target, options.benchmark)
    benchmark = data.prepare(options.benchmark, at.data, setting.recipe)
    table = runner.plan(runner.cohorts(options.target, setting, benchmark, options.seeds, at.results))
    total = table.drop(columns="cohort").sum()
    print(table.to_string(index=False))
    print(
        f"\n{options.target}: {total['runs']} runs, {total['shared']} shared by several targets; "
        f"{total['finished']} finished, {total['to score']} to score, {total['to train']} to train "
        f"({total['steps']:,} steps)."
    )


def _reproduce(options: argparse.Namespace) -> None:
    from dpnet.companion import presets, report, runner, tables
    from dpnet.companion.results import Reader

    setting = presets.resolve(options.benchmark, options.preset)
    _device(options.device, elsewhere=bool(options.cluster))
    asked = runner.train_all(options.target, setting, io.places(), options.seeds, options.jobs, options.cluster)
    reader = Reader(options.benchmark, options.preset, seeds=options.seeds)
    report.write_tables(reader, asked)
    if options.target == "all":
        report.publish(reader)
        print(report.overview(options.benchmark, options.preset, reader.store.root.parent).to_string(index=False))
    else:
        print(*(tables.as_text(reader, experiment) for experiment in asked), sep="\n\n")


def _run(options: argparse.Namespace) -> None:
    from dpnet import data, episodes
    from dpnet.companion import experiments, presets, runner, tables

    asked = experiments.several(options.target, options.benchmark)
    if options.diversity is not None:
        values = sorted({row.diversity for one in asked for row in one.rows if row.diversity is not None})
        if options.diversity not in values:
            known = f"has {', '.join(f'{value:g}' for value in values)}" if values else "has none to set"
            raise DPNetError(
                f"--diversity {options.diversity:g}: {options.target} {known}: it is of target diversity"
            )
    _device(options.device)
    setting, at = presets.resolve(options.benchmark, options.preset), io.places()
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

    from dpnet import io, predict
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
    io.write(options.out, images.png(picture), "--out")
    if options.overlay:
        io.write(options.overlay, images.png(images.overlay(options.query, mask)), "--overlay")
    if options.probability:
        levels = Image.fromarray((probability * 65535).round().astype("uint16"))
        io.write(options.probability, images.png(levels), "--probability")
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
    from dpnet.companion import report

    report.publish_all(options.benchmark, options.preset)


def _site(_: argparse.Namespace) -> None:
    from dpnet import io
    from dpnet.companion import site

    pages = site.build(io.places().results, io.places().results / "site")
    print(f"{len(pages)} pages: open {io.places().results / 'site' / 'index.html'}")


def _choose(options: argparse.Namespace) -> None:
    from dpnet.companion import choose

    table = choose.choose(options.benchmark, options.preset, _device(options.device))
    wide = table.pivot_table(index="candidate", columns=["metric", "fold"], values="miou", sort=False)
    print(wide.round(1).to_string())


def _explore(options: argparse.Namespace) -> None:
    from dpnet.companion import explorer

    explorer.serve(explorer.cohort(options.benchmark, options.preset), not options.no_browser)


def _speed(options: argparse.Namespace) -> None:
    from dpnet.companion import speed

    speed.run(options.preset, _device(options.device))


def _device(name: str, elsewhere: bool = False) -> str:
    """Check a device, and let notebooks' kernels use it; on machines that are elsewhere, "auto" is what they have."""
    from dpnet import io

    if name not in ("auto", "cpu", "cuda"):
        raise DPNetError(f"unknown device {name!r}: choose from auto, cpu, cuda")
    os.environ["DPNET_DEVICE"] = name
    if elsewhere:
        return name
    os.environ["DPNET_DEVICE"] = name = io.places().device
    if name == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise DPNetError("no CUDA device is to be had here: DEVICE=cpu")
    return name
