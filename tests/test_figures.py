"""What the figures hold, pixel by pixel, and how they are written."""

import contextlib
import io
import os
import threading
from unittest import mock

import matplotlib
import numpy as np
import torch
from PIL import Image
from torchvision.utils import make_grid

import codelet7
import utils
from tests import TestCase, draw_few


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


class Show(TestCase):
    def test_saves_without_a_display(self):
        with mock.patch.dict(os.environ, {"MPLBACKEND": "TkAgg"}), \
                mock.patch("matplotlib.pyplot.figure") as window:
            os.environ.pop("DISPLAY", None)
            utils.show(torch.zeros(3, 30, 30), self.folder / "new" / "grid.png", "A title")
        window.assert_not_called()
        self.assertEqual(pixels(self.folder / "new" / "grid.png").ndim, 3)

    def test_opens_a_window_without_a_path(self):
        with mock.patch("matplotlib.pyplot.show") as window, \
                mock.patch("matplotlib.pyplot.get_backend", return_value="TkAgg"):
            utils.show(torch.zeros(3, 30, 30), title="A title")
        window.assert_called_once_with()
        from matplotlib import pyplot
        self.assertEqual(pyplot.gcf().texts[0].get_text(), "A title")
        pyplot.close("all")

    def test_without_path_and_display_it_says_how_to_save(self):
        with mock.patch("matplotlib.pyplot.show") as window, \
                mock.patch("matplotlib.pyplot.get_backend", return_value="agg"), \
                contextlib.redirect_stderr(io.StringIO()) as err:
            utils.show(torch.zeros(3, 30, 30))
        window.assert_not_called()
        self.assertRegex(err.getvalue(), r"no display.*show\(grid, 'grid.png'\)")

    def drawn(self, grid):
        """The part of a saved figure that holds the grid, in screen pixels, and their zoom."""
        utils.show(grid, self.folder / "grid.png")
        image, (height, width) = pixels(self.folder / "grid.png"), grid.shape[1:]
        zoom = round(1200 / width)
        left = (image.shape[1] - width * zoom) // 2
        return image[20:20 + height * zoom, left:left + width * zoom], zoom

    def test_draws_sharp_pixels_on_the_stated_grey_scale(self):
        grid = torch.full((3, 62, 62), utils.PAPER)
        grid[:, 10:30, 20:50] = 1  # where tanh ends
        grid[:, 40:50, 20:50] = (utils.PAPER + 1) / 2
        grid[:, 0, :], grid[:, 1, :] = -50, utils.INK  # outside of the scale: black, white
        drawn, zoom = self.drawn(grid)
        expected = ((grid - utils.PAPER) / (1 - utils.PAPER)).clamp(0, 1).permute(1, 2, 0) * 255
        expected = np.kron(expected.numpy(), np.ones((zoom, zoom, 1)))
        self.assertLessEqual(np.abs(drawn - expected).max(), 1)

    def test_draws_8_bit_pixels_as_they_are(self):
        grid = torch.randint(256, (3, 60, 60), dtype=torch.uint8)
        drawn, zoom = self.drawn(grid)
        self.assertTrue((drawn[::zoom, ::zoom] == grid.permute(1, 2, 0).numpy()).all())

    def test_other_shapes_are_refused_with_the_right_one(self):
        for shape in [(0, 3, 3), (3, 0, 0), (64, 1, 28, 28), (28, 28), (2, 28, 28)]:
            with self.assertRaisesRegex(ValueError, r"\(1, H, W\) or \(3, H, W\)"):
                utils.show(torch.zeros(shape), self.folder / "grid.png")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_resolution_and_titles_that_fit(self):
        utils.show(torch.zeros(3, 302, 302), self.folder / "grid.png", "word " * 60)
        utils.save_losses([(0.8, 0.7)], self.folder, "word " * 60, {})
        for name in ("grid.png", "loss.png"):
            with Image.open(self.folder / name) as image:
                self.assertGreaterEqual(image.info["dpi"][0], 150)
            border = pixels(self.folder / name)
            for edge in (border[0], border[-1], border[:60, 0], border[:60, -1]):
                self.assertTrue((edge == 255).all(), f"a title runs off {name}")


    def test_a_title_has_no_line_of_one_word(self):
        title = "penalty weight 0.0001, learning rate 0.0001, batch size 64, epochs 20, seed 0."
        lines = utils.wrapped(title, len(title) - 1)
        self.assertEqual((len(lines), " ".join(lines)), (2, title))
        self.assertLess(abs(len(lines[0]) - len(lines[1])), 10)
        self.assertEqual((utils.wrapped("", 80), utils.wrapped("one", 80)), ([], ["one"]))


