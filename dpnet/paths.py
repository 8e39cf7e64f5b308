"""Where things are. Locations come from the environment, never from parameters: no result depends on them."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"


def results() -> Path:
    """The folder of all results: DPNET_RESULTS, or `results` in the checkout."""
    return Path(os.environ.get("DPNET_RESULTS") or ROOT / "results").expanduser().absolute()


def data() -> Path:
    """The folder of all data: DPNET_DATA, or `data` in the checkout."""
    return Path(os.environ.get("DPNET_DATA") or ROOT / "data").expanduser().absolute()


def device() -> str:
    """Where to compute: DPNET_DEVICE, or "cpu"; "auto" is what this machine has."""
    name = os.environ.get("DPNET_DEVICE") or "cpu"
    if name == "auto":
        import torch

        name = "cuda" if torch.cuda.is_available() else "cpu"
    return name
