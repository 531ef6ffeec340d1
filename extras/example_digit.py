"""The README's photo of a digit: python -m extras.example_digit renders extras/example_digit.jpg.

The tests of own_digit.py render their photos with the same functions.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

STROKES = [[(.24, .05), (.19, .24), (.16, .46), (.34, .39), (.56, .45), (.64, .66), (.52, .90),
            (.28, .99), (.05, .90)], [(.29, .05), (.48, .06), (.72, 0)]]  # of a 5 with height 1
PAPER, INK, LINE, DESK = (236, 233, 225), (40, 42, 60), (120, 130, 160), (70, 48, 35)
Y, X = np.mgrid[:1:600j, :1:800j][..., None]  # coordinates in a photo, 0..1
RULED = [(slice(row, row + 2), slice(None), LINE) for row in range(40, 600, 70)]


def five(height, pen):
    """A 5 whose strokes have a width of `pen` times its height: float (height, width, 1), 0..1."""
    image = Image.new("L", (4 * height, 4 * height))
    for points in map(np.array, STROKES):
        for _ in range(5):  # Chaikin's corner cutting turns the points into a smooth curve
            start, end = points[:-1], points[1:]
            points = np.hstack([0.75 * start + 0.25 * end, 0.25 * start + 0.75 * end])
            points = np.vstack([start[:1], points.reshape(-1, 2), end[-1:]])
        for x, y in 4 * height * (points * (1 - pen) + pen / 2):
            radius = 2 * height * pen
            ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), 255)
    return np.array(image.crop(image.getbbox()).reduce(4))[..., None] / 255


def photo(paper=PAPER, ink=INK, height=280, pen=0.1, top=150, left=290, marks=()):
    """A 5 on a sheet with `marks`, [(rows, columns, colour), ...]: float (600, 800, 3), 0..255."""
    sheet = np.zeros((600, 800, 3)) + paper
    for rows, columns, colour in marks:
        sheet[rows, columns] = colour
    digit = five(height, pen)
    part = sheet[top:top + len(digit), left:left + digit.shape[1]]
    part += digit[:len(part)] * (np.array(ink) - part)  # cut off at the lower border
    return sheet


def desk(sheet):
    """The same photo, in which the sheet ends at the dark edge of a desk."""
    return np.where(X + 0.06 * Y < 0.09, DESK, sheet)


def picture(sheet):
    """float (h, w, 3), 0..255 -> PIL RGB image."""
    return Image.fromarray(sheet.clip(0, 255).astype(np.uint8))


def example():
    """Lined paper on a desk, tilted, in uneven light and a soft shadow: a PIL RGB image."""
    sheet = desk(photo(ink=(35, 48, 120), height=210, pen=0.055, top=190, left=340, marks=RULED))
    light = (1 - 0.25 * Y) * (1 - 0.5 * np.clip(9 * (X + 0.6 * Y - 0.85), 0, 1))
    grain = np.random.default_rng(0).normal(0, 4, sheet.shape)
    tilted = picture(sheet * light + grain).rotate(5, Image.Resampling.BICUBIC, fillcolor=DESK)
    return tilted.crop((20, 60, 720, 540))


if __name__ == "__main__":
    example().save(Path(__file__).with_suffix(".jpg"), quality=75)
