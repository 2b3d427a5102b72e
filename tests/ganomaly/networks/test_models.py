"""All methods behind one interface: each trains, judges, is saved; each score against its formula."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ganomaly import Detector, DetectorConfig
from ganomaly.networks.build import AAE, EGBAD, AnoGAN, Model, ModelConfig, build_model
from ganomaly.networks.layers import NetworkConfig
from ganomaly.networks.training import Trainer, TrainingConfig, to_input, train

DrawParts = Callable[..., list[np.ndarray]]

KINDS = get_args(ModelConfig.model_fields["kind"].annotation)
COMPARATORS = [kind for kind in KINDS if kind != "ganomaly"]
TINY = NetworkConfig(features=8, latent_size=16)
CPU = torch.device("cpu")


def build(kind: str, size_px: int = 32, channels: int = 1, **settings: float) -> tuple[Model, torch.Generator]:
    """A tiny model with weights as large as after training, in `eval()` mode, and the random state."""
    rng = torch.Generator().manual_seed(0)
    config = ModelConfig.model_validate({"kind": kind, "search_steps": 5, **settings})
    return build_model(size_px, channels, TINY, config, rng).eval(), rng


def random_images(n: int, size_px: int = 32, channels: int = 1) -> np.ndarray:
    """Noise, uint8 (n, size_px, size_px, channels)."""
    return np.random.default_rng(0).integers(0, 256, (n, size_px, size_px, channels), dtype=np.uint8)


def config_of(kind: str, tiny_config: DetectorConfig) -> DetectorConfig:
    """The smallest networks of a kind; one epoch."""
    model = {"kind": kind, "search_steps": 5, "search_rate": 0.05}
    return DetectorConfig.model_validate(tiny_config.model_dump(exclude={"score"}) | {"model": model})


@pytest.fixture(scope="module", params=COMPARATORS)
def comparator(request: pytest.FixtureRequest, draw_parts: DrawParts, tiny_config: DetectorConfig) -> Detector:
    """A comparator that was trained for an epoch; tests only read it."""
    return Detector.fit(draw_parts(70, seed=2), config=config_of(request.param, tiny_config), device="cpu")


def test_a_comparator_judges_like_a_detector(comparator: Detector, draw_parts: DrawParts) -> None:
    """A line could be configured with a comparator, and fail in the night."""
    images = [*draw_parts(3, seed=3), b"broken"]
    scores = comparator.score(images)
    assert [score.verdict == "unusable" for score in scores] == [False, False, False, True]
    assert all(score.raw > 0 and 0 <= score.normalised < 1 for score in scores[:3])
    pixels = comparator.prepare(images[0]).pixels[None]
    heat = comparator.heat_maps(pixels)
    assert heat.shape == (1, 32, 32)
    assert np.isfinite(heat).all()
    for score, found in comparator.score_and_map(pixels):
        assert score == comparator.score_prepared(pixels)[0]
        assert found is None or np.allclose(found, heat[0], rtol=1e-3, atol=1e-4)
    assert comparator.score([]) == []


def test_a_comparator_is_saved_and_loaded(comparator: Detector, draw_parts: DrawParts, tmp_path: Path) -> None:
    """A comparator could not be registered, or would judge differently after a restart."""
    comparator.save(tmp_path)
    loaded = Detector.load(tmp_path, device="cpu")
    images = draw_parts(3, seed=4)
    assert loaded.config == comparator.config
    assert loaded.score(images) == comparator.score(images)
    pixels = comparator.prepare(images[0]).pixels[None]
    np.testing.assert_array_equal(loaded.heat_maps(pixels), comparator.heat_maps(pixels))


def test_a_comparator_s_score_depends_on_the_image_alone(comparator: Detector, draw_parts: DrawParts) -> None:
    """A part's verdict would depend on its neighbours in the batch, or on how often it was judged."""
    images = draw_parts(39, seed=3)
    together = comparator.score(images)
    for position in (0, 31, 38):
        assert comparator.score([images[position]])[0].raw == pytest.approx(together[position].raw, rel=1e-5)
    assert comparator.score(images) == together