class Visualizations(TestCase):
    def setUp(self):
        super().setUp()
        self.data = draw_few()
        self.images = codelet7.normalize(self.data.images)
        torch.manual_seed(0)
        self.model = codelet7.SparseAutoencoder(784, 3)
        self.shown = {}
        self.enterContext(mock.patch.object(codelet7, "show", self.note))
        self.visualize()

    def note(self, grid, path, title):
        self.shown[path.name] = grid, title

    def visualize(self):
        codelet7.visualize(self.model, self.images, self.data.labels, self.folder, "Some digits.")

    def test_reconstruction_has_16_rows_of_inputs_beside_their_reconstructions(self):
        grid, title = self.shown["reconstruction.png"]
        _, reconstruction = self.model(self.images[:64])
        size, gap = 30, 3  # 28 pixels and a frame; between frames
        self.assertEqual(grid.shape, (3, 16 * (size + gap) + gap, 8 * (size + gap) + gap))
        for index in range(64):
            top, left = gap + index // 4 * (size + gap), gap + index % 4 * 2 * (size + gap)
            for offset, expected in ((0, self.images[index]),
                                     (size + gap, reconstruction[index].view(1, 28, 28))):
                tile = grid[:, top:top + size, left + offset:left + offset + size]
                torch.testing.assert_close(tile[:, 1:-1, 1:-1], expected.expand(3, -1, -1))
            input_frame, output_frame = grid[:, top, left], grid[:, top, left + size + gap]
            self.assertGreater((input_frame - output_frame).abs().max(), 0.5)
        self.assertIn("Some digits", title)

    def test_each_nodes_top_100_are_the_highest_of_all_strongest_first(self):
        with torch.no_grad():
            hidden, _ = self.model(self.images)
        for node in range(3):
            order = np.argsort(-hidden[:, node].numpy(), kind="stable")[:100]
            grid, title = self.shown[f"node_{node}.png"]
            self.assertEqual(grid.shape, (3, 10 * 30 + 2, 10 * 30 + 2))
            self.assertTrue(torch.equal(grid, make_grid(self.images[order], 10)))
            self.assertIn(f"activate node {node} most", title)
            stated, low = float(title.split("(by ")[1].split()[0]), hidden[order[-1], node].item()
            self.assertTrue(stated <= low < stated + 0.0011, title)

    def test_the_strongest_are_told_apart_although_single_precision_calls_them_equal(self):
        with torch.no_grad():
            self.model.encoder.bias.fill_(20)
            self.assertGreater((self.model(self.images)[0] == 1).sum(), 2000)
            order = self.model.encoder(self.images.flatten(1))[:, 0].argsort(descending=True)
        activation = codelet7.activations(self.model, self.images)[:, 0]
        top = codelet7.show_top_images(self.images, activation, 0, self.folder / "node_0.png", "")
        self.assertEqual(top.tolist(), order[:100].tolist())

    def test_equal_activations_keep_the_file_order(self):
        top = codelet7.show_top_images(self.images, torch.ones(1000), 0, self.folder / "x.png", "")
        self.assertEqual(top.tolist(), list(range(100)))

    def test_the_overview_gets_what_each_node_learned(self):
        with mock.patch.object(codelet7, "plot_nodes") as plot:
            self.visualize()
        encoder, decoder, hidden, target, _, _, tops, *_ = plot.call_args.args
        torch.testing.assert_close(hidden.float(), self.model(self.images)[0])
        self.assertTrue(torch.equal(encoder, self.model.encoder.weight))
        self.assertTrue(torch.equal(decoder, self.model.decoder.weight.t()))
        self.assertEqual(target, codelet7.RHO)
        for node, top in enumerate(tops):
            self.assertEqual(set(top.tolist()), set(hidden[:, node].topk(100).indices.tolist()))

    def test_figures_of_nodes_that_are_no_more_go_and_nothing_else(self):
        mine = {"node_3_mine.png", "node_x.png", "mine.png", "node_99.png", "node_007.png",
                "node_3.txt", "node_32.png"}
        for name in ("node_3.png", "node_31.png", *mine):
            (self.folder / name).write_text("old")
        self.visualize()
        self.assertEqual({path.name for path in self.folder.iterdir()}, {"nodes.png"} | mine)

    def test_very_many_nodes_draw_only_the_first(self):
        with mock.patch.object(codelet7, "MAX_NODE_FIGURES", 2):
            self.shown.clear()
            self.visualize()
        self.assertEqual(set(self.shown), {"reconstruction.png", "node_0.png", "node_1.png"})


