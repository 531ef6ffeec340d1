"""Your own digit: photos of every kind, rendered here, are read like a clean scan."""

import contextlib
import io
import os
import re
import runpy
import sys
import warnings
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

import codelet7
import digits
import utils
from extras import example_digit, own_digit
from extras.example_digit import DESK, INK, LINE, PAPER, RULED, STROKES, X, Y, desk, photo, picture
from tests import TestCase

PENCIL = (120, 120, 120)
MARGIN = [(slice(None), slice(240, 244), (220, 60, 70))]
SPECKS = [(slice(y, y + 12), slice(x, x + 12), INK) for y in (110, 500) for x in (90, 400, 700)]
SHADOW = np.where(X + 0.5 * Y < 0.7, 1, 0.45)
NINE = np.divide([(19, 8), (15, 3), (12, 3), (8, 8), (12, 16), (15, 16), (19, 8), (19, 25)], 28)


def drawing(paper, *lines, size=28):
    """Lines, (colour, width, points between 0 and 1), on a square of paper: an 8-bit PIL image."""
    image = Image.new("L", (size, size), paper)
    for colour, width, points in lines:
        points = (size * np.array(points)).round().ravel().tolist()
        ImageDraw.Draw(image).line(points, colour, width, "curve")
    return image


class OwnDigit(TestCase):
    def setUp(self):
        super().setUp()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        self.scan = self.read(picture(photo()))

    def read(self, image, name="scan.png", **options):
        image.save(name, **options)
        image, _, self.box, self.alone = own_digit.read_digit(name)
        return image

    def assertSame(self, image, name="same.png", most=8, alone=True, **options):
        """The image is read like the scan, give or take one pixel of position and, on average,
        `most` of the 255 grey levels at the outline. If `alone`, there is no second digit."""
        image = self.read(image, name, **options).float()
        shifted = [image.roll((y, x), (1, 2)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        self.assertLess(min((image - self.scan).abs().mean() for image in shifted), most, name)
        self.assertEqual(self.alone, alone, name)

    def assertBox(self, image, *box):
        self.read(image)
        np.testing.assert_allclose(self.box, box, atol=2.5)

    def assertAllSame(self, most=8, **photos):
        for name, sheet in photos.items():
            self.assertSame(picture(sheet), f"{name}.png", most)

    def test_scan_has_mnists_form(self):
        self.assertEqual((self.scan.shape, self.scan.dtype, self.scan.max()),
                         ((1, 28, 28), torch.uint8, 255))
        rows, columns = self.scan[0].numpy().nonzero()
        self.assertEqual((np.ptp(rows) + 1, np.ptp(columns) + 1), (20, 15))
        np.testing.assert_allclose(digits.centre_of_mass(self.scan[0].numpy()), 14.5, atol=0.6)

    def test_uneven_light_and_ink_change_nothing(self):
        self.assertAllSame(fading=PAPER + (photo() - PAPER) * (1.1 - Y),
                           gradient=photo() * (1 - 0.7 * (X + Y) / 2), shadow=photo() * SHADOW,
                           corners=photo() * (1 - 0.3 * ((2 * X - 1) ** 2 + (2 * Y - 1) ** 2)),
                           pencil=photo(ink=PENCIL) * np.where(X + 0.5 * Y < 0.9, 1, 0.45),
                           page=desk(photo(marks=RULED) * SHADOW))

    def test_what_lies_at_the_border_changes_nothing(self):
        tight = photo()[150:423, 290:488]
        tight[50:66, 100:116] = INK  # a speck
        self.assertAllSame(desk=desk(photo()), pencil=desk(photo(ink=(165, 165, 165))),
                           row=np.where(Y == 0, 0, photo()), tight=tight, touching=photo(top=327),
                           black=np.where(X < 0.05, 0, photo() * SHADOW),
                           thing=photo(height=90, marks=[(slice(330, None), slice(700, 740), INK)]),
                           wedge=np.where(X + 0.12 * Y < 0.08, DESK, photo(height=90)))
        four = (40, 70, [(.13, 0), (.1, .4), (.63, .4)]), (40, 70, [(.57, 0), (.53, 1)])  # bold
        self.assertBox(drawing(235, *four, size=300).crop((0, 0, 220, 300)), 0, 0, 207, 300)
        self.assertBox(drawing(45, (215, 1, [*NINE, (.68, 1)] * np.array((1.1, 1)))), 9, 3, 22, 28)

    def test_lines_and_specks_are_not_read(self):
        grain = np.random.default_rng(0).normal(0, 15, (600, 800, 1))
        self.assertAllSame(4, grain=photo() + grain, ruled=photo(marks=RULED),
                           margin=photo(marks=MARGIN), specks=photo(marks=SPECKS),
                           second=photo(marks=[(slice(200, 360), slice(570, 600), INK)]),  # a 1
                           gap=np.where((abs(X - 0.47) < 0.01) & (Y < 0.32), PAPER, photo()))

    def test_digits_of_any_size_are_found(self):
        small = picture(photo()).resize((120, 90))
        self.assertSame(ImageOps.expand(small, (700, 900, 600, 300), PAPER))
        self.assertSame(small)
        self.assertAllSame(thin=photo(pen=0.04), close=photo(top=3, height=590, left=150))
        specks = np.kron(np.random.default_rng(0).random((200, 267)) < 0.05, np.ones((3, 3), bool))
        self.scan = self.read(picture(photo(pen=0.25)))
        self.assertAllSame(specks=np.where(specks[:, :800, None], PAPER, photo(pen=0.25)))

    def test_strokes_of_one_pixel_hold_together(self):
        lines = [(0, 1, 0.15 + 0.7 * np.subtract(*pair)) for pair in zip(STROKES, (0, (0.05, 0)))]
        for size in (28, 300, 600):
            self.assertSame(drawing(255, *lines, size=size), f"{size}.png", most=18)  # thinner

    def test_dark_borders_and_frames_are_not_read(self):
        for width in range(1, 41, 13):
            both, one, none = (width, width), (width, 0), (0, 0)
            self.assertAllSame(black=np.pad(photo(), [both, both, none]),
                               pencil=np.pad(photo(ink=PENCIL), [both, both, none]),
                               three=np.pad(photo(), [one, both, none]),
                               two=np.pad(photo(), [one, one, none], constant_values=110))
        box = [(slice(100, 480), slice(200, 580), INK), (slice(105, 475), slice(205, 575), PAPER)]
        self.assertAllSame(box=photo(marks=box), pencil=photo(ink=PENCIL, marks=box))
        self.assertBox(drawing(62, (90, 1, [(.46, .25), (.46, .43)]), (215, 1, NINE)), 8, 3, 20, 26)
        self.assertBox(drawing(255, (0, 40, NINE), (255, 30, NINE), size=300), 66, 11, 225, 270)

    def test_what_is_not_read_is_said(self):
        for height, pen in ((170, 0.1), (215, 0.03)):  # more than a third of the ink, or tall
            pair = np.where(X < 0.35, photo(height=height, pen=pen, left=80), photo())
            self.assertSame(picture(pair), "pair.png", alone=False)
        self.save_model()
        picture(photo(top=400)).save("cut.png")
        example_digit.example().save("lined.png")
        for name, said in (("pair", ".* another.*\n"), ("cut", ".* cut off.*\n"), ("lined", "")):
            self.assertRegex(self.run_command(f"{name}.png")[1], f"^{said}$")
        for other in ([(.5, .5), (.8, .5)], [(.37, 0), (.37, .45)]):  # one of them is at the border
            self.read(drawing(255, (0, 1, [(.3, .3), (.3, .9)]), (0, 1, other)))
            self.assertFalse(self.alone)

    def test_ink_may_have_any_colour(self):
        self.assertAllSame(1, light_on_dark=photo(INK, PAPER), blue=photo(ink=(60, 90, 200)),
                           board=photo((50, 70, 60), (215, 215, 205)) * (1 - 0.5 * X),
                           equal_brightness=photo((160, 205, 160), (255, 160, 177)),
                           pale=photo((255,) * 3, (200,) * 3),
                           two=photo(ink=np.where(Y < 0.5, (220, 9, 9), (9, 9, 220))[150:422, :1]))
        self.assertBox(ImageOps.expand(ImageOps.expand(drawing(255), 6, 190), 9, 255), 9, 9, 49, 49)

    def test_any_file_that_pillow_opens(self):
        image = picture(photo())
        turned = Image.Exif()
        turned[0x0112] = 6  # turn it a quarter to the right
        turned[0x010F] = "the camera's maker"
        dark, light = (picture(np.dstack([photo(0, ink), photo(0, 255)[..., 0]]))
                       for ink in (INK, 255))  # on transparency
        deep = np.array(image.convert("L")).astype(np.uint16) * 250
        real = np.where(Y[..., 0] == 0, np.nan, 5.8e4 - deep).astype(np.float32)
        for name, kind in {
                "dark.png": dark, "light.png": light, "palette.png": image.quantize(16),
                "1bit.png": image.convert("1"), "16bit.png": Image.fromarray(deep),
                "real.tif": Image.fromarray(real), "cmyk.jpg": image.convert("CMYK")}.items():
            self.assertSame(kind, name, most=1)
        self.assertSame(image, "animated.gif", most=1, save_all=True, append_images=[dark])
        # The second one stores a resolution as text, which PIL cannot write again:
        for exif in (turned, turned.tobytes().replace(b"\x01\x0f\0\2", b"\x01\x1a\0\2")):
            self.assertSame(image.rotate(90, expand=True), "turned.jpg", most=1, exif=exif)

    # --- The command ---

    def run_command(self, *arguments):
        """own_digit.main() in self.folder: returns its stdout and stderr."""
        with contextlib.redirect_stdout(io.StringIO()) as out, \
                contextlib.redirect_stderr(io.StringIO()) as err:
            own_digit.main(arguments)
        return out.getvalue(), err.getvalue()

    def assertRefused(self, words, name="scan.png"):
        """The command ends with one line, an error message that matches the words."""
        with self.assertRaisesRegex(SystemExit, f"^own_digit.py: error: .*{words}.*$"):
            own_digit.main([name])

    def save_model(self, *flags):
        self.without_figures()
        self.put(self.raw, self.files)
        self.assertEqual(self.run_main(*flags, hidden_dims=12)[0], 0)

    def test_command_prints_answers_and_saves_a_figure(self):
        # A letter that the font lacks and, where it is allowed, one that is not UTF-8:
        name = "my_digit \u6570" + "\udcff" * (sys.platform == "linux")
        x = codelet7.normalize(self.read(picture(photo()), f"{name}.jpg"))
        self.save_model()
        save = self.enterContext(mock.patch.object(utils, "save", wraps=utils.save))
        with warnings.catch_warnings(), mock.patch.object(Image, "MAX_IMAGE_PIXELS", 300_000):
            warnings.simplefilter("error")  # no warning of many pixels or missing letters
            out, err = self.run_command(f"{name}.jpg")
        self.assertEqual(err, "")
        hidden, reconstruction = codelet7.load_model("figures/trained/model.pt")(x)
        self.assertEqual(re.findall(r"^ +\d+ +([01]\.\d{4})  (yes|no)$", out, re.M), [
            (f"{value:.4f}", "yes" if value > 0.5 else "no") for value in hidden[0].tolist()])
        axes = save.call_args.args[0].axes
        np.testing.assert_allclose(axes[0].lines[0].get_xydata()[[0, 2]].ravel(), self.box)
        np.testing.assert_array_equal([axes.images[0].get_array().ravel() for axes in axes[1:]],
                                      utils.to_grey(torch.cat([x.flatten(1), reconstruction])))
        Image.open(re.search("^Figure: (my_digit.*)$", out, re.M)[1]).close()
        full = mock.Mock(**{"flush.side_effect": OSError(28, "No space left on device")})
        with contextlib.redirect_stdout(full):
            self.assertRefused("No space left")

    def test_command_in_a_notebook(self):
        self.save_model()
        self.enterContext(mock.patch.object(sys, "argv", ["own_digit.py", "scan.png"]))
        with contextlib.redirect_stdout(io.StringIO()) as out:  # which cannot be reconfigured
            runpy.run_path(own_digit.__file__, run_name="__main__")
        self.assertIn("scan_reconstructed.png", out.getvalue())
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
            own_digit.main()  # sys.argv holds the kernel's arguments

    def test_missing_model_is_said(self):
        problem = "figures.trained.model.pt does not exist: run codelet7.py to train a model"
        self.assertRefused(f"{problem}$")
        self.save_model("--dataset=standin")
        standin = os.path.join("figures", "standin", "trained", "model.pt")
        self.assertRefused(f"{problem}.*--model {re.escape(standin)}")
        self.run_command("scan.png", "--model", standin)

    def test_what_is_no_digit_is_refused(self):
        self.save_model()
        whole = (self.folder / "scan.png").read_bytes()
        self.put(self.folder, {"cut.png": whole[:len(whole) // 2], "photo.heic": b"\0\0\0\x18ftyp"})
        for name in ("cut.png", "photo.heic"):
            self.assertRefused(f"{name}.*save a smaller copy as JPEG or PNG", name)
        with mock.patch.object(Image, "MAX_IMAGE_PIXELS", 100):
            self.assertRefused("scan.png.*too many pixels")
        self.assertRefused("missing.jpg", "missing.jpg")
        empty, framed, line, blot = (photo(top=600) for _ in range(4))  # below the sheet
        framed[:30] = framed[:, :30] = framed[:, -30:] = 0
        line[300:306] = blot[100:280, 200:480] = INK
        plot = photo(ink=PAPER, marks=[(slice(100, 500), slice(200, 600), DESK)])
        random = np.random.default_rng(0)
        noise = [random.integers(0, 256, (side, side, 3)) for side in (400, 100, *6 * [28])]
        noise += [random.integers(0, 16, (60, 60, 3)), random.normal(128, 50, (200, 300, 3)),
                  np.where(random.random((64, 64, 1)) < 0.1, PAPER, INK)]
        for sheet in (empty, desk(empty), empty * (1 - 0.7 * X), empty * SHADOW,
                      desk(empty * SHADOW), photo(top=600, marks=RULED + MARGIN),
                      photo(top=600, marks=SPECKS), framed, line, blot, plot, *noise,
                      np.where(X * 800 % 70 < 2, LINE, photo(top=600, marks=RULED))):
            picture(sheet).save("empty.png")
            self.assertRefused("empty.png shows no digit: photograph a single digit", "empty.png")
