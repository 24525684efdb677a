"""Measures what an attack does to a classifier; trusts no method's own word.

An attack hands back images. Whether they are images, how far they lie from the clean ones, what
the classifier says to them and on which weights they were made is found out here, for every
method alike.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bezoar import checks
from bezoar import classifier as classifiers
from bezoar.attacks import ATTACKS, Attack, Fitted, Goal, Targeted, Untargeted
from bezoar.attacks.engine import perturb, search, shrink
from bezoar.attacks.oracle import DRAWS, Answers
from bezoar.data.imageset import ImageSet
from bezoar.geometry import DISTANCES
from bezoar.results import Facts
from bezoar.seeds import Noise
from bezoar.snapshots import Snapshot

Target = int | Literal["random"] | Tensor

UNIT = 1000  # images a unit of work: what is computed, stored and resumed as a whole


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What a set of adversarial images is and where it comes from.

    Attributes:
        metric: name in tables, for example ``fgsm@0.1``.
        attack: name of the method in the table of attacks.
        recipe: the attack with all its settings.
        norm: norm of the ball.
        eps: its radius, in pixel units of [0, 1]; infinite for an attack that is held to none.
        steps: gradient steps of a start; 0 is noise, 1 a one-step attack.
        data: name of the images' split.
        seed: seed of the noise.
        away_from: the class that the attack leads away from, ``label`` or ``predicted``.
        draws: passes that each answer of a random classifier was averaged over; 1 if it is not.
        target: what it leads to instead: the number of a class, ``random``, ``given HASH``, or ""
        low: precision that was searched in before float32, ``bfloat16`` or "".
        made_on: hash of the weights that the attack had before it.
        scored_on: hash of the weights that classified the images.
    """

    metric: str
    attack: str
    recipe: str
    norm: str
    eps: float
    steps: int
    data: str
    seed: int
    made_on: str
    scored_on: str
    away_from: str = "label"
    draws: int = 1
    target: str = ""
    low: str = ""

    def judging(self, index: NDArray[np.int64]) -> Tensor:
        """Keys of a random classifier's noise when it judges images, ``(N,)`` int64.

        The same for clean and attacked images and for every attack, but no attack's own: so the
        attack cannot have chosen an image for them, and the worst of many attacks is not the
        worst of as many tries.
        """
        return Noise.first(self.seed, f"judge/{self.data}", index).keys()

    @property
    def access(self) -> str:
        """``white-box`` when made on the weights that are scored, else ``transfer``."""
        return "white-box" if self.made_on == self.scored_on else "transfer"

    def as_dict(self) -> dict[str, object]:
        """For JSON: ``access`` is written too, for readers, and no radius is ``null``.

        What the usual attack on a usual classifier does not have is left out, as in older folders.
        """
        eps = None if self.eps == math.inf else self.eps
        said = {**asdict(self), "eps": eps, "access": self.access}
        usual = {("target", ""), ("draws", 1), ("low", "")}
        return {name: value for name, value in said.items() if (name, value) not in usual}


@dataclass(frozen=True)
class Measurement:
    """The facts of an attack, the images that prove them, and their stamp.

    ``x_adv`` is float32 ``(N, C, H, W)``, in the order of the facts.
    """

    stamp: Stamp
    facts: Facts
    x_adv: NDArray[np.float32]
    seconds: float = 0.0


