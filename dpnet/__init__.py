"""The Dual Prototype Network for few-shot semantic segmentation: a paper, as data, beside the runs that test it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpnet.io import DPNetError as DPNetError
    from dpnet.metrics import confusion_counts as confusion_counts
    from dpnet.metrics import mean_iou as mean_iou
    from dpnet.model import DPNet as DPNet
    from dpnet.modules import cycle_candidates as cycle_candidates
    from dpnet.predict import Segmenter as Segmenter
    from dpnet.predict import segment as segment

__version__ = "0.1.0"
_HOMES = {
    "DPNet": "dpnet.model",
    "DPNetError": "dpnet.io",
    "cycle_candidates": "dpnet.modules",
    "confusion_counts": "dpnet.metrics",
    "mean_iou": "dpnet.metrics",
    "Segmenter": "dpnet.predict",
    "segment": "dpnet.predict",
}
_ROOMS = ("paper", "results")


def __getattr__(name: str) -> Any:
    """Names are imported when they are first used, so that `import dpnet` and `--help` are quick."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return import_module(f"dpnet.companion.{name}")
    raise AttributeError(f"module 'dpnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_HOMES, *_ROOMS]