class SameEverywhere(TestCase):
    """A figure drawn on another processor, or by somebody with another style, is the same file."""

    def setUp(self):
        super().setUp()
        self.data = draw_few()
        self.images = codelet7.normalize(self.data.images)
        torch.manual_seed(0)
        self.model = codelet7.SparseAutoencoder(784, 10)
        with contextlib.redirect_stdout(io.StringIO()):
            loader = codelet7.make_dataloader(self.images, self.data.labels, 64, 0)
            self.history = codelet7.train(self.model, loader, 3, 1e-2)

    def draw(self):
        """The bytes of each figure, drawn into the folder that holds them already or not yet."""
        codelet7.visualize(self.model, self.images, self.data.labels, self.folder, "Some digits.")
        utils.save_losses(self.history, self.folder, "Some digits.", {})
        return {path.name: path.read_bytes() for path in self.folder.glob("*.png")}

    def test_last_bits_of_weights_and_activations_do_not_show(self):
        def choices():
            hidden = codelet7.activations(self.model, self.images)
            return [hidden[:, node].sort(descending=True, stable=True).indices[:100].tolist()
                    for node in range(10)]

        generator = torch.Generator().manual_seed(1)

        def nearly(values):
            return values * (1 + 1e-6 * torch.randn(values.shape, generator=generator))

        before, chosen = self.draw(), choices()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(nearly(parameter))
        exact = codelet7.activations
        with mock.patch.object(codelet7, "activations", lambda *a: nearly(exact(*a)).clamp(0, 1)):
            changed = {f"node_{node}.png" for node, (old, new) in enumerate(zip(chosen, choices()))
                       if old != new}
            after = self.draw()
        self.assertEqual(set(before), set(after))
        if changed:
            changed.add("nodes.png")  # which has the mean of those images
        different = {name for name in before if before[name] != after[name]}
        self.assertLessEqual(different, changed)

    def test_bars_end_on_whole_pixels(self):
        shares = np.linspace(0, 1, 1001)
        pixels = utils.to_pixels(shares) * utils.ROW
        np.testing.assert_array_equal(pixels, pixels.round())
        self.assertLessEqual(np.abs(pixels - 0.75 * shares * utils.ROW).max(), 0.5 + 1e-9)

    def test_a_picture_that_is_another_is_written(self):
        before = self.draw()
        with torch.no_grad():
            self.model.decoder.weight.mul_(1.2)
        after = self.draw()
        different = {name for name in before if before[name] != after[name]}
        self.assertEqual(different, {"reconstruction.png", "nodes.png"})

    def test_a_damaged_file_is_written_anew(self):
        before = self.draw()
        for damage in (b"", before["nodes.png"][:5000], b"mine"):
            (self.folder / "nodes.png").write_bytes(damage)
            self.assertEqual(self.draw(), before)

    def test_the_users_own_style_changes_nothing(self):
        before = self.draw()
        for path in self.folder.glob("*.png"):
            path.unlink()
        with matplotlib.rc_context({"savefig.bbox": "tight", "font.size": 20, "figure.dpi": 50,
                                    "axes.facecolor": "yellow", "savefig.facecolor": "red",
                                    "figure.facecolor": "green", "savefig.dpi": 30}):
            self.assertEqual(self.draw(), before)


class Losses(TestCase):
    def test_csv_and_curve(self):
        utils.save_losses([(0.8, 0.7), (0.6, 0.55)], self.folder, "Some digits.", {1: 0.8029})
        self.assertEqual((self.folder / "losses.csv").read_text(),
                         "epoch,loss,mse,weighted_penalty\n"
                         "1,0.800000,0.700000,0.100000\n2,0.600000,0.550000,0.050000\n")
        self.assertEqual(pixels(self.folder / "loss.png").ndim, 3)

    def test_one_epoch_has_a_whole_number_and_both_losses_to_be_seen(self):
        with mock.patch.object(utils, "save") as save:
            utils.save_losses([(0.8051, 0.8024)], self.folder, "Some digits.", {})
        upper, lower = save.call_args.args[0].axes
        self.assertEqual([tick for tick in lower.get_xticks() if 0.5 <= tick <= 1.5], [1])
        self.assertEqual([line.get_marker() for line in upper.lines], ["o", "s"])


class Writing(TestCase):
    def test_a_failure_leaves_the_old_file_and_nothing_else(self):
        path = self.folder / "figure.png"
        path.write_bytes(b"old")
        for call in ("pathlib.Path.replace", "pathlib.Path.write_bytes"):
            for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
                with mock.patch(call, side_effect=error), self.assertRaises(type(error)) as caught:
                    utils.write_whole(path, b"new")
                if isinstance(error, OSError):
                    self.assertEqual(caught.exception.filename, str(path))
                self.assertEqual([(p.name, p.read_bytes()) for p in self.folder.iterdir()],
                                 [("figure.png", b"old")])

    def test_a_reader_never_sees_half_a_file(self):
        path, size = self.folder / "figure.png", 1 << 20
        utils.write_whole(path, b"0" * size)
        stop = threading.Event()

        def write(letter):
            while not stop.is_set():
                utils.write_whole(path, letter * size)

        writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"1", b"2")]
        for writer in writers:
            writer.start()
        try:
            for _ in range(300):
                data = path.read_bytes()
                self.assertEqual((len(data), len(set(data))), (size, 1))
        finally:
            stop.set()
            for writer in writers:
                writer.join()

    def test_a_full_disk_is_one_line_that_names_the_file(self):
        try:
            import resource
        except ImportError:
            self.skipTest("no file size limits on this system")
        self.write_mnist()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # past it: as on a full disk
        try:
            code, _, err = self.run_main("--epochs", "1")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        self.assertEqual((code, len(err.splitlines())), (1, 1), err)
        self.assertIn(str(self.folder / "figures" / "batch.png"), err)
        self.assertEqual([p for p in (self.folder / "figures").rglob("*") if p.is_file()], [])
