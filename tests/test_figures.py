"""What the figures hold, pixel by pixel, and how they are written."""

import os
import threading
from unittest import mock

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
        with mock.patch.dict(os.environ, {"MPLBACKEND": "TkAgg"}), mock.patch("matplotlib.pyplot.figure") as window:
            os.environ.pop("DISPLAY", None)
            utils.show(torch.zeros(3, 30, 30), self.folder / "new" / "grid.png", "A title")
        window.assert_not_called()
        self.assertEqual(pixels(self.folder / "new" / "grid.png").ndim, 3)

    def test_opens_a_window_without_a_path(self):
        with mock.patch("matplotlib.pyplot.show") as window:
            utils.show(torch.zeros(3, 30, 30), title="A title")
        window.assert_called_once_with()
        from matplotlib import pyplot
        self.assertEqual(pyplot.gcf().texts[0].get_text(), "A title")
        pyplot.close("all")

    def test_draws_sharp_pixels_on_the_stated_grey_scale(self):
        grid = torch.full((3, 62, 62), utils.BLACK)
        grid[:, 10:30, 20:50] = utils.WHITE
        grid[:, 40:50, 20:50] = (utils.BLACK + utils.WHITE) / 2
        grid[:, 0, :] = -50  # outside of the scale: drawn as black
        utils.show(grid, self.folder / "grid.png")
        image = pixels(self.folder / "grid.png")
        zoom = round(1200 / 62)
        left = (image.shape[1] - 62 * zoom) // 2
        drawn = image[20:20 + 62 * zoom, left:left + 62 * zoom]
        expected = ((grid - utils.BLACK) / (utils.WHITE - utils.BLACK)).clamp(0, 1).permute(1, 2, 0).numpy() * 255
        expected = np.kron(expected, np.ones((zoom, zoom, 1)))
        self.assertLessEqual(np.abs(drawn - expected).max(), 1)

    def test_resolution_and_titles_that_fit(self):
        utils.show(torch.zeros(3, 302, 302), self.folder / "grid.png", "word " * 60)
        with Image.open(self.folder / "grid.png") as image:
            self.assertGreaterEqual(image.info["dpi"][0], 150)
        border = pixels(self.folder / "grid.png")
        for edge in (border[0], border[-1], border[:60, 0], border[:60, -1]):
            self.assertTrue((edge == 255).all(), "a title runs off the figure")


