"""What makes a robustness number suspect: warnings that cannot be switched off.

Each check compares measurements of one classifier, image by image. Where two attacks are
compared, chance is ruled out by an exact McNemar test on the images that only one of them fools.
After the checklists of arXiv:1902.06705 and arXiv:1802.00420.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from bezoar.classifier import NEIGHBOURS, RANDOM
from bezoar.referee import Measurement

MASKED_GAP = 0.20  # robust accuracy, one-step above many-step
UNIFORM_GAP = 0.05  # nats between the mean adversarial loss and ln K
UNIFORM_SPREAD = 0.25  # nats, median over images: equal outputs give every image the same loss
ZERO_SHARE = 0.10  # images whose gradient is exactly zero
SIGNIFICANT = 0.01  # p of the exact McNemar test
SURVIVES = 0.05  # robust accuracy that no attack without limits should leave
PROBABILITIES = 1e-4  # distance of outputs from probabilities: float32 rounds sums of many classes


@dataclass(frozen=True)
class Warning:
    """One suspicion: its kind, a page anchor in the docs, and the numbers that raise it.

    ``images`` are the positions of those that it is about, where it is about some.
    """

    kind: str
    text: str
    images: Sequence[int] = ()

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        about = {"images": list(self.images)} if self.images else {}
        return {"kind": self.kind, "text": self.text, **about}


def warnings(
    measurements: Sequence[Measurement],
    *,
    classes: int,
    random_outputs: float = 0.0,
    neighbours_matter: float = 0.0,
    probabilities: float = math.inf,
) -> list[Warning]:
    """All suspicions about one classifier.

    Args:
        measurements: of this classifier; those on images made on other weights are named, and
            left out of the comparisons.
        classes: number of classes, K.
        random_outputs: what ``classifier.output_change`` found.
        neighbours_matter: what ``classifier.neighbour_change`` found.
        probabilities: what ``classifier.from_probabilities`` found.
    """
    own = [m for m in measurements if m.stamp.access == "white-box"]
    found = [*_transfers(measurements), *_unanswered(measurements), *_of_each(own, classes)]
    away = [m for m in own if m.facts.target is None]  # towards a target is another question
    weaker = [m for m in away if m.stamp.attack != "noise" and not _sees_many_steps(m)]
    found += [*_of_pairs(away), *_misleading(weaker, away), *_unlimited(away)]
    if random_outputs > RANDOM:
        text = (
            f"outputs change by {random_outputs:.1%} of the largest from pass to pass in eval "
            "mode, by noise that is not declared: remove it, or declare it by reseed(keys)"
        )
        found.append(Warning("random-outputs", text))
    elif neighbours_matter > NEIGHBOURS:  # where outputs are random, nobody can tell
        text = (
            f"an image's outputs change by {neighbours_matter:.1%} of the largest with the other "
            "images in its batch"
        )
        found.append(Warning("neighbours", text))
    if probabilities < PROBABILITIES:
        text = (
            f"outputs lie within {probabilities:.1g} of probabilities (none below 0, sum 1): "
            "expected logits; leave out the last softmax, or take its logarithm"
        )
        found.append(Warning("probabilities", text))
    return found


def outdone(measurements: Sequence[Measurement], elsewhere: Sequence[Measurement]) -> list[Warning]:
    """Where who knows another network only fools this one more than who knows it.

    Args:
        measurements: of this classifier.
        elsewhere: on images that were made on other weights, on purpose.
    """
    own = [m for m in measurements if m.stamp.access == "white-box" and m.facts.target is None]
    return list(_misleading([m for m in elsewhere if m.facts.target is None], own))


def _transfers(measurements: Sequence[Measurement]) -> Iterator[Warning]:
    for m in measurements:
        if m.stamp.access != "white-box":
            text = (
                f"{m.stamp.metric}: images made on weights {m.stamp.made_on}, scored on "
                f"{m.stamp.scored_on}; this is transfer, and says nothing about an attacker of "
                "these weights"
            )
            yield Warning("transfer-set", text)


def _unanswered(measurements: Sequence[Measurement]) -> Iterator[Warning]:
    for m in measurements:
        silent = (m.facts.clean < 0) | (m.facts.adversarial < 0)
        if images := m.facts.index[silent].tolist():
            shown = ", ".join(map(str, images[:10])) + ", ..." * (len(images) > 10)
            text = f"{m.stamp.metric}: output that is not finite on {len(images)} images: {shown}"
            yield Warning("not-finite", text, images)


def _of_each(own: Sequence[Measurement], classes: int) -> Iterator[Warning]:
    uniform = math.log(classes)
    for m in own:
        name, facts = m.stamp.metric, m.facts
        loss = facts.mean_loss
        spread = float(np.median(np.abs(facts.loss - uniform)))
        near = abs(loss - uniform) < UNIFORM_GAP and spread < UNIFORM_SPREAD
        if m.stamp.steps == 1 and near:
            text = f"{name}: loss {loss:.4f} is ln {classes} = {uniform:.4f}: uniform output"
            yield Warning("uniform-output", f"{text}, probably an untrained network")
        better, worse = _only(facts.adversarial == facts.label, facts.clean == facts.label)
        if better > worse and _chance(better, worse) < SIGNIFICANT:
            text = f"{name}: the attack puts {better} images right and only {worse} wrong"
            yield Warning("above-clean", text)
        zero = float(facts.zero_gradient.mean())
        if zero > ZERO_SHARE:
            text = f"{name}: the first gradient is exactly zero on {zero:.1%} of the images"
            hint = "declare a surrogate(x) where the forward has none, or attack without it"
            yield Warning("zero-gradients", f"{text}; {hint}")
        if m.stamp.norm == "linf" and 1 <= m.stamp.eps < math.inf and m.stamp.steps > 1:
            rate = facts.robust_accuracy
            if rate.interval[0] > SURVIVES:
                text = f"{name}: {rate} still stand though every pixel may take any value"
                yield Warning("survives-eps-1", text)


def _unlimited(own: Sequence[Measurement]) -> Iterator[Warning]:
    """The strongest of the attacks along gradients that no radius holds back; a weak one may fail.

    Those that may change few values only are held back.
    """
    free = [m for m in own if m.stamp.eps == math.inf and m.stamp.norm != "l0"]
    free = [m for m in free if _sees_many_steps(m)]
    for m in sorted(free, key=lambda m: m.facts.robust_accuracy.value)[:1]:
        rate = m.facts.robust_accuracy
        if rate.interval[0] > SURVIVES:
            text = f"{m.stamp.metric}: {rate} still stand though every pixel may take any value"
            yield Warning("survives-eps-1", text)


def _of_pairs(own: Sequence[Measurement]) -> Iterator[Warning]:
    one_step = sorted((m for m in own if m.stamp.steps == 1), key=lambda m: m.stamp.eps)
    for low, high in combinations(one_step, 2):
        same = low.stamp.attack == high.stamp.attack and low.stamp.eps < high.stamp.eps
        if same and (counts := _stronger(low, high)):
            text = f"{_both(high, low)}: accuracy under one step does not fall with eps"
            yield Warning("not-falling-with-eps", f"{text} ({counts})")
    for one, many in product(own, own):
        if one.stamp.steps >= many.stamp.steps or not _same_ball(one, many):
            continue
        misled = one.stamp.steps == 1 and _sees_many_steps(many)
        if misled and _gap(one, many) > MASKED_GAP and not _curved(one, own):
            text = f"{_both(one, many)}: one step is misled; trust the lower number"
            yield Warning("masked-gradients", text)
        if one.stamp.attack == "noise" and (counts := _stronger(one, many)):
            yield Warning("noise-stronger", f"{_misled(one, many)} ({counts})")


def _misleading(weaker: Sequence[Measurement], own: Sequence[Measurement]) -> Iterator[Warning]:
    """One step, many queries without a gradient, another network's images: against many steps."""
    for weak in weaker:
        strong = [m for m in own if _sees_many_steps(m) and _same_ball(weak, m)]
        # Some attacks are made to transfer and weak here: it has to be stronger than all.
        found = [_stronger(weak, m) for m in strong]
        if found and all(found):
            least = min(range(len(strong)), key=lambda k: strong[k].facts.robust_accuracy.value)
            yield Warning("masked-gradients", f"{_misled(weak, strong[least])} ({found[least]})")


