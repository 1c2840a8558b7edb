"""Which of a model's actions each endpoint uses: verbs are told by their names, everything else by ports."""

from __future__ import annotations

from collections.abc import Callable

from genlib.actions import Action
from serve.backend import ModelCard

PICTURES = ("image", "sample")
"""Kinds of ports that take pictures, where the model sees any."""
Ability = Callable[[ModelCard], str | None]
"""The action that a model would use; None where it has none."""


def _draws(verb: str) -> Ability:
    """An action of that name that gives pictures."""
    return lambda card: verb if verb in card.actions and card.actions[verb].result.picture else None


def _embeds(*kinds: str) -> Ability:
    """An action that makes codes or features of one such input alone."""

    def found(card: ModelCard) -> str | None:
        return next((name for name, one in card.actions.items() if _alone(one, kinds) and one.result.kind in ("features", "code", "place")), None)

    return found


def _alone(action: Action, kinds: tuple[str, ...]) -> bool:
    return len(action.required) == 1 and action.named(*kinds) == action.required[0]


def _classifies(card: ModelCard) -> str | None:
    """An action that gives probabilities of a picture's labels."""
    fitting = (name for name, one in card.actions.items() if one.result.kind == "probabilities" and one.named(*PICTURES))
    return next(fitting, None) if card.sizes.side else None


def _embeds_pictures(card: ModelCard) -> str | None:
    return _embeds(*PICTURES)(card) if card.sizes.side else None


ABILITIES: dict[str, Ability] = {
    "images.generations": _draws("generate"),
    "images.edits.inpaint": _draws("inpaint"),
    "images.edits.outpaint": _draws("outpaint"),
    "images.edits.image_to_image": _draws("image_to_image"),
    "images.edits.edit": _draws("edit"),
    "images.variations": _draws("image_to_image"),
    "images.translations": _draws("translate"),
    "images.reconstructions": _draws("reconstruct"),
    "embeddings.images": _embeds_pictures,
    "embeddings.texts": _embeds("texts"),
    "classifications": _classifies,
}
"""By endpoint, and what it does there."""


def of(card: ModelCard) -> list[str]:
    """All that a model can be used for."""
    return sorted(what for what, ability in ABILITIES.items() if ability(card))


def action_for(card: ModelCard, *wanted: str) -> str:
    """The action for the first of these uses that the model has. StopIteration where it has none."""
    return next(action for what in wanted if (action := ABILITIES[what](card)))
