"""Guards that have nothing to learn: a fixed purifier in front of a classifier."""

import time
from copy import deepcopy

from torch import nn

from bezoar.attacks.oracle import DRAWS
from bezoar.classifier import device_of, predict, random_modules
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence
from bezoar.fit import cost_of
from bezoar.models import Purified


def standing(
    purifier: nn.Module, classifier: nn.Module, evidence: Evidence, images: int
) -> Defended:
    """Stand a purifier before a copy of the classifier, and log its clean accuracy as row 0.

    A classifier that declares its randomness is asked ``DRAWS`` times for each answer, as the
    attacks and the referee do.

    Args:
        purifier: images to images, with nothing to learn; it goes where the classifier is.
        classifier: images to logits; not changed.
        evidence: of which the validation images are looked at.
        images: how many of them, the first of the split; 0 is all.
    """
    network = deepcopy(classifier).requires_grad_(False)
    whole = Purified(purifier=purifier.to(device_of(classifier)), network=network).eval()
    return judged(whole, evidence, images)


def judged(whole: nn.Module, evidence: Evidence, images: int) -> Defended:
    """Hand a guarded classifier back with its accuracy on clean validation images as row 0."""
    begun = time.monotonic()
    x, y = evidence.validation.at_most(images).batch(slice(None))
    draws = DRAWS if random_modules(whole) else 1
    clean = (predict(whole, x, draws=draws).argmax(dim=1) == y).double().mean().item()
    meter = Meter(forward=draws * len(x), seconds=time.monotonic() - begun)
    return Defended(whole, [{"round": 0.0, "clean": clean, **cost_of(meter)}], meter)
