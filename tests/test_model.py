import math
import unittest

import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, kl_divergence

from codelet7 import RHO, SparseAutoencoder


class Model(unittest.TestCase):
    def test_shapes_and_ranges(self):
        for inputDims, hDims, batch in [(784, 10, 64), (784, 10, 1), (6, 3, 5), (4, 9, 2), (1, 1, 1)]:
            hidden, reconstruction = SparseAutoencoder(inputDims, hDims)(10 * torch.randn(batch, inputDims))
            self.assertEqual(hidden.shape, (batch, hDims))
            self.assertEqual(reconstruction.shape, (batch, inputDims))
            self.assertTrue(((hidden >= 0) & (hidden <= 1)).all())
            self.assertTrue((reconstruction.abs() <= 1).all())

    def test_images_and_rows_are_the_same_input(self):
        model, images = SparseAutoencoder(784, 10), torch.randn(3, 1, 28, 28)
        for a, b in zip(model(images), model(images.view(3, 784))):
            self.assertTrue(torch.equal(a, b))

    def test_forward_is_sigmoid_then_tanh_of_linear_layers(self):
        model, x = SparseAutoencoder(7, 3), torch.randn(5, 7)
        hidden, reconstruction = model(x)
        expected = 1 / (1 + torch.exp(-(x @ model.encoder.weight.t() + model.encoder.bias)))
        torch.testing.assert_close(hidden, expected)
        torch.testing.assert_close(reconstruction, torch.tanh(expected @ model.decoder.weight.t() + model.decoder.bias))

    def test_xavier_weights_and_zero_biases(self):
        model = SparseAutoencoder(784, 10)
        bound = math.sqrt(6 / (784 + 10))
        for linear in (model.encoder, model.decoder):
            self.assertLessEqual(linear.weight.abs().max(), bound)
            self.assertGreater(linear.weight.abs().max(), 0.99 * bound)
            self.assertAlmostEqual(linear.weight.std().item(), bound / math.sqrt(3), delta=0.02 * bound)
            self.assertEqual(linear.bias.abs().max(), 0)


class Penalty(unittest.TestCase):
    penalty = staticmethod(SparseAutoencoder.batched_sparsity_penalty)

    def test_the_sheets_example(self):
        hidden = torch.tensor([[.3, 0, .1], [.2, 0, .2], [.5, 0, .1], [.5, 0, .3], [.5, 0, .3]])
        self.assertEqual(f"{self.penalty(hidden):.4f}", "1.1490")

    def test_nodes_that_never_or_always_fire(self):
        for batch in [*range(1, 200), 1000, 4099]:
            for hDims in (1, 4):
                for value, each in ((0.0, 0.7225), (1.0, 17.3011)):
                    hidden = torch.full((batch, hDims), value, requires_grad=True)
                    penalty = self.penalty(hidden)
                    penalty.backward()
                    self.assertAlmostEqual(penalty.item() / hDims, each, delta=6e-5, msg=f"{value}, batch of {batch}")
                    self.assertTrue(hidden.grad.isfinite().all())

    def test_the_two_edges_side_by_side(self):
        hidden = torch.tensor([[0.0, 1.0, 0.05]] * 3)
        self.assertAlmostEqual(self.penalty(hidden).item(), 0.7225 + 17.3011, delta=2e-4)

    def test_agrees_with_torch_distributions(self):
        generator = torch.Generator().manual_seed(1)
        for batch, hDims in [(1, 1), (1, 10), (64, 10), (33, 200)]:
            for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-5)):
                hidden = torch.rand(batch, hDims, generator=generator, dtype=dtype)
                oracle = kl_divergence(Bernoulli(torch.tensor(RHO, dtype=dtype)), Bernoulli(hidden.mean(0))).sum()
                torch.testing.assert_close(self.penalty(hidden), oracle, rtol=tolerance, atol=tolerance)

    def test_is_zero_at_the_target(self):
        self.assertAlmostEqual(self.penalty(torch.full((8, 10), RHO, dtype=torch.float64)).item(), 0, places=12)


class Loss(unittest.TestCase):
    def test_is_mse_over_pixels_and_batch_plus_weighted_penalty(self):
        x, reconstruction, hidden = torch.randn(6, 1, 4, 4), torch.randn(6, 16), torch.rand(6, 3)
        mse = sum((a - b) ** 2 for a, b in zip(x.flatten().tolist(), reconstruction.flatten().tolist())) / (6 * 16)
        penalty = SparseAutoencoder.batched_sparsity_penalty(hidden).item()
        for arguments, weight in (((), 1e-4), ((0.5,), 0.5), ((0,), 0)):
            loss = SparseAutoencoder.loss_function(x, reconstruction, hidden, *arguments)
            self.assertEqual(loss.dim(), 0)
            self.assertAlmostEqual(loss.item(), mse + weight * penalty, places=5)

    def test_gradients(self):
        model = SparseAutoencoder(6, 3).double()
        x = torch.randn(4, 6, dtype=torch.float64)

        def loss(*parameters):
            named = dict(zip(dict(model.named_parameters()), parameters))
            hidden, reconstruction = torch.func.functional_call(model, named, x)
            return model.loss_function(x, reconstruction, hidden, 0.1)

        self.assertTrue(torch.autograd.gradcheck(loss, tuple(model.parameters())))
        hidden = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
        self.assertTrue(torch.autograd.gradcheck(SparseAutoencoder.batched_sparsity_penalty, hidden))
