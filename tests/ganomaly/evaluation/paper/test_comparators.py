"""All networks of the comparison behind one interface: each trains and judges; each score against its formula."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ganomaly import DetectorConfig
from ganomaly.evaluation.paper.aae import AAE
from ganomaly.evaluation.paper.anogan import AnoGAN
from ganomaly.evaluation.paper.comparators import Comparator, Trial
from ganomaly.evaluation.paper.egbad import EGBAD
from ganomaly.evaluation.paper.experiments import NETWORKS as KINDS
from ganomaly.networks.ganomaly import GANomaly, Pass
from ganomaly.networks.layers import build as build_networks
from ganomaly.networks.training import Trainable, Trainer, TrainingConfig, to_input, train
from ganomaly.scoring.pixel_scores import paper_score
from tests.ganomaly.evaluation.paper.tiny import construct

DrawParts = Callable[..., list[np.ndarray]]

COMPARATORS = [kind for kind in KINDS if kind != "ganomaly"]
CPU = torch.device("cpu")


def build(kind: str, size_px: int = 32, channels: int = 1, steps: int = 5) -> tuple[Trainable, torch.Generator]:
    """Tiny networks with weights drawn anew, in `eval()` mode, and the random state."""
    rng = torch.Generator().manual_seed(0)
    config = DetectorConfig.model_validate(
        {"recipe": {"size_px": size_px, "channels": channels}, "network": {"features": 8, "latent_size": 16}}
    )
    return build_networks(construct(kind, config, steps), rng).eval(), rng


def score(model: Trainable, x_bchw: torch.Tensor) -> torch.Tensor:
    """The score of the method's paper, (B,)."""
    if isinstance(model, GANomaly):
        seen = Pass(model, x_bchw)
        return paper_score(seen.z_bd, seen.z_hat_bd)
    assert isinstance(model, Comparator)
    return model.score(x_bchw)


def random_images(n: int, size_px: int = 32, channels: int = 1) -> np.ndarray:
    """Noise, uint8 (n, size_px, size_px, channels)."""
    return np.random.default_rng(0).integers(0, 256, (n, size_px, size_px, channels), dtype=np.uint8)


@pytest.mark.parametrize("kind", COMPARATORS)
def test_a_comparator_s_score_depends_on_the_image_alone(kind: str, tiny_config: DetectorConfig) -> None:
    """An image's score would depend on its neighbours in the batch, or on how often it was judged."""
    trial = Trial(construct(kind, tiny_config), tiny_config, CPU)
    images = random_images(70)
    list(trial.train(images))
    together = trial.raw_scores(images)
    for position in (0, 31, 69):
        assert trial.raw_scores(images[position : position + 1])[0] == pytest.approx(together[position], rel=1e-5)
    np.testing.assert_array_equal(trial.raw_scores(images), together)
    assert trial.raw_scores(images[:0]).shape == (0,)


@pytest.mark.parametrize("kind", COMPARATORS)
def test_the_same_seed_gives_the_same_comparator(kind: str, tiny_config: DetectorConfig) -> None:
    """A comparison could not be repeated."""
    first, again = (Trial(construct(kind, tiny_config), tiny_config, CPU) for _ in range(2))
    list(first.train(random_images(40)))
    torch.manual_seed(99)
    list(again.train(random_images(40)))
    for name, tensor in first.networks.state_dict().items():
        assert torch.equal(tensor, again.networks.state_dict()[name]), name


def test_an_autoencoder_finds_a_spot(draw_parts: DrawParts, tiny_config: DetectorConfig) -> None:
    """Training and score of a comparator would not work together."""
    training = tiny_config.training.model_copy(update={"epochs": 8, "learning_rate": 1e-3})
    config = tiny_config.model_copy(update={"training": training})
    trial = Trial(construct("aae", config), config, CPU)
    good, new, bad = (
        np.stack([config.recipe.apply(image) for image in images])
        for images in (draw_parts(300, seed=1), draw_parts(60, seed=5), draw_parts(60, seed=6, defect=True))
    )
    list(trial.train(good))
    scores = [*trial.raw_scores(new), *trial.raw_scores(bad)]
    assert roc_auc_score([0] * 60 + [1] * 60, scores) > 0.8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size_px", "channels"), [(32, 1), (48, 3), (80, 1)])