def _sees_many_steps(m: Measurement) -> bool:
    """Whether it is an attack of many steps that asks for gradients, not for scores only."""
    return m.stamp.steps > 1 and bool(m.facts.backward.any())


def _misled(weak: Measurement, strong: Measurement) -> str:
    return f"{_both(weak, strong)}: the weaker attack fools more, so gradients mislead"


def _gap(one: Measurement, many: Measurement) -> float:
    """How much more stands under the first, as a share of the images that both attacked."""
    stand_one, stand_many = _standing(one, many)
    return float((stand_one.mean() - stand_many.mean()) if len(stand_one) else 0)


def _curved(one: Measurement, own: Sequence[Measurement]) -> bool:
    """Whether the gap is what an ordinary loss surface gives at this radius.

    One long step overshoots on any curved loss, the more the larger eps: on an undefended LeNet
    on MNIST it leaves 30 points more than many steps at eps 0.1. But there many steps of at most
    half the radius leave more than the one full step does. A classifier that is fitted to the one
    step falls to them as well.
    """
    half = [
        many
        for many in own
        if many.stamp.steps > 1
        and many.stamp.norm == one.stamp.norm
        and one.stamp.eps / 2 - 1e-9 <= many.stamp.eps < one.stamp.eps
    ]
    return any(_gap(many, one) >= 0 and len(_standing(many, one)[0]) for many in half)


def _both(a: Measurement, b: Measurement) -> str:
    standing = zip((a, b), _standing(a, b), strict=True)
    return ", ".join(f"{m.stamp.metric} leaves {stands.mean():.1%}" for m, stands in standing)


def _standing(a: Measurement, b: Measurement) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which images stand under each, of those that both attacked.

    A costly attack often sees the first images only, and they are not as hard as the rest.
    """
    if a.stamp.data != b.stamp.data:
        return np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.bool_)
    _, in_a, in_b = np.intersect1d(
        a.facts.index, b.facts.index, assume_unique=True, return_indices=True
    )
    return a.facts.robust[in_a], b.facts.robust[in_b]


def _same_ball(a: Measurement, b: Measurement) -> bool:
    return (a.stamp.norm, a.stamp.eps) == (b.stamp.norm, b.stamp.eps)


def _only(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[int, int]:
    """Images where only the first holds, and where only the second does."""
    return int((a & ~b).sum()), int((b & ~a).sum())


def _chance(a: int, b: int) -> float:
    """Two-sided p of the exact McNemar test for a against b discordant images."""
    from scipy.stats import binomtest

    return float(binomtest(a, a + b).pvalue) if a + b else 1.0


def _stronger(weak: Measurement, strong: Measurement) -> str:
    """Say how the attack that should be weaker fools more, or nothing where it does not."""
    under_weak, under_strong = _standing(weak, strong)
    only_weak, only_strong = _only(under_strong, under_weak)
    if only_weak > only_strong and _chance(only_weak, only_strong) < SIGNIFICANT:
        return f"{only_weak} images fall to it alone, {only_strong} to the other alone"
    return ""
