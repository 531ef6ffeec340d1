"""Your own digit: photos of every kind, rendered here, are read like a clean scan.

    python -m tests.test_own_digit      renders extras/example_digit.jpg, the README's photo
"""

import contextlib
import io
import itertools
import os
import re
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

import digits
from extras import own_digit
from tests import ROOT, TestCase

STROKES = [[(.24, .05), (.19, .24), (.16, .46), (.34, .39), (.56, .45), (.64, .66), (.52, .90),
            (.28, .99), (.05, .90)], [(.29, .05), (.48, .06), (.72, 0)]]  # of a 5 with height 1
PAPER, INK, LINE, DESK = (236, 233, 225), (40, 42, 60), (120, 130, 160), (70, 48, 35)
Y, X = np.mgrid[:1:600j, :1:800j][..., None]  # coordinates in a photo, 0..1


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
    """A 5 on a sheet with `marks`, [(rows, columns, colour), ...]: float (600, 800, 3)."""
    sheet = np.zeros((600, 800, 3)) + paper
    for rows, columns, colour in marks:
        sheet[rows, columns] = colour
    digit = five(height, pen)
    part = sheet[top:top + len(digit), left:left + digit.shape[1]]
    part += digit[:len(part)] * (np.array(ink) - part)  # cut off at the lower border
    return sheet


RULED = [(slice(row, row + 2), slice(None), LINE) for row in range(40, 600, 70)]
RULE = [(slice(300, 306), slice(None), INK)]
BLOT = [(slice(100, 280), slice(200, 380), INK)]
MARGIN = [(slice(None), slice(240, 244), (220, 60, 70))]
SPECKS = [(slice(y, y + 9), slice(x, x + 9), INK) for y in (60, 500) for x in (90, 400, 700)]
SECOND = [(slice(200, 360), slice(570, 600), INK)]  # a 1 beside the 5, and lower
SHADOW = np.where(X + 0.5 * Y < 0.7, 1, 0.45)


def desk(sheet):
    """The same photo, in which the sheet ends at the dark edge of a desk."""
    return np.where(X + 0.06 * Y < 0.09, DESK, sheet)


def picture(sheet):
    return Image.fromarray(sheet.clip(0, 255).astype(np.uint8))