def test_every_kind_builds_in_every_size(kind: str, size_px: int, channels: int) -> None:
    """A line could be configured with a size that crashes in its first step."""
    model, rng = build(kind, size_px, channels)
    x = to_input(random_images(4, size_px, channels), CPU)
    losses = Trainer(model.train(), TrainingConfig(), rng, "fp32").step(x)
    assert torch.isfinite(losses).all()
    assert score(model.eval(), x).shape == (4,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_each_player_lowers_its_own_loss(kind: str, player: str) -> None:
    """A label or a sign would be wrong, and a player help the other one to win."""
    model, _ = build(kind)
    model.train()
    x = to_input(random_images(16), CPU)
    parameters = model.players()[player == "discriminator"]

    def loss() -> torch.Tensor:
        losses = model.losses(x, torch.Generator().manual_seed(3))
        return losses.discriminator if player == "discriminator" else losses.adversarial

    before = loss()
    gradients = torch.autograd.grad(before, parameters, allow_unused=True)  # GANomaly's E has no part in L_adv
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.sub_(0.01 * gradient / (gradient.norm() + 1e-12))
    assert loss() < before


@pytest.mark.parametrize("kind", KINDS)
def test_both_players_have_all_weights(kind: str) -> None:
    """A network would stay as it was drawn, or be trained for both sides at once."""
    model, rng = build(kind)
    generator, discriminator = model.players()
    assert {id(p) for p in generator} | {id(p) for p in discriminator} == {id(p) for p in model.parameters()}
    assert not {id(p) for p in generator} & {id(p) for p in discriminator}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    list(train(model, random_images(16), TrainingConfig(epochs=1, batch_size=8), rng, "fp32"))
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", ["black", "grey", "white", "half", "one"])
def test_extreme_images_give_finite_losses_gradients_and_scores(kind: str, images: str) -> None:
    """One night with the light off or a lamp in the picture, or a last batch of one image, would break the networks."""
    level = {"black": 0, "grey": 128, "white": 255}.get(images, 255)
    pixels = np.full((1 if images == "one" else 8, 32, 32, 1), level, np.uint8)
    if images == "half":
        pixels[:, :, :16] = 0
    model, rng = build(kind)
    model.train()
    players = model.players()
    for parameter, gradient in zip(players[0], _gradients(model, pixels, rng), strict=True):
        assert torch.isfinite(gradient).all(), parameter.shape
    list(train(model, pixels, TrainingConfig(epochs=3, batch_size=4), rng, "fp32"))
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    with torch.no_grad():
        for some in (pixels, pixels[:1]):
            assert torch.isfinite(score(model, to_input(some, CPU))).all()


def _gradients(model: Trainable, pixels: np.ndarray, rng: torch.Generator) -> list[torch.Tensor]:
    trainer = Trainer(model, TrainingConfig(), rng, "fp32")
    losses = model.losses(to_input(pixels, CPU), rng)
    loss = trainer._generator_loss(losses)
    return list(torch.autograd.grad(loss, trainer.generator_parameters))


def by_hand(x: torch.Tensor, x_hat: torch.Tensor, f: torch.Tensor, f_hat: torch.Tensor) -> list[float]:
    """0.9 times the sum of absolute differences of pixels and 0.1 times that of features, image by image."""
    rows = zip(x, x_hat, f, f_hat, strict=True)
    return [0.9 * (a - b).abs().sum().item() + 0.1 * (c - d).abs().sum().item() for a, b, c, d in rows]


def test_egbad_s_score_by_hand() -> None:
    """The score would not be that of the paper: means for sums, or f of (x_hat, E(x_hat))."""
    model, _ = build("egbad")
    assert isinstance(model, EGBAD)
    x = to_input(random_images(3), CPU)
    with torch.no_grad():
        z = model.encoder(x)
        x_hat = model.generator(z)
        f, f_hat = (model.discriminator(images, z).features_bk for images in (x, x_hat))
        assert model.score(x).tolist() == pytest.approx(by_hand(x, x_hat, f, f_hat), rel=1e-5)


def test_an_autoencoder_s_score_by_hand() -> None:
    """The score would not be the error that training makes small."""
    model, rng = build("aae")
    assert isinstance(model, AAE)
    x = to_input(random_images(3), CPU)
    with torch.no_grad():
        found, x_hat = model.score(x), model.decoder(model.encoder(x))
        expected = [((a - b) ** 2).mean().item() for a, b in zip(x, x_hat, strict=True)]
        assert found.tolist() == pytest.approx(expected, rel=1e-5)
        assert found.mean().item() == pytest.approx(model.losses(x, rng).contextual.item(), rel=1e-5)


def grow(model: AnoGAN) -> None:
    """Weights as after training, so that G(z) depends on z: freshly drawn ones make almost the same image of any z."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.empty(parameter.shape).normal_(0, 2 / fan_in**0.5, generator=rng))


def test_anogan_s_search_comes_nearer_and_leaves_the_weights_alone() -> None:
    """The search would do nothing, walk away, or train the networks on the images that it judges."""
    near, far = build("anogan", steps=200)[0], build("anogan", steps=1)[0]
    assert isinstance(near, AnoGAN)
    assert isinstance(far, AnoGAN)
    for model in (near, far):
        grow(model)
    before = {name: tensor.clone() for name, tensor in near.state_dict().items()}
    with torch.no_grad():
        images = near.generator(torch.empty(3, 16).uniform_(-1, 1, generator=torch.Generator().manual_seed(5)))
        start, found = far.score(images), near.score(images)
    assert (found < 0.5 * start).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in near.state_dict().items())
    assert all(parameter.grad is None for parameter in near.parameters())


def test_anogan_s_score_by_hand() -> None:
    """The score would be that of another z than the image that is shown, or not that of the paper."""
    model, _ = build("anogan", steps=7)
    assert isinstance(model, AnoGAN)
    grow(model)
    x = to_input(random_images(3), CPU)
    with torch.no_grad():
        x_hat = model.generator(model.search(x))
        f, f_hat = (model.discriminator(images).features_bchw for images in (x, x_hat))
        assert model.score(x).tolist() == pytest.approx(by_hand(x, x_hat, f, f_hat), rel=1e-5)


def test_a_generator_learns_what_normal_images_look_like() -> None:
    """Noise would not reach the generator, or the adversarial loss not teach it."""
    model, rng = build("anogan")
    assert isinstance(model, AnoGAN)
    columns = np.where(np.arange(32) < 16, 30, 220)[None, None, :, None]
    images = (columns + np.random.default_rng(0).integers(-20, 21, (64, 32, 32, 1))).astype(np.uint8)
    z = torch.empty(8, 16).uniform_(-1, 1, generator=rng)
    distances = []
    for _ in train(model, images, TrainingConfig(epochs=40, batch_size=8, learning_rate=1e-3), rng, "fp32"):
        with torch.no_grad():
            distances.append((model.generator(z) - to_input(images[:1], CPU)).abs().mean().item())
    assert min(distances) < 0.7 * distances[0]
