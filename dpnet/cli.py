"""The verbs: `dpnet …`, for people, for Make, and for machines without notebooks."""

import argparse
import os
import sys
from contextlib import suppress
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from dpnet import __version__, verbs
from dpnet.config import BENCHMARKS
from dpnet.io import DPNetError


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Print it, say where help is, and exit with 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def whole(least: int, most: int, text: str) -> int:
    """A whole number, as the value of an option."""
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1, as the value of an option."""
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")


SEED, SEEDS, COUNT = partial(whole, 0, 2**32 - 1), partial(whole, 1, 100), partial(whole, 1, 1000)
FIRST = "First: dpnet reproduce table3. `dpnet VERB --help` lists the options of a verb."
TARGETS = "table1 … table6, fig3, fig4, fig5, diversity; several, joined by +; or all"
MASK = "its mask: PNG (ids, or white on black) or LabelMe JSON; one for each support"
SUPPORTS = "labelled pictures: a folder of photos/, labels/ and names.txt, one in VOC's layout, or COCO's JSON"
OPTIONS: dict[str, dict[str, Any]] = {
    "benchmark": {"help": ", ".join(BENCHMARKS)},
    "--benchmark": {"default": "shapes", "help": f"{', '.join(BENCHMARKS)} [shapes]"},
    "--benchmark of report": {"help": "one only [all that have results]"},
    "--benchmark of choose": {"default": "shapes", "help": "shapes or pascal-part, at quick [shapes]"},
    "--preset": {"default": "quick", "help": "sizes: tiny, quick, mini or paper [quick]"},
    "--root": {"type": Path, "help": "the data folder [data]"},
    "--data": {"type": Path, "help": "the folder of all data [data]"},
    "--results": {"type": Path, "help": "the folder of your own results [results/local]"},
    "--device": {"default": "auto", "help": "cpu, cuda or auto [auto]"},
    # A benchmark of your own.
    "--images": {"type": Path, "help": "folder of your own photographs (benchmark folder)"},
    "--labels": {"type": Path, "help": "folder of their label PNGs: 0 background, 1…n classes, 255 void"},
    "--classes": {"type": Path, "help": "text file with the class names, one per line"},
    "--lists": {
        "type": Path,
        "help": "folder of train.txt and val.txt [sub-folders train and val, else split for you]",
    },
    "--voc": {"type": Path, "help": "or a folder in VOC's layout, as CVAT and labelme2voc write it"},
    "--coco": {"type": Path, "help": "or an instances file of COCO's format"},
    "--coco-val": {"type": Path, "help": "another one, for testing [a quarter of --coco]"},
    "--folds": {"default": "", "help": 'a number, or "cat,dog;cow,hen" [cut for you]'},
    "--offline": {"action": "store_true", "help": "never use the network: say what to put where"},
    # What is trained.
    "target": {"help": TARGETS},
    "target of publish": {"help": f"{TARGETS}; or report, speed, choose"},
    "target of train": {"nargs": "?", "default": "table3", "help": f"{TARGETS} [table3]"},
    "target of evaluate": {"nargs": "?", "default": "table3", "help": f"{TARGETS} [table3]"},
    "--seeds": {"type": SEEDS, "default": 1, "help": "trainings per variant and fold [1]"},
    "--jobs": {"type": COUNT, "default": 0, "help": "cohorts at a time [one per free core; 1 on GPUs or a cluster]"},
    "--cluster": {"default": "", "help": "slurm, or a Dask scheduler's address [this machine]"},
    "--fold": {"type": partial(whole, 0, 99), "default": 0, "help": "whose classes are novel [0]"},
    "--variant": {"help": "one variant only, e.g. pim+msf+ccm [all of the target's]"},
    "--diversity": {"type": float, "help": "of shapes, for target diversity [the preset's]"},
    "--seed": {"type": SEED, "default": 0, "help": "of parameters, episodes and dropout [0]"},
    # What is done with a trained run.
    "--checkpoint": {"type": Path, "help": "a run's folder, results/*/runs/ID [the head of the package]"},
    "--beta": {"type": float, "default": 0.2, "help": "the discriminator's threshold [0.2]"},
    "--support": {"type": Path, "action": "append", "required": True, "help": "an image; repeat for more shots"},
    "--mask": {"type": Path, "action": "append", "required": True, "help": MASK},
    "--soft": {"action": "store_true", "help": "masks have shades: above one half is foreground"},
    "--label": {"help": "which label of a LabelMe file is meant"},
    "photos": {"type": Path, "help": "the folder of photographs to label"},
    "--support of label": {"type": Path, "required": True, "dest": "supports", "help": SUPPORTS},
    "--out of label": {"type": Path, "required": True, "help": "the folder to write"},
    "--threshold": {"type": share, "default": 0.5, "help": "probability from which a pixel gets a class [0.5]"},
    "--query": {"type": Path, "required": True, "help": "the image to segment"},
    "--out": {"type": Path, "required": True, "help": "PNG to write: 0 background, 1 foreground"},
    "--out of export": {"type": Path, "required": True, "help": ".pt2 file to write, for torch.export.load"},
    "--overlay": {"type": Path, "help": "PNG to write: the query, with its foreground in colour"},
    "--probability": {"type": Path, "help": "PNG of 16 bits to write: 0 to 65535 for 0 to 1"},
    "--shots": {"type": COUNT, "default": 1, "help": "number of supports that it takes [1]"},
    "--no-browser": {"action": "store_true", "help": "print the address instead of opening it"},
}
_PLACES = "--data --results --device"
_SEVERAL = f"target --seeds --jobs --cluster --benchmark --preset {_PLACES}"
_ONE_FOLD = f"target --fold --variant --diversity --seed --benchmark --preset {_PLACES}"
_OWN = "--images --labels --classes --lists --voc --coco --coco-val --folds --offline"
_PICTURES = "--support --mask --soft --label --query --out --overlay --probability"
VERBS = {  # and their options
    "prepare": f"benchmark --root --preset {_OWN}",
    "check": "benchmark --root --preset",
    "plan": _SEVERAL,
    "reproduce": _SEVERAL,
    "publish": _SEVERAL.replace("--results ", ""),
    "train": _ONE_FOLD,
    "evaluate": _ONE_FOLD,
    "predict": f"--checkpoint --beta {_PICTURES}",
    "label": "photos --support --out --threshold --checkpoint --beta",
    "export": "--checkpoint --beta --out --shots",
    "report": "--results --benchmark --preset",
    "site": "--results",
    "explore": "--benchmark --preset --data --results --no-browser",
    "speed": f"--preset {_PLACES}",
    "choose": f"--benchmark --preset {_PLACES}",
}


def parser() -> Parser:
    """All verbs and their options."""
    top = Parser(
        prog="dpnet", description="Dual Prototype Network: a paper, beside the runs that test it.", epilog=FIRST
    )
    top.add_argument("--version", action="version", version=__version__)
    every = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    for name, options in VERBS.items():
        what = getattr(verbs, name).__doc__
        verb = every.add_parser(name, help=what, description=what)
        for option in options.split():
            verb.add_argument(option, **OPTIONS.get(f"{option} of {name}", OPTIONS[option]))
    return top


def _open_streams() -> None:
    """Let closed streams lead nowhere, and escape letters that a stream does not have."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it gets the number of the closed one, which no other file may have
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
            os.set_inheritable(getattr(sys, name).fileno(), True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a notebook's is another
            stream.reconfigure(errors="backslashreplace")


def main(arguments: list[str] | None = None) -> int:
    """Run a verb, and return the exit code; 1 after an error that the user can mend, printed in one line."""
    _open_streams()
    options = parser().parse_args(arguments)
    problem = ""
    try:
        code = getattr(verbs, options.verb)(options) or 0
        sys.stdout.flush()
    except (DPNetError, OSError) as error:
        ended = isinstance(error, BrokenPipeError)  # the reader has what it wanted, as `head` has
        code, problem = 1, "" if ended else f"dpnet: error: {' '.join(str(error).split())}\n"
    except KeyboardInterrupt:
        code, problem = 130, "dpnet: stopped; the same command goes on from here\n"
    with suppress(OSError):
        sys.stderr.write(problem)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # else Python tries again at its end, and changes the exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code
