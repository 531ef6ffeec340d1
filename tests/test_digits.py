"""Where the digits come from: MNIST on disk or from a network, the stand-in, one's own picture."""

import contextlib
import functools
import http.server
import io
import itertools
import socket
import threading
import unittest
import urllib.error
from unittest import mock

import torch
from PIL import Image, ImageChops, ImageDraw, ImageOps
from torchvision.datasets import MNIST

import codelet7
import digits
from tests import TestCase, draw_few


class MnistFiles(TestCase):
    def load(self, dataset="auto"):
        """The digits that load_data() finds, and what it says on stderr; on stdout, nothing."""
        with contextlib.redirect_stderr(io.StringIO()) as err, \
                contextlib.redirect_stdout(io.StringIO()) as out:
            data = codelet7.load_data(dataset, self.folder / "data")
        self.assertEqual(out.getvalue(), "")
        return data, err.getvalue()

    def assertFound(self):
        data, err = self.load()
        self.assertEqual(data.name, "MNIST", err)
        for ours, drawn in zip(data[1:], draw_few()[1:]):
            self.assertTrue(torch.equal(ours, drawn))

    def assertRefused(self, *words):
        """load_data() raises DataError with these words, and leaves every file as it was."""
        before = self.on_disk()
        for dataset in ("auto", "mnist"):
            with self.assertRaises(digits.DataError) as caught:
                self.load(dataset)
            for word in words:
                self.assertIn(str(word), str(caught.exception))
        self.assertEqual(self.on_disk(), before)

    def serve(self, files):
        """Let the mirror of the downloads that follow hold these files."""
        self.put(self.mirror, files)
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=self.mirror)
        self.enterContext(mock.patch.object(handler.func, "log_message"))
        server = self.enterContext(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=server.serve_forever).start()
        self.addCleanup(server.shutdown)
        mirror = f"http://127.0.0.1:{server.server_port}/"
        self.enterContext(mock.patch.object(MNIST, "mirrors", [mirror]))

    def on_disk(self):
        folder = self.folder / "data"
        return {path.relative_to(folder): path.is_file() and path.read_bytes()
                for path in folder.rglob("*")}

    def test_unpacked_packed_or_mixed_no_network_and_no_write_is_needed(self):
        names = list(self.files)
        mixed = {name: self.files[name] for name in names[:2]} \
            | {f"{name}.gz": self.archives[f"{name}.gz"] for name in names[2:]}
        for files in (self.files, self.archives, mixed, self.files | self.archives):
            with contextlib.suppress(FileNotFoundError):
                for path in self.raw.iterdir():
                    path.unlink()
            self.put(self.raw, files)
            before = self.on_disk()
            self.assertFound()
            self.assertEqual(self.on_disk(), before)

    def test_files_that_hold_something_else_are_refused_by_their_path(self):
        name = "t10k-images-idx3-ubyte"
        for file, data in ((name, self.files[name][:-1]), (name, b""),
                           (name, self.files["train-images-idx3-ubyte"]),
                           (f"{name}.gz", self.archives[f"{name}.gz"][:-9]),
                           (f"{name}.gz", self.files[name])):
            for others in ({}, self.files, self.archives):
                self.put(self.raw, others | {file: data})
                self.assertRefused(self.raw / file, "Move it away")
                for path in self.raw.iterdir():
                    path.unlink()
        (self.raw / name).mkdir()
        self.assertRefused(self.raw / name)

    def test_none_and_no_network_is_said_with_where_the_files_belong(self):
        data, err = self.load()
        self.assertIs(data, draw_few())
        for word in (str(self.raw), *self.files, "stand-in"):
            self.assertIn(word, err)
        self.assertFails(1, [str(self.raw), *self.files], "--dataset=mnist")
        self.assertFalse((self.folder / "data").exists())

    def test_an_incomplete_set_that_cannot_be_completed_names_what_is_missing(self):
        *some, missing = self.files
        self.put(self.raw, {name: self.files[name] for name in some})
        self.assertRefused(self.raw / missing, "is missing")

    def test_what_an_old_torchvision_left_is_not_read(self):
        self.put(self.raw, self.files)
        processed = self.raw.parent / "processed"
        processed.mkdir()
        for name in ("training.pt", "test.pt"):
            torch.save((torch.zeros(7, 28, 28), torch.zeros(7)), processed / name)
        self.assertFound()

    def test_a_download_brings_what_is_missing_and_overwrites_nothing(self):
        self.serve(self.archives)
        some = dict(list(self.files.items())[:2])
        self.put(self.raw, some)
        stamps = [(self.raw / name).stat().st_mtime_ns for name in some]
        self.assertFound()
        self.assertEqual({path.name: path.read_bytes() for path in self.raw.iterdir()}, self.files)
        self.assertEqual([(self.raw / name).stat().st_mtime_ns for name in some], stamps)

    def test_a_download_that_fails_leaves_nothing_and_the_next_one_works(self):
        self.addCleanup(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(None)
        for error in (TimeoutError("timed out"), ConnectionResetError(104, "reset by peer"),
                      urllib.error.URLError("unreachable")):
            def fail(*args, **options):
                self.assertEqual(socket.getdefaulttimeout(), 10)
                raise error
            with mock.patch("urllib.request.urlopen", fail), \
                    mock.patch.object(MNIST, "mirrors", ["https://localhost/"]):
                self.assertIs(self.load()[0], draw_few())
            self.assertIsNone(socket.getdefaulttimeout())
        page = {name: b"<html>Log in</html>" for name in self.archives}
        cut = self.archives | {"t10k-labels-idx1-ubyte.gz": b"\x1f\x8b"}  # the last of the four
        for served in (page, cut):
            self.serve(served)
            self.assertIs(self.load()[0], draw_few())
            self.assertFalse((self.folder / "data").exists())
        self.serve(self.archives)
        self.assertFound()

    def test_a_disk_error_stops(self):
        self.serve(self.archives)
        self.put(self.folder, {"data": b"a file"})
        self.assertFails(1, [str(self.folder / "data")])
        self.assertEqual((self.folder / "data").read_bytes(), b"a file")


class Standin(unittest.TestCase):
    def test_the_format_is_mnists_and_the_images_always_the_same(self):
        state = torch.get_rng_state()
        data, again = (digits.draw_standin(train=3000, test=500) for _ in range(2))
        self.assertTrue(torch.equal(torch.get_rng_state(), state))  # pictures draw nothing from it
        self.assertEqual((data.images.shape, data.images.dtype), ((3000, 28, 28), torch.uint8))
        self.assertEqual((data.test_labels.shape, data.labels.dtype), ((500,), torch.int64))
        self.assertTrue((data.labels.bincount() > 200).all())
        self.assertTrue(all(torch.equal(*pair) for pair in zip(data[1:], again[1:])))
        self.assertEqual(data.images[:, 0].max(), 0)  # inside the frame
        for image in data.images[:200].numpy():
            for place in digits.centre_of_mass(image):
                self.assertAlmostEqual(place, 14.5, delta=0.4)


class OnesOwnPicture(TestCase):
    def setUp(self):
        super().setUp()
        self.image = draw_few().images[3]  # its ink is less than 20 pixels high and wide
        rows, columns = (self.image.amax(axis).nonzero().flatten() for axis in (1, 0))
        ink = Image.fromarray(self.image.numpy()).crop(
            (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
        self.large = ImageOps.pad(ink.resize((ink.width * 20, ink.height * 20)), (460, 440))

    def read(self, picture, name="mine.png", **options):
        picture.save(self.folder / name, **options)
        return digits.from_picture(self.folder / name)

    def test_any_picture_of_it_gives_the_same_digit_as_mnist_has_it(self):
        expected = self.read(self.large)
        self.assertEqual((expected.shape, expected.dtype), ((1, 28, 28), torch.uint8))
        rows, columns = (expected[0].amax(axis).nonzero().flatten() for axis in (1, 0))
        self.assertEqual(max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1, 20)
        self.assertEqual(expected.max(), 255)
        for place in digits.centre_of_mass(expected[0].numpy()):
            self.assertAlmostEqual(place, 14.5, delta=0.6)
        dark_on_light = ImageOps.invert(self.large)
        on_glass = Image.new("RGBA", self.large.size)  # transparent
        on_glass.paste("black", mask=self.large)
        shadow = Image.linear_gradient("L").resize(self.large.size).point(lambda grey: grey * 0.4)
        turned = Image.Exif()
        turned[0x0112] = 6  # the camera was held upright: turn it a quarter to the right
        for picture, name, options in (
                (dark_on_light, "a.png", {}), (dark_on_light.convert("RGB"), "b.jpg", {}),
                (dark_on_light.resize((230, 220)), "c.png", {}), (on_glass, "d.png", {}),
                (ImageOps.expand(dark_on_light, (0, 90, 200, 0), "white"), "e.png", {}),
                (dark_on_light.point(lambda grey: 60 + grey // 2), "f.png", {}),  # a pale photo
                (ImageChops.subtract(dark_on_light, shadow), "h.png", {}),
                (dark_on_light.rotate(90, expand=True), "g.jpg", {"exif": turned})):
            with self.subTest(name):
                image = self.read(picture, name, **options).float()
                differences = [(image.roll(shift, (1, 2)) - expected).abs().mean()  # it may have
                               for shift in itertools.product((-1, 0, 1), repeat=2)]  # been rounded
                self.assertLess(min(differences), 6)
                self.assertLess(abs((image > 0).sum() - (expected > 0).sum()), 30)

    def test_a_thin_stroke_is_as_bright_as_mnists(self):
        for end in (300, 100):
            picture = Image.new("L", (600, 600))
            ImageDraw.Draw(picture).line((100, 100, end, 500), fill=255, width=5)
            self.assertEqual(self.read(picture).max(), 255)

    def test_a_picture_without_ink_is_refused(self):
        with self.assertRaisesRegex(digits.DataError, "mine.png shows no digit"):
            self.read(Image.new("L", (50, 50), 200))
