"""The networks and their training: every size builds and learns, losses stay finite or training stops by name.

Every test of training is of GANomaly; `evaluation/paper/test_comparators.py` has those of all methods.
"""

import numpy as np
import pytest
import torch

from ganomaly.errors import TrainingDivergedError
from ganomaly.networks.ganomaly import GANomaly
from ganomaly.networks.layers import NetworkConfig, initialise, pyramid_sides
from ganomaly.networks.layers import build as build_networks
from ganomaly.networks.losses import adversarial_loss, contextual_loss, discriminator_loss, encoder_loss, generator_loss
from ganomaly.networks.training import Losses, Trainer, TrainingConfig, to_input, train

TINY = NetworkConfig(features=8, latent_size=16)
CPU = torch.device("cpu")


def build(size_px: int = 32, channels: int = 1) -> tuple[GANomaly, torch.Generator]:
    """Tiny networks and the random state they were drawn from."""
    rng = torch.Generator().manual_seed(0)
    return build_networks(lambda: GANomaly(size_px, channels, TINY), rng), rng


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size_px", [32, 48, 64, 80, 96, 112])
def test_every_size_reconstructs_its_shape_and_trains(size_px: int, channels: int) -> None:
    """A line could be configured with a size that crashes in its first step."""
    model, rng = build(size_px, channels)
    images = np.random.default_rng(0).integers(0, 255, (4, size_px, size_px, channels), dtype=np.uint8)
    x = to_input(images, CPU)
    before = model.generator.encoder.to_latent.weight.clone()
    losses = Trainer(model, TrainingConfig(), rng, "fp32").step(x)
    assert torch.isfinite(losses).all()
    assert not torch.equal(before, model.generator.encoder.to_latent.weight)
    out = model.generator(x)
    assert out.x_hat_bchw.shape == x.shape == (4, channels, size_px, size_px)
    assert out.z_bd.shape == out.z_hat_bd.shape == (4, 16)
    assert out.x_hat_bchw.abs().max() <= 1
    assert model.discriminator(x).logits_b.shape == (4,)


@pytest.mark.parametrize("size_px", [0, 16, 40, 65])
def test_other_sizes_are_refused(size_px: int) -> None:
    """A size that cannot be halved often enough would end in a message about tensor shapes."""
    with pytest.raises(ValueError, match=f"size_px = {size_px}: must be a multiple of 16 from 32 up"):
        pyramid_sides(size_px)


def test_input_is_scaled_to_the_tanhs_range() -> None:
    """The generator could not reproduce white or black, and would reconstruct every image wrongly."""
    images = np.array([[[[0], [255]], [[51], [204]]]], np.uint8)
    np.testing.assert_allclose(to_input(images, CPU)[0, 0], [[-1, 1], [-0.6, 0.6]], atol=1e-6)


def test_training_learns() -> None:
    """Gradients would not reach the generator, or have the wrong sign."""
    model, rng = build()
    columns = np.linspace(0, 255, 32).astype(np.uint8)
    images = np.tile(columns[None, None, :, None], (32, 32, 1, 1))
    config = TrainingConfig(epochs=12, batch_size=8, learning_rate=2e-3)
    history = list(train(model, images, config, rng, "fp32"))
    assert [stats.epoch for stats in history] == list(range(1, 13))
    assert history[-1].loss_contextual < 0.5 * history[0].loss_contextual
    assert not model.training
    assert not model.generator.encoder.training


@pytest.mark.parametrize(
    ("network", "loss"), [("second_encoder", "loss_encoder"), ("decoder", "loss_adversarial")], ids=["E", "G_D"]
)
def test_divergence_names_epoch_and_loss_and_keeps_the_last_good_weights(network: str, loss: str) -> None:
    """A detector of nan weights would be calibrated and registered, or hours of good training be lost."""
    model, rng = build()
    images = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 1), dtype=np.uint8)
    epochs = train(model, images, TrainingConfig(epochs=3, batch_size=8), rng, "fp32")
    next(epochs)
    good = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    broken = next(getattr(model.generator, network).parameters())
    as_it_was = broken.detach().clone()
    original = model.losses

    def fail(x: torch.Tensor, rng: torch.Generator) -> Losses:
        with torch.no_grad():
            broken.fill_(torch.nan)
        return original(x, rng)

    model.losses = fail
    message = rf"epoch 2 of 3: {loss} = nan; try a smaller training.learning_rate \(the weights of epoch 1 are kept\)"
    with pytest.raises(TrainingDivergedError, match=message):
        next(epochs)
    assert torch.equal(broken, as_it_was)
    assert all(torch.equal(tensor, good[name]) for name, tensor in model.state_dict().items())
    assert not model.training


def test_weights_that_diverge_in_the_last_step_are_found() -> None:
    """The losses of an epoch are finite when its last step breaks the weights: they would be saved."""
    model, rng = build()
    images = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 1), dtype=np.uint8)
    with (
        np.errstate(over="ignore"),
        pytest.raises(TrainingDivergedError, match=r"epoch 1 of 1: .* after them generator\..*drawn at the start"),
    ):
        list(train(model, images, TrainingConfig(epochs=1, weight_contextual=1e38, weight_encoder=1e38), rng, "fp32"))
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_collapsed_discriminator_is_drawn_anew() -> None:
    """The adversarial loss would teach nothing after the discriminator wins once."""
    model, rng = build()
    generator, discriminator = model.generator, model.discriminator
    trainer = Trainer(model, TrainingConfig(), rng, "fp32")
    x = to_input(np.random.default_rng(0).integers(0, 255, (8, 32, 32, 1), dtype=np.uint8), CPU)
    with torch.no_grad():  # features of real and reconstructed images differ; let one weight tell them far apart
        features_real, features_fake = (discriminator(i).features_bchw for i in (x, generator(x).x_hat_bchw))
        direction = (features_real.mean(0) - features_fake.mean(0))[None]
        discriminator.to_logit.weight.copy_(direction / direction.square().sum() * 1e4)
        logits = [discriminator(i).logits_b for i in (x, generator(x).x_hat_bchw)]
        middle = (logits[0].min() + logits[1].max()) / 2
    discriminator.to_logit.bias = torch.nn.Parameter(-middle[None])
    assert logits[0].min() > logits[1].max()
    before = discriminator.to_logit.weight.clone()
    loss_d = trainer.step(x)[4]
    assert loss_d < 1e-5
    trainer.restart_if_collapsed()  # as the next step or the end of the epoch does
    assert trainer.discriminator_restarts == 1
    assert discriminator.to_logit.weight.std() < 0.1 < before.std()


def test_initialisation_does_not_depend_on_the_memory_format() -> None:
    """The same seed would draw other weights after a restart than before."""
    first, second = build()[0], build()[0].to(memory_format=torch.contiguous_format)
    for model in (first, second):
        initialise(model, torch.Generator().manual_seed(5))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_losses_by_hand() -> None:
    """A sum in place of a mean, or a swapped norm, would shift the balance of the paper's weights."""
    a, b = torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([[0.0, 3.0], [2.0, 0.0]])
    assert contextual_loss(a, b) == pytest.approx(5 / 4)
    assert encoder_loss(a, b) == pytest.approx(13 / 4)
    assert adversarial_loss(a, b) == pytest.approx(13 / 4)
    expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(0.5))) / 2
    assert discriminator_loss(torch.tensor([2.0]), torch.tensor([0.5])) == pytest.approx(expected)
    assert generator_loss(torch.tensor([2.0, -0.5])) == pytest.approx(expected)
