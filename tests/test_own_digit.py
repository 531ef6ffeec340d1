"""Your own digit: photos of every kind, rendered here, are read like a clean scan."""

import contextlib
import io
import itertools
import os
import re
import runpy
import sys
import time
import warnings
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

import codelet7
import digits
from extras import own_digit
from extras.example_digit import DESK, INK, PAPER, RULED, STROKES, X, Y, desk, photo, picture
from tests import TestCase

PENCIL = (120, 120, 120)
RULE = [(slice(300, 306), slice(None), INK)]
BLOT = [(slice(100, 280), slice(200, 380), INK)]
MARGIN = [(slice(None), slice(240, 244), (220, 60, 70))]
SPECKS = [(slice(y, y + 9), slice(x, x + 9), INK) for y in (60, 500) for x in (90, 400, 700)]
SECOND = [(slice(200, 360), slice(570, 600), INK)]  # a 1 beside the 5, and lower
SHADOW = np.where(X + 0.5 * Y < 0.7, 1, 0.45)


class OwnDigit(TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        self.scan = self.read(picture(photo()))

    def read(self, image, name="scan.png", **options):
        image.save(name, **options)
        return own_digit.read_digit(name)[0]

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

    def test_uneven_light_changes_nothing(self):
        self.assertAllSame(gradient=photo() * (1 - 0.7 * (X + Y) / 2), shadow=photo() * SHADOW,
                           corners=photo() * (1 - 0.3 * ((2 * X - 1) ** 2 + (2 * Y - 1) ** 2)),
                           pencil=photo(ink=PENCIL) * np.where(X + 0.5 * Y < 0.9, 1, 0.45))

    def test_what_lies_at_the_border_changes_nothing(self):
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
        four = Image.new("L", (220, 300), 235)  # more than half of it ink
        for points in ((40, 0, 30, 120, 190, 120), (170, 0, 160, 300)):
            ImageDraw.Draw(four).line(points, 40, 70, "curve")
        four.save("four.png")
        np.testing.assert_allclose(own_digit.read_digit("four.png")[2], (0, 0, 207, 300), atol=2)

    def test_lines_and_specks_are_not_read(self):
        grain = np.random.default_rng(0).normal(0, 15, (600, 800, 1))
        self.assertAllSame(4, grain=photo() + grain, ruled=photo(marks=RULED),
                           margin=photo(marks=MARGIN), specks=photo(marks=SPECKS),
                           second=photo(marks=SECOND))
        self.assertAllSame(page=desk(photo(marks=RULED) * SHADOW))

    def test_fading_ink_is_read_to_its_end(self):
        self.assertAllSame(fading=PAPER + (photo() - PAPER) * (1.1 - Y))

    def test_digits_of_any_size_are_found(self):
        small = picture(photo()).resize((120, 90))
        self.assertSame(ImageOps.expand(small, (700, 900, 600, 300), PAPER))
        self.assertSame(small)
        self.assertAllSame(thin=photo(pen=0.04), close=photo(top=3, height=590, left=150))

    def test_strokes_of_one_pixel_hold_together(self):
        for size in (28, 300, 600):
            drawing = Image.new("L", (size, size), 255)
            for points in np.array(STROKES[0]), np.array(STROKES[1]) - (0.05, 0):
                points = (size * (0.15 + 0.7 * points)).round()
                ImageDraw.Draw(drawing).line([*map(tuple, points)], 0)
            with self.subTest(size):
                self.assertSame(drawing, most=18)  # its strokes are thinner

    def test_dark_borders_and_frames_are_not_read(self):
        for width in range(1, 41, 13):
            left, right, top = X < width / 800, X > 1 - width / 800, Y < width / 600
            around = left | right | top | (Y > 1 - width / 600)
            self.assertAllSame(black=np.where(around, 0, photo()),
                               pencil=np.where(around, 0, photo(ink=PENCIL)),
                               three=np.where(left | right | top, 0, photo()),
                               two=np.where(left | top, 110, photo()))
        for ink in (INK, PENCIL):
            drawing = picture(photo(ink=ink))
            ImageDraw.Draw(drawing).rectangle((200, 100, 580, 480), None, INK, 5)
            self.assertSame(drawing)

    def test_second_digit_is_said(self):
        pair = photo(left=120)
        pair[:, 340:] = photo(left=340)[:, 340:]
        self.assertSame(picture(pair), "pair.png")
        self.save_model()
        self.assertRegex(self.run_command("pair.png")[2], "^own_digit.py: .* nearly as tall.*\n$")
        self.assertEqual(self.run_command("scan.png")[2], "")

    def test_long_lines_take_no_longer(self):
        turns = np.arange(0, 59, 0.05)
        spiral = 320 + (20 + 4.6 * turns) * [np.cos(turns), np.sin(turns)]
        drawing = Image.new("L", (640, 640), 20)
        ImageDraw.Draw(drawing).line([*map(tuple, spiral.T)], 225, 9)
        start = time.process_time()
        self.read(drawing)
        self.assertLess(time.process_time() - start, 1)  # 4 s if labels travel pixel by pixel

    def test_strokes_get_mnists_width(self):
        for width, expected in ((8, 16), (20, 20), (40, 32)):  # towards 16 to 24, its ends count
            bar = Image.new("L", (160, 160))
            ImageDraw.Draw(bar).rectangle((0, 60, 159, 59 + width), 255)
            adjusted = np.array(own_digit.adjust_strokes(bar))
            self.assertAlmostEqual(np.count_nonzero(adjusted[:, 100]), expected, delta=3)
        loop = Image.new("L", (160, 160))
        ImageDraw.Draw(loop).ellipse((70, 70, 88, 88), None, 255, 4)
        self.assertEqual(own_digit.adjust_strokes(loop).getpixel((99, 99)), 0)  # margin: 20

    def test_ink_may_have_any_colour(self):
        self.assertAllSame(1, light_on_dark=photo(INK, PAPER), blue=photo(ink=(60, 90, 200)),
                           board=photo((50, 70, 60), (215, 215, 205)) * (1 - 0.5 * X),
                           equal_brightness=photo((160, 205, 160), (255, 160, 177)))

    def test_any_file_that_pillow_opens(self):
        image = picture(photo())
        turned = Image.Exif()
        turned[0x0112] = 6  # turn it a quarter to the right
        turned[0x010F] = "a resolution stored as text"
        odd = turned.tobytes().replace(b"\x01\x0f\0\2", b"\x01\x1a\0\2")
        dark, light = Image.new("RGBA", image.size), Image.new("RGBA", image.size)
        for drawing, colour in ((dark, INK), (light, "white")):
            drawing.paste(colour, mask=ImageOps.invert(picture(photo(255, 0)).convert("L")))
        deep = Image.fromarray(np.array(image.convert("L")).astype(np.uint16) * 250)
        for kind, name, options in (
                (image.rotate(90, expand=True), "turned.jpg", {"exif": turned}),
                (image.rotate(90, expand=True), "odd.jpg", {"exif": odd}),
                (dark, "dark.png", {}), (light, "light.png", {}),
                (image.quantize(16), "palette.png", {}), (image.convert("1"), "1bit.png", {}),
                (deep, "16bit.png", {}), (image.convert("CMYK"), "cmyk.jpg", {}),
                (image, "animated.gif", {"save_all": True, "append_images": [dark]})):
            with self.subTest(name):
                self.assertSame(kind, name, most=1, **options)

    # --- The command ---

    def run_command(self, *arguments):
        """own_digit.main() in self.folder: returns what it exits with, its stdout and stderr."""
        with contextlib.redirect_stdout(io.StringIO()) as out, \
                contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                own_digit.main(arguments)
            except SystemExit as stop:
                return stop.code, out.getvalue(), err.getvalue()
        return 0, out.getvalue(), err.getvalue()

    def assertRefused(self, name, words):
        """The command with the file `name` ends with one line with the name and the words."""
        line = self.run_command(name)[0]
        self.assertRegex(line, rf"\Aown_digit.py: error: .*{name}.*{words}.*\Z")

    def save_model(self, *flags):
        self.without_figures()
        self.put(self.raw, self.files)
        self.assertEqual(self.run_main(*flags, hidden_dims=12)[0], 0)

    def test_command_prints_answers_and_saves_a_figure(self):
        odd = "\udcff" if sys.platform == "linux" else ""  # not UTF-8, which others do not allow
        name = f"my_digit \u6570{odd}"  # with a letter that the font lacks
        picture(photo()).save(f"{name}.jpg")
        before = (self.folder / f"{name}.jpg").read_bytes()
        self.save_model()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            code, out, err = self.run_command(f"{name}.jpg")
        self.assertEqual((code, err), (0, ""))
        answers = re.findall(r"^ +\d+ +([01]\.\d{4})  (yes|no)$", out, re.M)
        self.assertEqual(len(answers), 12)
        self.assertTrue(all((float(number) > 0.5) == (word == "yes") for number, word in answers))
        self.assertIn(f"{name}_reconstructed.png", out)
        Image.open(f"{name}_reconstructed.png").close()
        self.assertEqual((self.folder / f"{name}.jpg").read_bytes(), before)
        self.assertEqual(self.run_command("scan.png", "--modell=x")[0], 2)

    def test_command_in_a_notebook(self):
        self.save_model()
        self.enterContext(mock.patch.object(sys, "argv", ["own_digit.py", "scan.png"]))
        with contextlib.redirect_stdout(io.StringIO()) as out:  # which cannot be reconfigured
            runpy.run_path(own_digit.__file__, run_name="__main__")
        self.assertIn("scan_reconstructed.png", out.getvalue())
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
            own_digit.main()  # sys.argv holds the kernel's arguments

    def test_missing_model_is_said(self):
        problem = "^own_digit.py: error: figures.trained.model.pt does not exist: run codelet7.py"
        self.assertRegex(self.run_command("scan.png")[0], problem)
        self.save_model("--dataset=standin")
        standin = os.path.join("figures", "standin", "trained", "model.pt")
        self.assertRegex(self.run_command("scan.png")[0],
                         f"{problem}.*--model {re.escape(standin)}")
        self.assertEqual(self.run_command("scan.png", "--model", standin)[0], 0)

    def test_what_is_no_digit_is_refused(self):
        self.enterContext(mock.patch.object(codelet7, "load_model"))
        self.put(self.folder / "figures" / "trained", {"model.pt": b""})
        whole = (self.folder / "scan.png").read_bytes()
        self.put(self.folder, {"cut.png": whole[:len(whole) // 2], "photo.heic": b"\0\0\0\x18ftyp"})
        for name in ("cut.png", "photo.heic"):
            self.assertRefused(name, "save it as JPEG or PNG")
        self.assertRefused("missing.jpg", "")
        empty, framed = photo(top=600), photo(top=600)  # below the sheet
        framed[:30] = framed[:, :30] = framed[:, -30:] = 0
        noise = np.random.default_rng(0).integers(0, 16, (60, 60, 1)) * [1, 1, 1]
        for sheet in (empty, desk(empty), empty * (1 - 0.7 * X), empty * SHADOW,
                      desk(empty * SHADOW), photo(top=600, marks=RULED + MARGIN),
                      photo(top=600, marks=SPECKS), photo(top=600, marks=RULE),
                      photo(top=600, marks=BLOT), framed, noise):
            picture(sheet).save("empty.png")
            self.assertRefused("empty.png", "shows no digit: photograph a single digit")
        with mock.patch.object(Image, "MAX_IMAGE_PIXELS", 100):
            self.assertRefused("scan.png", "save a smaller copy")
