"""Reading drawn figures."""

from unittest import mock

from matplotlib.text import Text


def panels(figure):
    """Axes by their titles."""
    return {axes.get_title() or axes.get_title(loc="left"): axes for axes in figure.axes}


def marked(axes, marker):
    """Points of the lines that are drawn with `marker`, one list a line."""
    return [
        list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in axes.lines
        if line.get_marker() == marker
    ]


def overlapping_texts(figure):
    """Pairs of texts that overlap, and texts that leave the canvas."""
    drawn = []
    draw = Text.draw

    def keep(self, *arguments, **options):
        if self.get_visible() and self.get_text().strip():
            drawn.append(self)
        return draw(self, *arguments, **options)

    with mock.patch.object(Text, "draw", keep):
        figure.draw_without_rendering()
    shown = [(text.get_text(), text.get_window_extent().padded(-1)) for text in drawn]
    pairs = [
        (one, other)
        for index, (one, box) in enumerate(shown)
        for other, place in shown[index + 1 :]
        if box.overlaps(place)
    ]
    canvas = figure.bbox
    return pairs + [
        (text, "canvas")
        for text, box in shown
        if box.x0 < canvas.x0 or box.x1 > canvas.x1 or box.y0 < canvas.y0 or box.y1 > canvas.y1
    ]
