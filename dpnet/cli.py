"""The verbs: `python -m dpnet …`, for people, for Make, and for machines without notebooks."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dpnet import __version__, verbs
from dpnet.io import DPNetError

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
    every = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)

    def add(name: str, verb: Verb, what: str, *parents: Parser) -> Parser:
        one = every.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.", parents=parents)
        one.set_defaults(call=verb)
        return one

    _add_data_verbs(add)
    _add_target_verbs(add)
    _add_model_verbs(add)
    _add_result_verbs(add)
    return top


def _add_data_verbs(add: Callable[..., Parser]) -> None:
    prepare = add("prepare", verbs.prepare, "render, or fetch what is absent of, and index, a benchmark")
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
    check = add("check", verbs.check, "decode everything again, count, and compare with known counts")
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
    add("plan", verbs.plan, "show what a target needs, and run nothing", several, setting)
    add("reproduce", verbs.reproduce, "make a target: train, score, write CSVs and notebooks", several, setting)
    add("train", verbs.run, "train and score a target's variants on one fold, without notebooks", one_fold, setting)
    add("evaluate", verbs.run, "print the scores of a target's runs on one fold", one_fold, setting)


def _add_model_verbs(add: Callable[..., Parser]) -> None:
    trained = Parser(add_help=False)
    trained.add_argument("--checkpoint", type=Path, required=True, help="a run's folder, results/*/runs/ID")
    trained.add_argument("--beta", type=float, default=0.2, help="the discriminator's threshold [0.2]")
    predict = add("predict", verbs.predict, "segment your own image with a trained run", trained)
    masks = "its mask: PNG (ids, or white on black) or LabelMe JSON; one for each support"
    for name, what in (("support", "an image; repeat for more shots"), ("mask", masks)):
        predict.add_argument(f"--{name}", type=Path, action="append", required=True, help=what)
    predict.add_argument("--soft", action="store_true", help="masks have shades: above one half is foreground")
    predict.add_argument("--label", help="which label of a LabelMe file is meant")
    predict.add_argument("--query", type=Path, required=True, help="the image to segment")
    predict.add_argument("--out", type=Path, required=True, help="PNG to write: 0 background, 1 foreground")
    predict.add_argument("--overlay", type=Path, help="PNG to write: the query, with its foreground in colour")
    predict.add_argument("--probability", type=Path, help="PNG of 16 bits to write: 0 to 65535 for 0 to 1")
    export = add("export", verbs.export, "write a trained run as a program that needs only torch", trained)
    export.add_argument("--out", type=Path, required=True, help=".pt2 file to write, for torch.export.load")
    export.add_argument("--shots", type=positive, default=1, help="number of supports that it takes [1]")


def _add_result_verbs(add: Callable[..., Parser]) -> None:
    results = _shared("results")
    report = add("report", verbs.report, "write tables, reports and README from the results; train nothing", results)
    report.add_argument("--benchmark", help="one only [all that have results]")
    report.add_argument("--preset", default="quick", help="its preset [quick]")
    add("site", verbs.site, "write static pages of all results, in results/site", results)
    setting = _shared("benchmark", "preset", "data", "results")
    explore = add("explore", verbs.explore, "open JupyterLab on stored predictions, to move the threshold", setting)
    explore.add_argument("--no-browser", action="store_true", help="print the address instead of opening it")
    sizes = _shared("preset", "data", "results", "device")
    add("speed", verbs.script, "measure this package against usual code on shapes, on this machine", sizes)
    choose = add("choose", verbs.script, "compare recipes on training images of classes that no table tests", sizes)
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
