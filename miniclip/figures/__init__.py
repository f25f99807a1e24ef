"""Figures: plain data to image files, a file per subject."""

from miniclip.figures.axes import GRAY, SERIES, new_figure, save, tidy
from miniclip.figures.confusion import draw_confusion
from miniclip.figures.costs import draw_costs
from miniclip.figures.curves import draw_curves
from miniclip.figures.examination import draw_examination
from miniclip.figures.health import draw_cosines
from miniclip.figures.retrieval import draw_retrieval, draw_similarity, draw_space
from miniclip.figures.sharpness import draw_landscape

__all__ = [
    "GRAY",
    "SERIES",
    "draw_confusion",
    "draw_cosines",
    "draw_costs",
    "draw_curves",
    "draw_examination",
    "draw_landscape",
    "draw_retrieval",
    "draw_similarity",
    "draw_space",
    "new_figure",
    "save",
    "tidy",
]