def test_the_same_seed_gives_the_same_comparator(
    comparator: Detector, draw_parts: DrawParts, tiny_config: DetectorConfig
) -> None:
    """A comparison could not be repeated."""
    kind = comparator.config.model.kind
    torch.manual_seed(99)
    again = Detector.fit(draw_parts(70, seed=2), config=config_of(kind, tiny_config), device="cpu")
    for name, tensor in comparator.judge.model.state_dict().items():
        assert torch.equal(tensor, again.judge.model.state_dict()[name]), name


def test_an_autoencoder_finds_a_spot(draw_parts: DrawParts, tiny_config: DetectorConfig) -> None:
    """Training, score and calibration of a comparator would not work together."""
    config = config_of("aae", tiny_config)
    training = config.training.model_copy(update={"epochs": 8, "learning_rate": 1e-3})
    config = config.model_copy(update={"training": training})
    detector = Detector.fit(draw_parts(300, seed=1), config=config, device="cpu")
    good, bad = (detector.score(draw_parts(60, seed=5 + defect, defect=defect)) for defect in (False, True))
    assert roc_auc_score([0] * 60 + [1] * 60, [score.raw for score in [*good, *bad]]) > 0.8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size_px", "channels"), [(32, 1), (48, 3), (80, 1)])
def test_every_kind_builds_in_every_size(kind: str, size_px: int, channels: int) -> None:
    """A line could be configured with a size that crashes in its first step."""
    model, rng = build(kind, size_px, channels)
    x = to_input(random_images(4, size_px, channels), CPU)
    losses = Trainer(model.train(), TrainingConfig(), rng, "fp32").step(x)
    assert torch.isfinite(losses).all()
    judged = model.eval().judge(x)
    assert judged.score_b.shape == (4,)
    assert judged.x_hat_bchw.shape == x.shape


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
        for score in (model.judge(to_input(pixels, CPU)).score_b, model.judge(to_input(pixels[:1], CPU)).score_b):
            assert torch.isfinite(score).all()


def _gradients(model: Model, pixels: np.ndarray, rng: torch.Generator) -> list[torch.Tensor]:
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
        assert model.judge(x).score_b.tolist() == pytest.approx(by_hand(x, x_hat, f, f_hat), rel=1e-5)


def test_an_autoencoder_s_score_by_hand() -> None:
    """The score would not be the error that training makes small."""
    model, rng = build("aae")
    assert isinstance(model, AAE)
    x = to_input(random_images(3), CPU)
    with torch.no_grad():
        judged = model.judge(x)
        expected = [((a - b) ** 2).mean().item() for a, b in zip(x, judged.x_hat_bchw, strict=True)]
        assert judged.score_b.tolist() == pytest.approx(expected, rel=1e-5)
        assert judged.score_b.mean().item() == pytest.approx(model.losses(x, rng).contextual.item(), rel=1e-5)


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
    near, far = build("anogan", search_steps=200, search_rate=0.05)[0], build("anogan", search_steps=1)[0]
    assert isinstance(near, AnoGAN)
    assert isinstance(far, AnoGAN)
    for model in (near, far):
        grow(model)
    before = {name: tensor.clone() for name, tensor in near.state_dict().items()}
    with torch.no_grad():
        images = near.generator(torch.empty(3, 16).uniform_(-1, 1, generator=torch.Generator().manual_seed(5)))
        start, found = far.judge(images), near.judge(images)
    assert (found.score_b < 0.5 * start.score_b).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in near.state_dict().items())
    assert all(parameter.grad is None for parameter in near.parameters())


def test_anogan_s_score_by_hand() -> None:
    """The score would be that of another z than the image that is shown, or not that of the paper."""
    model, _ = build("anogan", search_steps=7)
    assert isinstance(model, AnoGAN)
    grow(model)
    x = to_input(random_images(3), CPU)
    with torch.no_grad():
        judged = model.judge(x)
        f, f_hat = (model.discriminator(images).features_bchw for images in (x, judged.x_hat_bchw))
        assert judged.score_b.tolist() == pytest.approx(by_hand(x, judged.x_hat_bchw, f, f_hat), rel=1e-5)


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
    assert min(distances) < 0.5 * distances[0]