class Referee:
    """Measures one attack on one classifier over one set of images, unit by unit.

    In a ball it looks for an image that fools. Without a radius the distance is what counts: of an
    attack that goes on to nearer images it keeps the nearest, and an image that was not fooled has
    no distance (``Facts.reach``).

    What unit k gives depends on k, the weights, the attack, the images and the seed alone.

    Args:
        attack: the method.
        classifier: what is scored; not changed.
        images: what it is attacked on.
        seed: names the noise.
        aim: what the attacker attacks instead, when he does not know ``classifier``; with all its
            steps, for an image that just fools one network rarely fools another.
        away_from: the class that the attack leads away from: the true ``"label"``, or the class
            ``"predicted"`` for the clean image. A one-step attack that knows the label can leak
            it into the image (arXiv:1611.01236), and a network trained on such images reads it.
        target: the class to lead to instead: a number, and images of that class are left out;
            ``"random"``, any wrong class, drawn from the seed for each image; or ``(N,)`` int64.
        metric: name in tables; by default the attack's name and eps, after ``transfer:`` where
            ``aim`` has other weights than ``classifier``, and ``targeted:`` with a target.
        batch: images in a pass.
        draws: passes that each answer of a random classifier is averaged over, in the attack and
            in the judgement; another is asked once.
        low_precision: search in bfloat16 first, see ``classifier.Lowered``. Only what float32
            says counts, and what was not found is attacked again in float32; attacks of one step
            and those that look for the nearest image run in float32 alone.

    Raises:
        ValueError: images and classifier do not fit, or it has a finite output for none of the
            first eight; an attack that was not fitted, or on the very images that it attacks; a
            target that is no class, or that is an image's own; an attack that cannot lead to one
            class.
    """

    def __init__(
        self,
        attack: Attack,
        classifier: nn.Module,
        images: ImageSet,
        *,
        seed: int,
        aim: nn.Module | None = None,
        away_from: Literal["label", "predicted"] = "label",
        target: Target | None = None,
        metric: str | None = None,
        batch: int = 128,
        draws: int = DRAWS,
        low_precision: bool = False,
    ) -> None:
        checks.at_least("draws", draws, 1)
        checks.radius(f"{name_of(attack)}: eps", attack.eps)
        _require_fitted(attack, images)
        aim = classifier if aim is None else aim
        self._targets: Tensor | None = None
        if target is not None:
            if away_from != "label":
                raise ValueError(f"away_from={away_from!r}: expected 'label' beside a target")
            images, self._targets = aimed(images, target, seed)
        probe, _ = images.batch(torch.arange(min(8, len(images))))
        for network in (classifier, aim):
            classifiers.require(network, probe, len(images.classes))
        self._attack, self._batch = attack, batch
        self._classifier, self._images, self._away_from = classifier, images, away_from
        self._prepared = classifiers.prepare(aim, probe)
        judged = _random(classifier, probe)
        attacked = judged if aim is classifier else _random(aim, probe)
        self._draws = draws if attacked else 1
        # Where an image's logits depend on its neighbours, dropping some changes the others.
        one_shot = attack.steps <= 1 and attack.restarts == 1
        made_on, scored_on = map(classifiers.weights_hash, (aim, classifier))
        transfer = made_on != scored_on
        self._whole = one_shot or transfer or classifiers.neighbours_matter(aim, probe)
        if self._targets is not None:
            _require_targets(attack, self._prepared, probe[:1], self._targets[:1])
        nearest = attack.refines and attack.eps == math.inf
        self._run = shrink if nearest else perturb if self._whole else search
        low = low_precision and self._run is search
        self._low = classifiers.Lowered(self._prepared) if low else None
        if metric is None:
            metric = metric_of(attack, transfer=transfer, targeted=target is not None)
        self.stamp = Stamp(
            metric=metric,
            attack=name_of(attack),
            recipe=repr(attack),
            norm=attack.norm,
            eps=attack.eps,
            steps=attack.steps,
            data=images.name,
            seed=seed,
            made_on=made_on,
            scored_on=scored_on,
            away_from=away_from,
            draws=draws if judged else 1,
            target=_said(target),
            low="bfloat16" if low else "",
        )

    @property
    def units(self) -> int:
        """Number of units of work."""
        return -(-len(self._images) // UNIT)

    @property
    def index(self) -> NDArray[np.int64]:
        """Positions of the images in their source, those of all units."""
        return self._images.index

    def unit(self, k: int, snapshot: Snapshot | None = None) -> tuple[Facts, NDArray[np.float32]]:
        """Attack and score the images of unit k, ``k * UNIT`` up to ``(k + 1) * UNIT``.

        A long search keeps its state in ``snapshot``, and goes on from there.
        """
        rows = torch.arange(k * UNIT, min((k + 1) * UNIT, len(self._images)))
        x, y = self._images.batch(rows)
        index = self._images.index[rows.numpy()]
        noise = Noise.first(self.stamp.seed, f"{self.stamp.attack}/{self.stamp.data}", index)
        # An image that is wrong before the attack is not robust whatever the attack finds: the
        # search leaves it out. One-step attacks take all, so that their loss is that of the set;
        # who aims elsewhere does not know which are wrong.
        known = not self._whole
        # Asked of the original where it may be, as score does, so that both agree to the bit.
        judge = self._classifier if known else self._prepared
        keys, draws = self.stamp.judging(index), self.stamp.draws if known else self._draws
        said = classifiers.said(classifiers.predict(judge, x, keys=keys, draws=draws))
        if self._targets is None:
            goal: Goal = Untargeted(y if self._away_from == "label" else said)
            done = said != y
        else:
            goal = Targeted(self._targets[rows])
            done = said == self._targets[rows]
        # Where there is no answer to the image itself no attack has anything to go by.
        todo = (said >= 0) & ~(done & known)
        x_adv = x.clone()
        spent = {"forward": torch.full_like(y, draws), "backward": torch.zeros_like(y)}
        first_success = torch.where(todo, -1, 0)
        zero = torch.zeros_like(todo)
        if todo.any():
            left = todo.nonzero().squeeze(1)
            part = noise.take(left.numpy(), noise.draws[todo.numpy()])
            sizes: dict[str, Any] = {"batch": self._batch, "draws": self._draws}
            if self._run is not perturb:
                sizes["snapshot"] = snapshot
            if self._run is search:
                sizes["low"] = self._low
            own = goal.take(left)
            found = self._run(self._attack, self._prepared, x[todo], own, part, **sizes)
            x_adv[todo], first_success[todo] = found.x_adv, found.first_success
            spent["forward"][todo] += found.forward
            spent["backward"][todo] += found.backward
            zero[todo] = found.zero_gradient
        norm, draws = self.stamp.norm, self.stamp.draws
        facts = score(self._classifier, x, x_adv, y, index, norm=norm, keys=keys, draws=draws)
        facts |= {name: count.numpy() for name, count in spent.items()}
        facts |= {"first_success": first_success.numpy(), "zero_gradient": zero.numpy()}
        if self._targets is not None:
            facts |= {"target": self._targets[rows].numpy()}
        return Facts(**facts), x_adv.numpy()

    def __iter__(self) -> Iterator[tuple[Facts, NDArray[np.float32]]]:
        return (self.unit(k) for k in range(self.units))


def _random(classifier: nn.Module, probe: Tensor) -> bool:
    """Whether a classifier is random, by its own word or by what it does."""
    declared = bool(classifiers.random_modules(classifier))
    return declared or classifiers.outputs_random(classifier, probe)


def _require_fitted(attack: Attack, images: ImageSet) -> None:
    if not isinstance(attack, Fitted):
        return
    if attack.learnt is None:
        expected = "expected one that was fitted; call its fit on train or validation images"
        raise ValueError(f"{name_of(attack)}: {expected}")
    if attack.learnt.source == images.name:
        found = f"fitted on {images.name}, which it attacks"
        raise ValueError(f"{name_of(attack)}: {found}: expected train or validation images")


def aimed(images: ImageSet, target: Target, seed: int) -> tuple[ImageSet, Tensor]:
    """The images that can be led to a target, and where each is to go, ``(N,)`` int64.

    Arguments as in ``Referee``. A random target depends on the seed and the image alone.

    Raises:
        ValueError: no class, an image's own class, or no image is left.
    """
    classes, labels = len(images.classes), images.labels
    if isinstance(target, Tensor):
        checks.labels(target, classes, "target")
        if len(target) != len(images):
            raise ValueError(f"target of {len(target)} classes: expected {len(images)}")
        if own := int((target == labels).sum()):
            raise ValueError(f"target: {own} are the images' own classes: expected others")
        return images, target
    if isinstance(target, int) and not isinstance(target, bool):
        if not 0 <= target < classes:
            raise ValueError(f"target={target}: expected a class, 0 to {classes - 1}")
        others = (labels != target).nonzero().squeeze(1).numpy()
        if not len(others):
            raise ValueError(f"target={target}: expected an image of another class, found none")
        return images.take(others), torch.full((len(others),), target)
    if target != "random":
        raise ValueError(f"target={target!r}: expected a class number, 'random' or (N,) int64")
    keys = Noise.first(seed, f"target/{images.name}", images.index).keys()
    return images, (labels + 1 + keys % (classes - 1)) % classes


def _said(target: Target | None) -> str:
    """The target for the stamp; given ones by a hash, so that others are not taken for them."""
    if isinstance(target, Tensor):
        return f"given {blake2b(target.cpu().numpy().tobytes(), digest_size=4).hexdigest()}"
    return "" if target is None else str(target)


def _require_targets(attack: Attack, classifier: nn.Module, x: Tensor, target: Tensor) -> None:
    """Require that an attack can lead to one class; those that cannot say so when they start."""
    device = classifiers.device_of(classifier)
    x, goal = x.to(device), Targeted(target.to(device))
    for part in attack.parts or (attack,):
        try:
            part.start(x, Answers(classifier, part, x, goal), Noise.first(0, "probe", np.arange(1)))
        except ValueError as error:
            raise ValueError(f"{name_of(attack)}: {error}") from error


def score(
    classifier: nn.Module,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    index: NDArray[np.int64],
    *,
    norm: str,
    keys: Tensor | None = None,
    draws: int = 1,
) -> dict[str, Any]:
    """Let a classifier judge adversarial images, wherever they come from.

    A random classifier is asked ``draws`` times, with noise of ``keys``: its class is the one that
    is most probable on average, see ``classifier.averaged``.

    Returns the columns of ``Facts`` that need no attack: index, label, clean, adversarial,
    clean_loss, loss, distance. Where the classifier's output is not finite the class is -1 and
    the loss 0.

    Raises:
        ValueError: what should be images is none, or of another shape than the clean ones.
    """
    checks.images(x, "x")
    checks.images(x_adv, "x_adv")
    if x_adv.shape != x.shape:
        raise ValueError(f"x_adv of shape {tuple(x_adv.shape)}: expected {tuple(x.shape)}")
    clean, attacked = (
        classifiers.predict(classifier, batch, keys=keys, draws=draws) for batch in (x, x_adv)
    )
    said, heard = classifiers.said(clean), classifiers.said(attacked)
    columns = {
        "label": y,
        "clean": said,
        "adversarial": heard,
        "clean_loss": _losses(clean, y, said),
        "loss": _losses(attacked, y, heard),
        "distance": DISTANCES[norm](x_adv, x).float(),
    }
    return {"index": index, **{name: column.numpy() for name, column in columns.items()}}


def _losses(logits: Tensor, y: Tensor, said: Tensor) -> Tensor:
    """Cross-entropy of each image, 0 for one without a class."""
    return torch.where(said < 0, 0, F.cross_entropy(logits, y, reduction="none").float())


def measure(
    attack: Attack,
    classifier: nn.Module,
    images: ImageSet,
    *,
    seed: int,
    aim: nn.Module | None = None,
    away_from: Literal["label", "predicted"] = "label",
    target: Target | None = None,
    metric: str | None = None,
    draws: int = DRAWS,
    low_precision: bool = False,
) -> Measurement:
    """Measure an attack over a whole set, in memory. Arguments as in ``Referee``."""
    start = time.perf_counter()
    referee = Referee(
        attack,
        classifier,
        images,
        seed=seed,
        aim=aim,
        away_from=away_from,
        target=target,
        metric=metric,
        draws=draws,
        low_precision=low_precision,
    )
    facts, x_adv = zip(*referee, strict=True)
    seconds = time.perf_counter() - start
    return Measurement(referee.stamp, Facts.joined(facts), np.concatenate(x_adv), seconds)


def metric_of(attack: Attack, *, transfer: bool = False, targeted: bool = False) -> str:
    """Name of what an attack measures, in tables and as a folder: ``NAME@EPS``.

    Without a radius it is ``NAME``, and the tables have the distances that it found. With
    ``transfer:`` before it where the images are made on other weights, then ``targeted:``.
    """
    name = name_of(attack) if attack.eps == math.inf else f"{name_of(attack)}@{attack.eps:g}"
    return f"{'transfer:' * transfer}{'targeted:' * targeted}{name}"


def name_of(attack: Attack) -> str:
    """Name of an attack in tables: its name in the table of attacks, norm, loss, number of steps.

    Norm and loss are named where they are not the attack's usual ones, the number of steps where
    there are several; an attack of parts has its name alone.
    """
    names = [name for name, kind in ATTACKS.items() if kind is type(attack)]
    name = names[0] if names else type(attack).__name__.lower()
    for field in ("norm", "loss"):
        chosen = getattr(attack, field, None)
        if chosen != getattr(type(attack), field, chosen):
            name = f"{name}-{chosen}"
    if attack.steps <= 1 or attack.parts:
        return name
    return f"{name}-{attack.steps}" if name[-1].isdigit() else f"{name}{attack.steps}"
