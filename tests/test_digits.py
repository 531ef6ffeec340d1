"""Where the digits come from: MNIST on disk, damaged or whole, the network's ways to fail, the stand-in."""

import contextlib
import http.server
import io
import threading
import time
from unittest import mock

import torch
from torchvision.datasets import MNIST

import digits
from tests import TestCase, draw_few


class OnDisk(TestCase):
    def test_whole_files_are_used(self):
        self.write_mnist()
        data = digits.load("auto", self.folder / "data")
        self.assertEqual(data.name, "MNIST")
        for ours, drawn in zip(data[1:], draw_few()[1:]):
            self.assertTrue(torch.equal(ours, drawn))

    def test_the_sums_are_mnists_own(self):
        mock.patch.stopall()
        self.doCleanups()
        self.assertEqual(sorted(digits.MD5.values()), sorted([
            "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"]))

    def test_damaged_files_are_named_and_kept(self):
        raw = self.write_mnist()
        names = list(self.files)
        for name, other in zip(names, names[1:] + names[:1]):
            whole = self.files[name]
            for damage, data in {"empty": b"", "cut short": whole[:-1], "one byte changed": whole[:500] + b"\x5a" + whole[501:],
                                 "swapped": self.files[other], "a web page": b"<html>Sign in</html>"}.items():
                self.assertNotEqual(data, whole)
                (raw / name).write_bytes(data)
                for dataset in ("auto", "mnist"):
                    with self.subTest(name=name, damage=damage, dataset=dataset):
                        self.assertFails(1, [str(raw / name), "damaged", "run again"], "--dataset", dataset)
                        self.assertEqual((raw / name).read_bytes(), data)
            (raw / name).write_bytes(whole)

    def test_a_folder_in_a_files_place(self):
        raw = self.write_mnist()
        for name in self.files:
            (raw / name).unlink()
            (raw / name).mkdir()
            (raw / name / "mine").write_text("keep")
            self.assertFails(1, [str(raw / name), "not a file", "run again"])
            self.assertEqual((raw / name / "mine").read_text(), "keep")
            (raw / name / "mine").unlink()
            (raw / name).rmdir()
            (raw / name).write_bytes(self.files[name])

    def test_one_missing_file_and_no_network(self):
        raw = self.write_mnist()
        for name in self.files:
            (raw / name).unlink()
            for dataset in ("auto", "mnist"):
                self.assertFails(1, [str(raw / name), "missing", "Copy it there"], "--dataset", dataset)
            self.assertEqual(sorted(path.name for path in raw.iterdir()), sorted(set(self.files) - {name}))
            (raw / name).write_bytes(self.files[name])

    def test_no_files_and_no_network(self):
        self.assertFails(1, ["MNIST", *self.files], "--dataset", "mnist")
        with contextlib.redirect_stderr(io.StringIO()) as err:
            data = digits.load("auto", self.folder / "data")
        self.assertIn("stand-in", data.name)
        for words in ("no MNIST", "download failed", str(self.folder / "data" / "MNIST" / "raw"), *self.files):
            self.assertIn(words, err.getvalue())