class OwnDigit(TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        self.scan = self.read(picture(photo()))

    def read(self, image, name="scan.png", **options):
        image.save(name, **options)
        return own_digit.read_digit(name)

    def assertSame(self, image, *args, most=8, **options):
        """The image is read like the scan, give or take one pixel of position and, on average,
        `most` of the 255 grey levels at the outline."""
        image = self.read(image, *args, **options).float()
        shifted = [image.roll(shift, (1, 2)) for shift in itertools.product((-1, 0, 1), repeat=2)]
        self.assertLess(min((image - self.scan).abs().mean() for image in shifted), most)

    def assertAllSame(self, most=8, **photos):
        for name, sheet in photos.items():
            with self.subTest(name):
                self.assertSame(picture(sheet), most=most)

    def test_scan_has_mnists_form(self):
        self.assertEqual((self.scan.shape, self.scan.dtype), ((1, 28, 28), torch.uint8))
        self.assertEqual(self.scan.max(), 255)
        rows, columns = self.scan[0].numpy().nonzero()
        self.assertEqual((np.ptp(rows) + 1, np.ptp(columns) + 1), (20, 15))
        for place in digits.centre_of_mass(self.scan[0].numpy()):
            self.assertAlmostEqual(place, 14.5, delta=0.6)

    def test_light(self):
        self.assertAllSame(gradient=photo() * (1 - 0.7 * (X + Y) / 2), shadow=photo() * SHADOW,
                           corners=photo() * (1 - 0.3 * ((2 * X - 1) ** 2 + (2 * Y - 1) ** 2)),
                           pencil=photo(ink=(120, 120, 120)) * np.where(X + 0.5 * Y < 0.9, 1, 0.45))

    def test_edges(self):
        row, frame = photo(), photo()
        row[0] = frame[[0, -1]] = frame[:, [0, -1]] = 0
        tight = photo()[150:423, 290:488]
        tight[50:66, 100:116] = INK  # a speck
        thing = [(slice(330, None), slice(700, 740), INK)]  # with more ink than a small 5
        self.assertAllSame(desk=desk(photo()), pencil=desk(photo(ink=(165, 165, 165))), row=row,
                           frame=frame, tight=tight, touching=photo(top=327),
                           black=np.where(X < 0.05, 0, photo() * SHADOW),
                           thing=photo(height=120, marks=thing),
                           wedge=np.where(X + 0.12 * Y < 0.08, DESK, photo(height=90)))

    def test_dirt(self):
        grain = np.random.default_rng(0).normal(0, 15, (600, 800, 1))
        self.assertAllSame(4, grain=photo() + grain, ruled=photo(marks=RULED),
                           margin=photo(marks=MARGIN), specks=photo(marks=SPECKS),
                           second=photo(marks=SECOND))
        self.assertAllSame(page=desk(photo(marks=RULED) * SHADOW))

    def test_sizes(self):
        small = picture(photo()).resize((120, 90))
        self.assertSame(ImageOps.expand(small, (700, 900, 600, 300), PAPER))
        self.assertSame(small)
        self.assertAllSame(thin=photo(pen=0.04), close=photo(top=3, height=590, left=150))

    def test_strokes_get_mnists_width(self):
        for width, expected in ((8, 16), (20, 20), (40, 32)):  # towards 16 to 24, its ends count
            bar = Image.new("L", (160, 160))
            ImageDraw.Draw(bar).rectangle((0, 60, 159, 59 + width), 255)
            adjusted = np.array(own_digit.adjust_strokes(bar))
            self.assertAlmostEqual(np.count_nonzero(adjusted[:, 100]), expected, delta=3)

    def test_colours(self):
        self.assertAllSame(1, light_on_dark=photo(INK, PAPER), blue=photo(ink=(60, 90, 200)),
                           board=photo((50, 70, 60), (215, 215, 205)) * (1 - 0.5 * X),
                           equal_brightness=photo((160, 205, 160), (255, 160, 177)))

    def test_files(self):
        image = picture(photo())
        turned = Image.Exif()
        turned[0x0112] = 6  # turn it a quarter to the right
        transparent = Image.new("RGBA", image.size)
        transparent.paste(INK, mask=ImageOps.invert(image.convert("L")))
        deep = Image.fromarray(np.array(image.convert("L")).astype(np.uint16) * 250)
        for kind, name, options in (
                (image.rotate(90, expand=True), "turned.jpg", {"exif": turned}),
                (transparent, "transparent.png", {}), (image.quantize(16), "palette.png", {}),
                (image.convert("1"), "1bit.png", {}), (deep, "16bit.png", {}),
                (image.convert("CMYK"), "cmyk.jpg", {}), (image, "animated.gif", {
                    "save_all": True, "append_images": [ImageOps.mirror(image)]})):
            with self.subTest(name):
                self.assertSame(kind, name, most=1, **options)

    # --- The command ---

    def run_command(self, *arguments):
        """own_digit.main() in self.folder: returns what it exits with, and its stdout."""
        with contextlib.redirect_stdout(io.StringIO()) as out, \
                contextlib.redirect_stderr(io.StringIO()):
            try:
                own_digit.main(arguments)
            except SystemExit as stop:
                return stop.code, out.getvalue()
        return 0, out.getvalue()

    def assertFails(self, name, words):
        """The command with the file `name` ends with one line with the name and the words."""
        line = self.run_command(name)[0]
        self.assertRegex(line, rf"\Aown_digit.py: error: .*{name}.*{words}.*\Z")

    def save_model(self, *flags):
        self.without_figures()
        self.assertEqual(self.run_main(*flags, hidden_dims=12)[0], 0)

    def test_command(self):
        picture(photo()).save("my_digit.jpg")
        before = (self.folder / "my_digit.jpg").read_bytes()
        self.put(self.raw, self.files)
        self.save_model()
        code, out = self.run_command("my_digit.jpg")
        self.assertEqual(code, 0)
        answers = re.findall(r"^ +\d+ +([01]\.\d{4})  (yes|no)$", out, re.M)
        self.assertEqual(len(answers), 12)
        self.assertTrue(all((float(number) > 0.5) == (word == "yes") for number, word in answers))
        self.assertIn("my_digit_reconstructed.png", out)
        with Image.open("my_digit_reconstructed.png") as figure:
            figure.verify()
        self.assertEqual((self.folder / "my_digit.jpg").read_bytes(), before)
        self.assertEqual(self.run_command("my_digit.jpg", "--modell=x")[0], 2)

    def test_missing_model(self):
        problem = "^own_digit.py: error: figures.trained.model.pt does not exist: run codelet7.py"
        self.assertRegex(self.run_command("scan.png")[0], problem)
        self.save_model("--dataset=standin")
        standin = os.path.join("figures", "standin", "trained", "model.pt")
        self.assertRegex(self.run_command("scan.png")[0],
                         f"{problem}.*--model {re.escape(standin)}")
        self.assertEqual(self.run_command("scan.png", "--model", standin)[0], 0)

    def test_failures(self):
        self.enterContext(mock.patch.object(own_digit, "load_model"))
        whole = (self.folder / "scan.png").read_bytes()
        self.put(self.folder, {"cut.png": whole[:len(whole) // 2], "photo.heic": b"\0\0\0\x18ftyp"})
        for name in ("cut.png", "photo.heic"):
            self.assertFails(name, "save it as JPEG or PNG")
        self.assertFails("missing.jpg", "")
        empty = photo(top=600)  # below the sheet
        for sheet in (empty, desk(empty), empty * (1 - 0.7 * X), empty * SHADOW,
                      desk(empty * SHADOW), photo(top=600, marks=RULED + MARGIN),
                      photo(top=600, marks=SPECKS), photo(top=600, marks=RULE),
                      photo(top=600, marks=BLOT)):
            picture(sheet).save("empty.png")
            self.assertFails("empty.png", "shows no digit: photograph a single digit")
        with mock.patch.object(Image, "MAX_IMAGE_PIXELS", 100):
            self.assertFails("scan.png", "save a smaller copy")


def example():
    """The README's photo: lined paper on a desk, tilted, in uneven light and a soft shadow."""
    sheet = desk(photo(ink=(35, 48, 120), height=210, pen=0.055, top=190, left=340, marks=RULED))
    light = (1 - 0.25 * Y) * (1 - 0.5 * np.clip(9 * (X + 0.6 * Y - 0.85), 0, 1))
    grain = np.random.default_rng(0).normal(0, 4, sheet.shape)
    tilted = picture(sheet * light + grain).rotate(5, Image.Resampling.BICUBIC, fillcolor=DESK)
    return tilted.crop((20, 60, 720, 540))


if __name__ == "__main__":
    example().save(ROOT / "extras" / "example_digit.jpg", quality=75)
