"""What StyleGANs are trained on, and how."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from genlib.config import DataConfig, OptimConfig, TrainConfig
from genlib.models.adversarial.base.growing import Growing
from genlib.models.adversarial.stylegan.labelled import LabelledStyleGANConfig
from genlib.models.adversarial.stylegan.settings import StyleGame, StyleNetworks
from genlib.models.adversarial.stylegan.synthesis3 import AliasFree
from genlib.models.adversarial.stylegan.task import StyleGANConfig
from genlib.recipe import Recipe, Stage

ADAM = OptimConfig(name="adam", learning_rate=2.5e-3, beta1=0.0, beta2=0.99)
"""The optimizer of both players, before what lazy penalties change."""

SMALL: dict[str, Any] = {
    "latent_dim": 128, "style_dim": 128, "mapping_layers": 2, "channel_base": 512, "channel_max": 128, "layer_noise": False,
}  # fmt: skip
"""Networks for 32 pixels and two processor cores."""


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


def smoke(kind: type[StyleGANConfig], game: StyleGame, **network_changes: Any) -> tuple[Stage, ...]:
    """A tiny network on digits."""
    network = StyleNetworks(latent_dim=8, style_dim=8, mapping_layers=2, channel_base=64, channel_max=8, stddev_group=8, **network_changes)
    train = TrainConfig(steps=8, global_batch=16, checkpoint_every_steps=4)
    return (Stage(task=kind(network=network, game=game), data=DataConfig(train="digits", image_size=16), train=trained(game, train)),)


def stylegan1() -> Recipe:
    """Clothes of 32 x 32 pixels by the first StyleGAN (Karras et al. 2019, arXiv:1812.04948), from 8 x 8 on.

    `python jobs/stylegan_train.py --recipe stylegan1`. After 41,600 images, in 280 CPU-seconds, most pictures are outlines of tops, bags and shoes,
    with little on them; all ten classes, sliced Wasserstein distance of patches 0.062, coverage 0.28. On icons without noise, at a penalty of 10,
    most share one layout, and by the SimCLR that gives `progan` a FID of 0.70 it reached 1.43 after 72,000 images.
    """
    game = StyleGame(gamma=2.0, mirror=True, path_weight=0.0, style_mixing=0.0)
    growing = Growing(first_size=8, stable_samples=4_000, fade_samples=4_000)
    network = StyleNetworks(**{**SMALL, "layer_noise": True}, synthesis="stylegan1", growing=growing)
    train = TrainConfig(steps=2500, global_batch=32, ema_halflife_samples=4000, checkpoint_every_steps=250)
    stage = Stage(task=StyleGANConfig(network=network, game=game), data=DataConfig(train="fashion_mnist", image_size=32), train=trained(game, train))
    small = StyleGame(path_weight=0.0, penalty_every=1)
    tiny = Growing(stable_samples=16, fade_samples=24)
    return Recipe(stages=(stage,), smoke=smoke(StyleGANConfig, small, synthesis="stylegan1", growing=tiny))


def stylegan1_1024() -> Recipe:
    """Images of 1,024 x 1,024 pixels by the first StyleGAN, 26,218,088 and 23,085,201 parameters, for GPUs; not yet trained here.

    `python jobs/stylegan_train.py --recipe stylegan1_1024 --workers 8 --data.train 'shards/{00000..00099}.tar' --judge inception.safetensors`.
    Configuration F. The published networks besides have layers to and from images of 4 x 4 pixels, which are never used: 26,219,627 and 23,087,249.
    One batch size and one learning rate for all resolutions, where the published code has larger batches below 64 pixels and rates of 0.001 to 0.003.
    """
    game = StyleGame(gamma=10.0, penalty_every=1, path_weight=0.0, mirror=True)
    train = TrainConfig(steps=781_250, global_batch=32, ema_halflife_samples=10_000, checkpoint_every_steps=5000)
    optim = replace(ADAM, learning_rate=2e-3)
    task = StyleGANConfig(network=StyleNetworks(synthesis="stylegan1"), game=game)
    stage = Stage(task=task, data=DataConfig(image_size=1024), train=trained(game, train, optim))
    return Recipe(stages=(stage,), smoke=stylegan1().smoke)


def stylegan2() -> Recipe:
    """Icons of 32 x 32 pixels.

    `python jobs/stylegan_train.py`, two workers. By a SimCLR of the same icons, against all of them, FID falls from 7.9 after 1,024 images to 1.55
    after 80,000, with precision 0.44 and recall 0.09; 712 s of training beside other work. About half of the pictures have an icon's strokes and
    outlines, few a meaning.
    """
    # strokes on black are told from fakes at once: a weak penalty lets the discriminator win
    game = StyleGame(gamma=10.0, mirror=True, path_weight=0.0, style_mixing=0.0)
    train = TrainConfig(steps=2500, global_batch=32, ema_halflife_samples=4000, checkpoint_every_steps=250)
    network = StyleNetworks(**SMALL)
    stage = Stage(task=StyleGANConfig(network=network, game=game), data=DataConfig(train="icons", image_size=32), train=trained(game, train))
    return Recipe(stages=(stage,), smoke=smoke(StyleGANConfig, StyleGame(penalty_every=2, path_every=2)))


def stylegan2_labelled() -> Recipe:
    """Clothes of 32 x 32 pixels, of a class that one names.

    `python jobs/stylegan_train.py --recipe stylegan2_labelled`. Not yet trained to its end here.
    """
    game = StyleGame(gamma=10.0, path_weight=0.0, style_mixing=0.0)
    network = StyleNetworks(**SMALL)
    train = TrainConfig(steps=2500, global_batch=32, ema_halflife_samples=4000, checkpoint_every_steps=250)
    data = DataConfig(train="fashion_mnist", image_size=32)
    return Recipe(
        stages=(Stage(task=LabelledStyleGANConfig(network=network, game=game), data=data, train=trained(game, train)),),
        smoke=smoke(LabelledStyleGANConfig, StyleGame(penalty_every=2, path_every=2)),
    )


def r3gan() -> Recipe:
    """Icons of 32 x 32 pixels by R3GAN's game (Huang et al. 2024, arXiv:2501.05441) with StyleGAN2's networks.

    `python jobs/stylegan_train.py --recipe r3gan`. Not yet trained to its end here.
    """
    game = StyleGame(loss="relativistic", gamma=10.0, penalise_fakes=True, penalty_every=1, path_weight=0.0, style_mixing=0.0, mirror=True)
    network = StyleNetworks(**SMALL, stddev_group=1)
    train = TrainConfig(steps=2500, global_batch=32, ema_halflife_samples=4000, checkpoint_every_steps=250)
    stage = Stage(task=StyleGANConfig(network=network, game=game), data=DataConfig(train="icons", image_size=32), train=trained(game, train))
    small = StyleGame(loss="relativistic", penalise_fakes=True, penalty_every=1, path_weight=0.0, style_mixing=0.0)
    return Recipe(stages=(stage,), smoke=smoke(StyleGANConfig, small))


TINY_ALIAS_FREE = AliasFree(num_layers=4, num_critical=2, first_cutoff=1.0, first_stopband=2.0, margin=4)


def stylegan3_t() -> Recipe:
    """Icons of 32 x 32 pixels that move as a whole: StyleGAN3 (Karras et al. 2021, arXiv:2106.12423), configuration T.

    `python jobs/stylegan_train.py --recipe stylegan3_t`. Not yet trained to its end here.
    """
    return small_stylegan3(AliasFree(num_layers=8, margin=6))


def stylegan3_r() -> Recipe:
    """The same of configuration R, whose features turn as well as move.

    `python jobs/stylegan_train.py --recipe stylegan3_r`. Not yet trained to its end here.
    """
    return small_stylegan3(AliasFree(num_layers=8, margin=6, radial=True))


def small_stylegan3(design: AliasFree) -> Recipe:
    """On icons, with ada."""
    game = StyleGame(gamma=10.0, path_weight=0.0, style_mixing=0.0, augment="ada", mirror=True)
    network = StyleNetworks(**SMALL, synthesis="stylegan3", alias_free=design)
    train = TrainConfig(steps=2500, global_batch=32, ema_halflife_samples=4000, checkpoint_every_steps=250)
    stage = Stage(task=StyleGANConfig(network=network, game=game), data=DataConfig(train="icons", image_size=32), train=trained(game, train))
    small = replace(game, penalty_every=2)
    tiny = replace(TINY_ALIAS_FREE, radial=design.radial)
    return Recipe(stages=(stage,), smoke=smoke(StyleGANConfig, small, synthesis="stylegan3", alias_free=tiny))


def published(image_size: int, channel_base: int, gamma: float, batch: int) -> Recipe:
    """StyleGAN2 in a published size, for GPUs (NVlabs' stylegan2-ada-pytorch: `paper256` and `stylegan2`)."""
    game = StyleGame(gamma=gamma, mirror=True)
    network = StyleNetworks(channel_base=channel_base, bf16_resolutions=4)
    train = TrainConfig(steps=390_625 * 64 // batch, global_batch=batch, ema_halflife_samples=batch * 10_000 // 32, checkpoint_every_steps=2000)
    stage = Stage(task=StyleGANConfig(network=network, game=game), data=DataConfig(image_size=image_size), train=trained(game, train))
    return Recipe(stages=(stage,), smoke=smoke(StyleGANConfig, StyleGame(penalty_every=2, path_every=2)))


def stylegan2_256() -> Recipe:
    """Images of 256 x 256 pixels, 24,767,458 and 24,001,089 parameters, for GPUs; not yet trained here.

    `python jobs/stylegan_train.py --recipe stylegan2_256 --workers 8 --data.train 'shards/{00000..00099}.tar' --judge inception.safetensors`.
    """
    return published(256, 16_384, 1.0, 64)


def stylegan2_1024() -> Recipe:
    """Images of 1,024 x 1,024 pixels, 30,370,060 and 29,012,513 parameters, for GPUs; not yet trained here.

    `python jobs/stylegan_train.py --recipe stylegan2_1024 --workers 8 --data.train 'shards/{00000..00099}.tar' --judge inception.safetensors`.
    """
    return published(1024, 32_768, 10.0, 32)