class Server(http.server.BaseHTTPRequestHandler):
    """Serves self.server.archives, in the way that self.server.manner says."""

    def do_GET(self):
        body, manner = self.server.archives[self.path.lstrip("/")], self.server.manner
        if manner == "hangs":
            self.server.over.wait(20)
            return
        if manner == "web page":
            body = b"<html>Please sign in to the network</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if manner == "trickles":
            for start in range(0, len(body), 8192):  # slower than STALL_BYTES in STALL_SECONDS, but never still
                self.wfile.write(body[start:start + 8192])
                self.wfile.flush()
                if self.server.over.wait(0.1):
                    break
        elif manner == "breaks off":
            self.wfile.write(body[:len(body) // 2])
        elif manner == "stops halfway":
            self.wfile.write(body[:len(body) // 2])
            self.wfile.flush()
            self.server.over.wait(20)
        else:
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class Download(TestCase):
    def setUp(self):
        super().setUp()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
        self.server.daemon_threads, self.server.archives = True, self.archives
        self.server.manner, self.server.over = "works", threading.Event()
        self.server.handle_error = lambda *_: None  # clients that give up
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.addCleanup(self.server.over.set)
        self.enterContext(mock.patch.object(MNIST, "mirrors", [f"http://127.0.0.1:{self.server.server_port}/"]))
        self.root = self.folder / "data"
        self.raw = self.root / "MNIST" / "raw"

    def load(self, dataset="auto"):
        with contextlib.redirect_stderr(io.StringIO()) as err:
            return digits.load(dataset, self.root), err.getvalue()

    def assertDownloaded(self):
        data, _ = self.load()
        self.assertEqual(data.name, "MNIST")
        self.assertEqual({path.name: path.read_bytes() for path in self.raw.iterdir()}, self.files)
        self.assertEqual([path.name for path in self.root.iterdir()], ["MNIST"])

    def test_works(self):
        self.assertDownloaded()

    def test_only_what_is_missing_is_written(self):
        raw = self.write_mnist()
        (raw / "t10k-labels-idx1-ubyte").unlink()
        before = (raw / "train-images-idx3-ubyte").stat().st_ino
        self.assertDownloaded()
        self.assertEqual((raw / "train-images-idx3-ubyte").stat().st_ino, before)

    def test_archives_downloaded_by_hand_are_unpacked(self):
        self.raw.mkdir(parents=True)
        for name, data in self.archives.items():
            (self.raw / name).write_bytes(data)
        with mock.patch.object(MNIST, "mirrors", ["http://127.0.0.1:9/"]):
            self.assertEqual(self.load()[0].name, "MNIST")

    def test_failures_are_not_taken_for_mnist_and_the_next_run_recovers(self):
        for manner in ("web page", "breaks off"):
            with self.subTest(manner):
                self.server.manner = manner
                data, err = self.load()
                self.assertIn("stand-in", data.name)
                self.assertIn("download failed", err)
                with self.assertRaises(digits.DataError):
                    self.load("mnist")
                self.assertEqual(list(self.raw.iterdir()), [])
                self.server.manner = "works"
                self.assertDownloaded()
                for path in self.raw.iterdir():
                    path.unlink()

    def test_hangs_are_given_up(self):
        self.assertLess(digits.STALL_SECONDS, 30)
        for manner in ("hangs", "trickles", "stops halfway"):
            with self.subTest(manner), mock.patch.object(digits, "STALL_SECONDS", 0.5):
                self.server.manner = manner
                start = time.monotonic()
                data, err = self.load()
                self.assertLess(time.monotonic() - start, 10)  # the server would go on for 20 seconds
                self.assertIn("stand-in", data.name)
                self.assertIn("download hung", err)
                self.assertEqual(list(self.raw.iterdir()), [])
        self.server.manner = "works"
        self.assertDownloaded()


class StandIn(TestCase):
    def setUp(self):
        super().setUp()
        mock.patch.stopall()
        self.doCleanups()  # the real draw_standin, please
        self.data = digits.draw_standin(4000, 500)

    def test_has_mnists_format(self):
        train, labels, test, test_labels = self.data[1:]
        self.assertEqual((train.shape, train.dtype), ((4000, 28, 28), torch.uint8))
        self.assertEqual((test.shape, test_labels.shape, labels.dtype), ((500, 28, 28), (500,), torch.int64))
        self.assertEqual(sorted(set(labels.tolist())), list(range(10)))
        self.assertGreater(labels.bincount().min(), 300)
        self.assertEqual((train.min(), train.max()), (0, 255))

    def test_is_centred_and_sized_as_mnist_is(self):
        images = self.data.images.float()
        position = torch.arange(28.0)
        for axis in (1, 2):
            centre = (images.sum(axis) * position).sum(1) / images.sum((1, 2))
            self.assertLess((centre - 14).abs().max(), 0.75)  # MNIST's own lie within 0.5 or so
            self.assertAlmostEqual(centre.mean().item(), 14, delta=0.05)
        height = (images.amax(2) > 0).sum(1).float()
        self.assertAlmostEqual(height.mean().item(), 20, delta=2)
        self.assertAlmostEqual((images / 255).mean().item(), 0.1307, delta=0.02)

    def test_varies_and_repeats(self):
        again, other = digits.draw_standin(4000, 500), digits.draw_standin(4000, 500, seed=1)
        self.assertTrue(all(torch.equal(a, b) for a, b in zip(self.data[1:], again[1:])))
        self.assertFalse(torch.equal(self.data.images, other.images))
        self.assertGreater(len(torch.unique(self.data.images.flatten(1), dim=0)), 3990)

    def test_cannot_be_mistaken(self):
        self.assertIn("not MNIST", self.data.name)
        self.assertEqual(len(digits.draw_standin().images), 60_000)
