"""Controls around `explorer.state` and `views.picture`: an episode, a threshold, and a cell, by click or by slider.

The picture is drawn by the kernel; a few lines of JavaScript, which travel with it, show it and say where it was
clicked. Nothing comes from a network, and where nobody runs these controls a picture stands in their place.
"""

import base64
from typing import Any

import anywidget
import traitlets
from ipywidgets import Dropdown, HBox, IntSlider, SelectionSlider, VBox

from dpnet.companion import explorer, views
from dpnet.companion.explorer import Cell, Kept
from dpnet.config import Evaluation

SHOW = """
export default {
  render({ model, el }) {
    const picture = document.createElement("img"), words = document.createElement("div");
    picture.style.cssText = "width: 100%; max-width: 970px; cursor: crosshair; background: white";
    words.setAttribute("aria-live", "polite");
    const show = () => {
      URL.revokeObjectURL(picture.src);
      picture.src = URL.createObjectURL(new Blob([model.get("jpeg")], { type: "image/jpeg" }));
      words.replaceChildren(...model.get("words").map((sentence) => {
        const line = document.createElement("p");
        line.textContent = sentence;
        return line;
      }));
      picture.alt = model.get("words").join(" ");
    };
    picture.addEventListener("click", (event) => {
      const box = picture.getBoundingClientRect();
      model.send({ x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height });
    });
    model.on("change:jpeg", show);
    show();
    el.classList.add("dpnet-picture");
    el.append(picture, words);
  },
};
"""


class Picture(anywidget.AnyWidget):
    """A picture that can be clicked, and what it shows in words."""

    _esm = SHOW
    jpeg = traitlets.Bytes().tag(sync=True)
    words = traitlets.List(traitlets.Unicode()).tag(sync=True)


class Explorer(VBox):
    """Pick an episode, move β, click on the support or move its row and column.

    Arguments:
        kept: the predictions.
        beta: at the start.
    """

    def __init__(self, kept: Kept, beta: float = Evaluation.beta) -> None:
        self.kept = kept
        wide = {"style": {"description_width": "7em"}}
        thresholds = [(f"{value:.2f}", value) for value in kept.betas]
        self.episode = Dropdown(
            options=[(name, i) for i, name in enumerate(kept.names)], description="episode", **wide
        )
        self.beta = SelectionSlider(options=thresholds, value=beta, description="β", **wide)
        self.row, self.column = (
            IntSlider(at, 0, n - 1, description=f"{name} of S1", **wide)
            for name, at, n in zip(("row", "column"), kept.start(0), kept.grid, strict=True)
        )
        self.picture = Picture()
        self.drawn: tuple[Any, ...] = ()
        self.show()
        self.episode.observe(lambda change: self.move(kept.start(change.new)), "value")
        self.beta.observe(lambda change: self.show(), "value")
        for slider in (self.row, self.column):
            slider.observe(lambda change: self.show(), "value")
        self.picture.on_msg(lambda _, point, __: self.click(**point))
        super().__init__([HBox([VBox([self.episode, self.beta]), VBox([self.row, self.column])]), self.picture])

    def click(self, x: float, y: float) -> None:
        """Take the cell under a point of the picture, in 0..1 of its width and height; outside: do nothing."""
        cell = views.cell_at(self.kept, x, y)
        if cell is not None:
            self.move(cell)

    def move(self, cell: Cell) -> None:
        """Take a cell, and draw once for both of its numbers."""
        with self.row.hold_trait_notifications(), self.column.hold_trait_notifications():
            self.row.value, self.column.value = cell
        self.show()

    def show(self) -> None:
        """Draw what the controls say, unless it is drawn."""
        chosen = (self.episode.value, self.beta.value, (self.row.value, self.column.value))
        if chosen != self.drawn:
            self.drawn = chosen
            seen = explorer.state(self.kept, *chosen)
            drawn = views.jpeg(views.picture(self.kept, chosen[0], seen), dpi=150)
            with self.picture.hold_sync():
                self.picture.words, self.picture.jpeg = list(seen.words), drawn

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """With a picture and words for where controls do not run."""
        episode, beta, cell = self.drawn
        seen = explorer.state(self.kept, episode, beta, cell)
        still = views.jpeg(views.picture(self.kept, episode, seen, said=True))
        bundle = super()._repr_mimebundle_(**options) or {}
        return {**bundle, "text/plain": "\n".join(seen.words), "image/jpeg": base64.b64encode(still).decode()}
