"""A legend below the axes that the picture holds whole."""

from typing import Any

MOST_COLUMNS = 2


def legend_below(figure: Any) -> Any:
    """Add the legend of a figure below its axes, and as much height as it takes; return it.

    It has one column where two are wider than the figure. Labels that are wider than that are for
    ``style.label`` to break.
    """
    for columns in range(MOST_COLUMNS, 0, -1):
        legend = figure.legend(loc="outside lower center", ncols=columns)
        size = legend.get_window_extent()
        if size.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + size.height / figure.dpi)
    return legend
