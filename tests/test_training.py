"""The data loader, the sheet's snippet, and training against a plain loop."""

import contextlib
import io
import sys

import torch
from torchvision import transforms
from torchvision.utils import make_grid

import codelet7
import utils
from tests import ROOT, TestCase, draw_few

sys.path[:0] = [str(ROOT / "writeup"), str(ROOT / "extras")]
import experiments
import explorer


class Data(TestCase):
    def test_the_sheets_snippet(self):
        data = draw_few()
        images = codelet7.normalize(data.images)
        train_dataloader = codelet7.make_dataloader(images, data.labels, 64)
        images, _ = next(iter(train_dataloader))
        self.assertEqual(images.shape, (64, 1, 28, 28))
        grid = make_grid([i for i in images], 16)
        self.assertEqual(grid.shape, (3, 4 * 30 + 2, 16 * 30 + 2))
        utils.show(grid, self.folder / "batch.png")
        self.assertTrue((self.folder / "batch.png").exists())

    def test_every_image_once_an_epoch_with_its_label(self):
        images = torch.arange(1000.0).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        loader = codelet7.make_dataloader(images, torch.arange(1000), batch_size=64)
        self.assertEqual(len(loader), 16)
        orders = []
        for seed in (3, None, 3):  # None: no seed, the next epoch
            if seed:
                torch.manual_seed(seed)
            batches = list(loader)
            self.assertEqual([len(x) for x, _ in batches], [64] * 15 + [1000 - 15 * 64])
            for x, label in batches:
                self.assertTrue(torch.equal(x[:, 0, 0, 0].long(), label))
            orders.append(torch.cat([label for _, label in batches]))
            self.assertTrue(torch.equal(orders[-1].sort().values, torch.arange(1000)))
        self.assertFalse(torch.equal(orders[0], orders[1]))
        self.assertTrue(torch.equal(orders[0], orders[2]))

    def test_normalize_is_torchvisions_ToTensor_and_Normalize(self):
        images = draw_few().images[:50]
        transform = transforms.Compose([transforms.ToTensor(),
                                        transforms.Normalize((0.1307,), (0.3081,))])
        expected = torch.stack([transform(image.numpy()) for image in images])
        before = images.clone()
        torch.testing.assert_close(codelet7.normalize(images), expected, rtol=0, atol=1e-6)
        self.assertTrue(torch.equal(images, before))
        self.assertAlmostEqual(expected.min().item(), utils.PAPER, places=5)
        self.assertAlmostEqual(expected.max().item(), utils.INK, places=5)

    def test_normalize_does_not_do_it_twice(self):
        images = codelet7.normalize(draw_few().images[:2])
        with self.assertRaisesRegex(TypeError, "8-bit"):
            codelet7.normalize(images)


class Training(TestCase):
    def setUp(self):
        super().setUp()
        data = draw_few()
        self.images, self.labels = codelet7.normalize(data.images), data.labels

    def train(self, weight=1e-4, epochs=2):
        torch.manual_seed(0)
        model = codelet7.SparseAutoencoder(784, 10, weight)
        loader = codelet7.make_dataloader(self.images, self.labels, 64)
        with contextlib.redirect_stdout(io.StringIO()):
            return codelet7.train(model, loader, epochs, 1e-3)

    def test_is_plain_adam_on_the_mean_loss_of_the_batches(self):
        history = self.train(weight=0.1)
        torch.manual_seed(0)
        model = codelet7.SparseAutoencoder(784, 10)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        loader = codelet7.make_dataloader(self.images, self.labels, 64)
        for loss, mse in history:
            losses, mses = [], []
            for x, _ in loader:
                hidden, reconstruction = model(x)
                mses.append((reconstruction - x.flatten(1)).square().mean())
                losses.append(mses[-1] + 0.1 * model.batched_sparsity_penalty(hidden))
                optimizer.zero_grad()
                losses[-1].backward()
                optimizer.step()
            self.assertAlmostEqual(loss, torch.stack(losses).mean().item(), places=5)
            self.assertAlmostEqual(mse, torch.stack(mses).mean().item(), places=5)

    def test_a_seed_gives_the_same_model_everywhere(self):
        self.put(self.raw, self.files)
        settings = {"epochs": codelet7.EPOCHS, "seed": codelet7.SEED,
                    "batch_size": codelet7.BATCH_SIZE, "hidden_dims": codelet7.HIDDEN_DIMS,
                    "sparsity_weight": codelet7.SPARSITY_WEIGHT, "lr": codelet7.LEARNING_RATE}
        self.without_figures()
        self.assertEqual(self.run_main(**settings)[0], 0)
        expected = torch.load(self.folder / "figures" / "trained" / "model.pt")
        data = draw_few()._replace(images=self.images)
        with contextlib.redirect_stdout(io.StringIO()):
            models = [experiments.trained(data, "default")[0],
                      explorer.train_model(self.images, self.labels, codelet7.HIDDEN_DIMS,
                                           codelet7.SPARSITY_WEIGHT, codelet7.LEARNING_RATE)[0]]
        for model in models:
            for name, weights in model.state_dict().items():
                self.assertTrue(torch.equal(weights, expected[name]), name)
