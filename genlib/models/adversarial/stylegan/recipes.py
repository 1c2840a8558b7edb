"""What StyleGANs are trained on, and how."""

from __future__ import annotations

from dataclasses import replace

from genlib.config import DataConfig, OptimConfig, TrainConfig
from genlib.models.adversarial.stylegan.settings import StyleGame, StyleNetworks
from genlib.models.adversarial.stylegan.task import StyleGANConfig
from genlib.recipe import Recipe, Stage

ADAM = OptimConfig(name="adam", learning_rate=2.5e-3, beta1=0.0, beta2=0.99)
"""The optimizer of both players, before what lazy penalties change."""


def lazy(optim: OptimConfig, every: int) -> OptimConfig:
    """The optimizer of a player that besides has a penalty at every so many steps.

    So it moves as far in all, and forgets as much, as with the penalty at each step (Karras et al. 2020, arXiv:1912.04958, appendix B).
    """
    share = every / (every + 1)
    return replace(optim, learning_rate=optim.learning_rate * share, beta1=optim.beta1**share if optim.beta1 else 0.0, beta2=optim.beta2**share)


def trained(game: StyleGame, train: TrainConfig, optim: OptimConfig = ADAM) -> TrainConfig:
    """With the optimizers that such a game needs."""
    generator = lazy(optim, game.path_every) if game.path_weight else optim
    discriminator = lazy(optim, game.penalty_every) if game.gamma and game.penalty_every > 1 else optim
    return replace(train, optim=generator, players={"discriminator": discriminator})


SMOKE_GAME = StyleGame(penalty_every=2, path_every=2)
_SMOKE = (
    Stage(
        task=StyleGANConfig(
            network=StyleNetworks(latent_dim=8, style_dim=8, mapping_layers=2, channel_base=64, channel_max=8, stddev_group=8), game=SMOKE_GAME
        ),
        data=DataConfig(train="digits", image_size=16),
        train=trained(SMOKE_GAME, TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4)),
    ),
)  # fmt: skip


def stylegan2() -> Recipe:
    """Icons of 32 x 32 pixels.

    `python jobs/stylegan_train.py`.
    """
    game = StyleGame(gamma=0.2, mirror=True, path_weight=0.0)
    network = StyleNetworks(latent_dim=128, style_dim=128, mapping_layers=4, channel_base=512, channel_max=128)
    train = TrainConfig(steps=1000, global_batch=32, ema_halflife_samples=5000, checkpoint_every_steps=250)
    stage = Stage(task=StyleGANConfig(network=network, game=game), data=DataConfig(train="icons", image_size=32), train=trained(game, train))
    return Recipe(stages=(stage,), smoke=_SMOKE)