class Visualizations(TestCase):
    def setUp(self):
        super().setUp()
        self.data = draw_few()
        self.images = codelet7.normalize(self.data.images)
        torch.manual_seed(0)
        self.model = codelet7.SparseAutoencoder(784, 3)
        self.shown = {}
        self.enterContext(mock.patch.object(
            codelet7, "show", lambda grid, path, title: self.shown.update({path.name: (grid, title)})))
        codelet7.visualize(self.model, self.images, self.data.labels, self.folder, "Some digits.")

    def test_reconstruction_has_16_rows_of_inputs_beside_their_reconstructions(self):
        grid, title = self.shown["reconstruction.png"]
        _, reconstruction = self.model(self.images[:64])
        size, gap = 30, 3  # 28 pixels and a frame; between frames
        self.assertEqual(grid.shape, (3, 16 * (size + gap) + gap, 8 * (size + gap) + gap))
        for index in range(64):
            top, left = gap + index // 4 * (size + gap), gap + index % 4 * 2 * (size + gap)
            for offset, expected in ((0, self.images[index]), (size + gap, reconstruction[index].view(1, 28, 28))):
                tile = grid[:, top:top + size, left + offset:left + offset + size]
                torch.testing.assert_close(tile[:, 1:-1, 1:-1], expected.expand(3, -1, -1))
            input_frame, output_frame = grid[:, top, left], grid[:, top, left + size + gap]
            self.assertGreater((input_frame - output_frame).abs().max(), 1)
        self.assertIn("Some digits", title)

    def test_each_nodes_top_100_are_the_highest_of_all_strongest_first(self):
        hidden = self.model.encode(self.images).detach().numpy()
        for node in range(3):
            order = np.argsort(-hidden[:, node], kind="stable")[:100]
            grid, title = self.shown[f"node_{node}.png"]
            self.assertEqual(grid.shape, (3, 10 * 30 + 2, 10 * 30 + 2))
            self.assertTrue(torch.equal(grid, make_grid(self.images[order], 10)))
            high, low = hidden[order[0], node], hidden[order[-1], node]
            self.assertIn(f"Node {node}:", title)
            self.assertIn(f"activation {high:.6f} to {low:.6f}", title)

    def test_ties_keep_the_file_order(self):
        self.assertEqual(codelet7.top_images(torch.ones(1000)).tolist(), list(range(100)))

    def test_the_overview_gets_what_each_node_learned(self):
        with mock.patch.object(utils, "plot_nodes") as plot:
            codelet7.visualize(self.model, self.images, self.data.labels, self.folder, "Some digits.")
        drawn = plot.call_args.kwargs
        hidden = self.model.encode(self.images)
        torch.testing.assert_close(drawn["hidden"], hidden)
        for node in range(3):
            top = hidden[:, node].topk(100).indices
            torch.testing.assert_close(drawn["encoder"][node].flatten(), self.model.encoder.weight[node])
            torch.testing.assert_close(drawn["decoder"][node].flatten(), self.model.decoder.weight[:, node])
            torch.testing.assert_close(drawn["top_means"][node], self.images[top].mean((0, 1)))
            self.assertEqual(drawn["label_counts"][node].tolist(), self.data.labels[top].bincount(minlength=10).tolist())

    def test_figures_of_nodes_that_are_no_more_go_and_nothing_else(self):
        for name in ("node_3.png", "node_12.png", "node_3_mine.png", "node_x.png", "mine.png"):
            (self.folder / name).write_text("old")
        codelet7.visualize(self.model, self.images, self.data.labels, self.folder, "Some digits.")
        self.assertEqual({path.name for path in self.folder.iterdir()},
                         {"nodes.png", "node_3_mine.png", "node_x.png", "mine.png"})

    def test_very_many_nodes_draw_only_the_first(self):
        with mock.patch.object(codelet7, "MAX_NODE_FIGURES", 2):
            self.shown.clear()
            codelet7.visualize(self.model, self.images, self.data.labels, self.folder, "Some digits.")
        self.assertEqual(set(self.shown), {"reconstruction.png", "node_0.png", "node_1.png"})


class Losses(TestCase):
    def test_csv_and_curve(self):
        utils.save_losses([(0.8, 0.7), (0.6, 0.55)], self.folder, "Some digits.", {1: 0.8029})
        self.assertEqual((self.folder / "losses.csv").read_text(),
                         "epoch,loss,mse,weighted_penalty\n1,0.800000,0.700000,0.100000\n2,0.600000,0.550000,0.050000\n")
        self.assertEqual(pixels(self.folder / "loss.png").ndim, 3)


class Writing(TestCase):
    def test_a_failure_leaves_the_old_file_and_nothing_else(self):
        path = self.folder / "figure.png"
        path.write_bytes(b"old")
        for call in ("os.replace", "os.fdopen"):
            for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
                with mock.patch(call, side_effect=error), self.assertRaises(type(error)):
                    utils.write_whole(path, b"new")
                self.assertEqual([(p.name, p.read_bytes()) for p in self.folder.iterdir()], [("figure.png", b"old")])

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
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # a write past it fails, as on a full disk
        try:
            code, _, err = self.run_main("--epochs", "1")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        self.assertEqual((code, len(err.splitlines())), (1, 1), err)
        self.assertIn(str(self.folder / "figures" / "untrained" / "reconstruction.png"), err)
        self.assertEqual([path for path in (self.folder / "figures").rglob("*") if path.is_file()], [])
