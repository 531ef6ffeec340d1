"""The data loader, the assignment's snippet, training against a plain loop, evaluation."""

import contextlib
import io
import math
import unittest
from unittest import mock

import torch
from torchvision import transforms

import codelet7
import utils
from codelet7 import SparseAutoencoder
from extras import benchmark
from tests import TestCase, draw_few


class Data(TestCase):
    def test_the_assignments_snippet_shows_64_images_in_4_rows(self):
        loader = codelet7.make_dataloader(self.data.images, self.data.labels, 64)
        images, _ = next(iter(loader))
        self.assertEqual(images.shape, (64, 1, 28, 28))
        # A larger batch is cut to its first 64 images.
        with mock.patch.object(codelet7, "show") as show:
            codelet7.show_batch([(images.repeat(2, 1, 1, 1), None)], self.folder / "batch.png", "")
        grid, _, title = show.call_args.args
        self.assertIn("64 training images", title)
        self.assertEqual(grid.shape, (3, 4 * 30 + 2, 16 * 30 + 2))
        self.assertTrue(torch.equal(grid[0, 32:60, 62:90], images[18, 0]))  # row 1, column 2

    def test_each_image_once_per_epoch_with_its_label(self):
        numbers, orders = torch.arange(1000), []
        loader = codelet7.make_dataloader(-numbers, numbers, batch_size=64)
        for _ in range(2):
            images, labels = zip(*loader)
            self.assertEqual([len(batch) for batch in images], [64] * 15 + [1000 - 15 * 64])
            self.assertTrue(torch.equal(torch.cat(images), -torch.cat(labels)))
            orders.append(torch.cat(labels))
            self.assertTrue(torch.equal(orders[-1].sort().values, numbers))
        self.assertFalse(torch.equal(*orders))

    def test_normalize_is_torchvisions_ToTensor_and_Normalize(self):
        images = draw_few().images[:50]
        to_tensor, standardize = transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))
        oracle = torch.stack([standardize(to_tensor(image.numpy())) for image in images])
        torch.testing.assert_close(codelet7.normalize(images), oracle, rtol=0, atol=1e-6)
        self.assertAlmostEqual(oracle.min().item(), utils.BACKGROUND, places=5)
        self.assertAlmostEqual(oracle.max().item(), utils.INK, places=5)
        with self.assertRaisesRegex(TypeError, "uint8"):
            codelet7.normalize(oracle)


class Training(TestCase):
    def setUp(self):
        super().setUp()
        self.loader = codelet7.make_dataloader(self.data.images, self.data.labels, 64)

    def train(self, seed, device="cpu", **options):
        torch.manual_seed(0)
        model = SparseAutoencoder(784, 10, rho=0.05, sparsity_weight=0.1).to(device)
        torch.rand(7)  # train() seeds the order of the batches, whatever was drawn before
        # A notebook may have switched gradients off.
        with contextlib.redirect_stdout(io.StringIO()) as out, torch.no_grad():
            history = codelet7.train(model, self.loader, 2, 1e-3, seed, **options)
        return history, out.getvalue()

    def test_is_plain_adam_on_the_mean_loss_of_the_batches(self):
        history, out = self.train(seed=1, weight_decay=0.1)
        torch.manual_seed(0)
        model = SparseAutoencoder(784, 10, rho=0.05)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=0.1)
        torch.manual_seed(1)
        for (loss, mse), line in zip(history, out.splitlines()):
            losses, mses = [], []
            for x, _ in self.loader:
                hidden, reconstruction = model(x)
                mses.append((reconstruction - x.flatten(1)).square().mean())
                losses.append(mses[-1] + 0.1 * model.batched_sparsity_penalty(hidden))
                optimizer.zero_grad()
                losses[-1].backward()
                optimizer.step()
            self.assertAlmostEqual(loss, torch.stack(losses).mean().item(), places=5)
            self.assertAlmostEqual(mse, torch.stack(mses).mean().item(), places=5)
            self.assertTrue(line.endswith(f"/2 - Train Loss: {loss:.4f}"), line)

    def test_another_seed_is_another_order_of_the_batches(self):
        self.assertEqual(self.train(seed=0), self.train(seed=0))
        self.assertNotEqual(self.train(seed=0), self.train(seed=1))

    @unittest.skipUnless(torch.cuda.is_available(), "no GPU is available to PyTorch")
    def test_training_on_a_gpu_gives_the_same_losses(self):
        expected, _ = self.train(seed=0)
        self.loader = codelet7.make_dataloader(self.data.images.cuda(), self.data.labels, 64)
        torch.testing.assert_close(self.train(seed=0, device="cuda")[0], expected,
                                   rtol=1e-3, atol=1e-3)

    def test_the_benchmarks_three_loops_have_the_same_loss(self):
        images, labels = self.data.images[:300], torch.zeros(300)
        losses = [benchmark.straightforward_epoch(list(zip(images, labels))),
                  benchmark.codelet7_epoch(images, labels), benchmark.lower_bound_epoch(images)]
        self.assertLess(max(losses) - min(losses), 5e-5)


@mock.patch.object(codelet7, "WEAK", 0.25)
class Evaluation(TestCase):
    def test_loss_and_sparsity_equal_a_hand_calculation(self):
        model = SparseAutoencoder(2, 3, rho=0.2, sparsity_weight=0.5).requires_grad_(False)
        model.encoder.weight[:] = torch.tensor([[0, 0], [1e3, 0], [-1e3, -1e3]])
        model.decoder.weight.zero_()
        images = torch.tensor([[1.0, 0.0], [-1.0, 2.0]])  # hidden: (0.5, 1, 0), (0.5, 0, 0)
        kl = sum(0.2 * math.log(0.2 / p) + 0.8 * math.log(0.8 / (1 - p))
                 for p in (0.5, 0.5, 1e-8))
        self.assertAlmostEqual(codelet7.evaluate(model, images), 6 / 4 + 0.5 * kl, places=4)
        self.assertEqual(codelet7.describe(model, images),
                         "-50% of the variance explained; mean activation 0.33 (target 0.2); "
                         "0.5 of 3 nodes on per image (above 0.5), 2 never on; 0% of the total "
                         "activation is weak (below 0.25).")

    def test_variance_explained_is_0_for_the_mean_image_and_1_for_a_copy(self):
        images = torch.randn(50, 1, 4, 4)
        mean = images.mean(0).flatten().expand(50, -1)
        self.assertAlmostEqual(codelet7.variance_explained(images, mean), 0, places=6)
        self.assertEqual(codelet7.variance_explained(images, images.flatten(1)), 1)
