"""GradPrune: silence the filters that the gradient of an unlearning loss points at, then tune."""

import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.augment import Augment
from bezoar.classifier import frozen
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Defended, Evidence
from bezoar.fit import (
    SGD,
    Judgement,
    Progress,
    Row,
    Supervised,
    clipped,
    cosine,
    cost_of,
    fit,
    silent,
)
from bezoar.repairs.held_out import Outlook, averaged, cut, joined, outlook
from bezoar.repairs.protocol import Repair
from bezoar.repairs.pruning import ByGradient, Filter, Score, blamed, silence
from bezoar.repairs.sources import Source, Surrogate
from bezoar.seeds import derive
from bezoar.snapshots import Snapshot, Stages, Tree


@dataclass(frozen=True, kw_only=True)
class GradPrune(Repair):
    r"""Prune by the gradient of the unlearning loss, then tune on clean and triggered images.

    .. math::
        L_u(\theta) = \sum_i L\bigl(f_\theta(T(x_i)), y_i\bigr), \qquad
        s_{l,k} = \frac{1}{\lvert\theta_{l,k}\rvert}
        \Bigl\lVert \frac{\partial L_u}{\partial \theta_{l,k}} \Bigr\rVert_1

    with T the trigger and y the true class. The filter k of layer l with the highest score of all
    goes, with its bias and the batch norm that reads it, and the scores are taken anew; then all
    weights learn from images with and without the trigger,

    .. math::
        \min_\theta\; \mathrm{E}\,\bigl[L(f_\theta(x), y) + w\, L(f_\theta(T(x)), y)
        + a\, \mathrm{KL}\bigl(f_0(x) \,\Vert\, f_\theta(x)\bigr)\bigr]

    with f_0 the network as it came, while what was pruned stays zero. Paper: arXiv:2405.03918,
    which has no last term, w = 1 and images that are not moved; with them a network that is not
    sure of its images forgets less of what it knew while it learns a hundred by heart. The released
    code prunes a wrong tensor beside the filter, lets pruned filters grow back, and stops tuning by
    the clean loss alone (docs/methods/grad-prune.md).

    **When to stop** is found by cross-fitting: the images are cut into ``folds``, pruned and tuned
    without one fold at a time, and judged on it. So many filters go as had the smallest mean
    L_u on what was left out, while the accuracy there was less than ``alpha`` below that
    of the start. The learning rate of tuning falls to zero, and its last epochs are where it
    settles: so many are taken as come last within one standard error of the smallest mean loss,
    with the trigger as the source found it, for one that was renewed since is a harder question.
    Ten images a class are one for validation, and an accuracy of ten images is none. Then all
    images are pruned and tuned with. With ``folds=1`` the validation images judge, as in the paper.

    The log has a row for each filter and each epoch that was tried: ``clean``, ``clean_loss``,
    ``trigger_loss`` and their errors are those of the images left out, by which the stop was found,
    and ``kept`` is 1 where it is; of filters that went, ``layer`` and ``filter`` say which, in the
    order of a pass, elsewhere they are -1. Costs are those after the stage.

    Cost: a filter is one pass each way through the network for each triggered image that is learnt
    from, and one forward for each image left out, clean and triggered; an epoch is two passes each
    way an image and one forward, and two forward for each image left out. All of that
    ``folds + 1`` times, and what the source takes.

    Args:
        source: where the trigger is from.
        score: by what the filter is chosen.
        filters: how many may go; 0 is tuning alone.
        alpha: accuracy on clean images that may be lost in pruning.
        patience: filters without a smaller loss after which to stop.
        folds: of cross-fitting; 1 judges on the validation images.
        learn: images that are tuned on.
        judge: loss by which the number of epochs is chosen; the paper's code has ``clean``.
        epochs: of tuning at most; 0 is pruning alone. The learning rate falls along half a cosine.
        batch: images a step, each with and without trigger.
        lr: learning rate that tuning starts from.
        weight: the factor w on the loss of triggered images.
        keep: the factor a on the divergence from the network as it came.
        shift: pixels that an image is moved by at most, see ``augment``.
        clip: largest norm of the gradient over all weights. Norms that hold their statistics make
            the loss steep; without a limit a step may end the network.
        momentum, weight_decay: see ``fit.SGD``.
        masked: whether what is pruned stays so in tuning.
        still: whether the statistics of batch norms are held in tuning; a batch of ten or twenty
            images moves them far.
    """

    source: Source = field(default_factory=Surrogate)
    score: Score = field(default_factory=ByGradient)
    filters: int = 100
    alpha: float = 0.05
    patience: int = 10
    folds: int = 2
    learn: Literal["both", "clean"] = "both"
    judge: Literal["both", "clean"] = "both"
    epochs: int = 20
    batch: int = 32
    lr: float = 0.01
    weight: float = 0.5
    keep: float = 2.0
    shift: int = 2
    clip: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    masked: bool = True
    still: bool = True

    def __post_init__(self) -> None:
        for name in ("filters", "epochs"):
            checks.at_least(name, getattr(self, name), 0)
        if not self.filters and not self.epochs:
            raise ValueError("filters=0 and epochs=0: expected one of them above 0")
        for name in ("patience", "folds", "batch"):
            checks.at_least(name, getattr(self, name), 1)
        checks.in_range("alpha", self.alpha, 0, 1)
        for name in ("lr", "weight", "keep"):
            checks.in_range(name, getattr(self, name), 0)
        checks.in_range("clip", self.clip, 1e-6)
        Augment(shift=self.shift)
        SGD(momentum=self.momentum, weight_decay=self.weight_decay)

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        return _Work(self, classifier, evidence, seed, Stages(snapshot), on_step).done()


class _Work:
    """The parts of one repair, each kept when it is done."""

    def __init__(
        self,
        repair: GradPrune,
        classifier: nn.Module,
        evidence: Evidence,
        seed: int,
        stages: Stages,
        on_step: Callable[[Progress], None],
    ) -> None:
        self._repair, self._evidence, self._seed = repair, evidence, seed
        self._classifier, self._stages, self._on_step = classifier, stages, on_step
        self._meter = Meter()
        self._pairs = cut(evidence, repair.folds, seed)
        self._whole = joined(evidence) if repair.folds > 1 else evidence.train

    def done(self) -> Defended:
        repair, source = self._repair, self._repair.source
        self._probe, _ = self._whole.batch(slice(1))
        found = self._stage(
            "source",
            lambda part: source.find(
                self._classifier, self._evidence, seed=self._seed, meter=self._meter
            ),
        )
        self._found, self._stamp = found, source.stamp(found, self._evidence)
        gone, log = self._prune()
        model = deepcopy(self._classifier).eval()
        silence(model, gone, self._probe)
        self._meter.forward += bool(gone)
        log[-1] |= cost_of(self._meter)
        if repair.epochs:
            log += self._tune(model, gone, len(log))
        pictures = {name: part for name, part in found.items() if isinstance(part, Tensor)}
        return Defended(model.eval(), log, self._meter, pictures)

    def _stage(self, name: str, work: Callable[[Snapshot | None], Tree]) -> Tree:
        """A part of the work, after which the count of the cost is what it was after it."""

        def counted(part: Snapshot | None) -> Tree:
            made = work(part)
            return {**made, "meter": self._meter.as_dict()}

        made = self._stages(name, counted)
        for key, value in made["meter"].items():
            setattr(self._meter, key, value)
        return made

    def _row(self, number: int, seen: Outlook, kept: bool, gone: Filter | None = None) -> Row:
        where = gone or Filter(-1, -1)
        which = {"layer": float(where.layer), "filter": float(where.number), "kept": float(kept)}
        return {"round": float(number), **vars(seen), **which, **cost_of(self._meter)}

    # ------------------------------------------------------------------------------- pruning

    def _prune(self) -> tuple[list[Filter], list[Row]]:
        """The filters that go, and the rows of the log about them."""
        paths = [
            self._stage(f"prune {k}", partial(self._path, *pair))["path"]
            for k, pair in enumerate(self._pairs)
        ]
        curve = averaged([[Outlook(**one) for one in path] for path in paths])
        count = _stop(curve, self._repair.alpha)
        made = self._stage("prune", partial(self._chosen, count))
        gone = [Filter(*one) for one in made["gone"]]
        went = [None, *gone, *[None] * (len(curve) - 1 - len(gone))]
        log = [self._row(k, seen, k == count, went[k]) for k, seen in enumerate(curve)]
        log[0] |= cost_of(Meter())
        return gone, log

    def _path(self, learnt: ImageSet, held: ImageSet, part: Snapshot | None) -> Tree:
        """What images left out say after each filter, as long as there is hope."""
        begun, repair = time.monotonic(), self._repair
        model = deepcopy(self._classifier).eval()
        path = [outlook(model, self._stamp, held, self._meter)]
        best = 0
        for _ in islice(self._blamed(model, learnt), repair.filters):
            path.append(outlook(model, self._stamp, held, self._meter))
            if path[-1].trigger_loss < path[best].trigger_loss:
                best = len(path) - 1
            lost = path[0].clean - path[-1].clean
            if lost >= repair.alpha or len(path) - 1 - best >= repair.patience:
                break
        self._meter.seconds += time.monotonic() - begun
        return {"path": [vars(one) for one in path]}

    def _chosen(self, count: int, part: Snapshot | None) -> Tree:
        """The filters that go when all images are looked at."""
        begun = time.monotonic()
        model = deepcopy(self._classifier).eval()
        gone = list(islice(self._blamed(model, self._whole), count)) if count else []
        self._meter.seconds += time.monotonic() - begun
        return {"gone": [list(one) for one in gone]}

    def _blamed(self, model: nn.Module, images: ImageSet) -> Iterator[Filter]:
        score, meter = self._repair.score, self._meter
        return blamed(model, images, self._stamp, score, seed=self._seed, meter=meter)

    # -------------------------------------------------------------------------------- tuning

    def _tune(self, model: nn.Module, gone: list[Filter], start: int) -> list[Row]:
        """Tune a pruned network in place; the rows of the log about it."""
        held = [
            self._stage(f"tune {k}", partial(self._held, model, gone, *pair))
            for k, pair in enumerate(self._pairs)
        ]
        curve = averaged([[Outlook(**one) for one in each["path"]] for each in held])
        best = settled(curve, self._repair.judge)
        if best:
            made = self._stage("tune", partial(self._tuned, model, gone, best))
            model.load_state_dict(made["state"])
        return [self._row(start + k, seen, k + 1 == best) for k, seen in enumerate(curve[1:])]

    def _held(
        self,
        model: nn.Module,
        gone: list[Filter],
        learnt: ImageSet,
        held: ImageSet,
        part: Snapshot | None,
    ) -> Tree:
        """What images left out say before the first epoch and after each."""
        tuning = self._tuning(model, gone, learnt)

        def judge(epoch: int) -> Judgement:
            # Not with what was renewed since: all epochs are judged by the same images.
            seen = outlook(tuning.model, self._stamp, held, self._meter)
            return Judgement(dict(vars(seen)))

        log = self._fit(tuning, judge, part)
        return {"path": [{name: row[name] for name in Outlook.__annotations__} for row in log]}

    def _tuned(
        self, model: nn.Module, gone: list[Filter], epochs: int, part: Snapshot | None
    ) -> Tree:
        tuning = self._tuning(model, gone, self._whole)
        self._fit(tuning, lambda epoch: Judgement({}, stop=epoch + 1 >= epochs), part)
        return {"state": dict(tuning.model.state_dict())}

    def _tuning(self, model: nn.Module, gone: list[Filter], images: ImageSet) -> "Tuning":
        kept = gone if self._repair.masked else []
        return Tuning(
            self._repair,
            deepcopy(model),
            self._classifier,
            kept,
            self._found,
            self._evidence,
            images,
            seed=derive(self._seed, "tune"),
            meter=self._meter,
        )

    def _fit(
        self, tuning: "Tuning", judge: Callable[[int], Judgement], part: Snapshot | None
    ) -> list[Row]:
        return fit(
            tuning,
            epochs=self._repair.epochs,
            batch=self._repair.batch,
            seed=derive(self._seed, "tune"),
            judge=judge,
            snapshot=part,
            on_step=self._on_step,
        )


class Tuning:
    """Learning from images with and without the trigger, while pruned channels stay zero."""

    model: nn.Module

    def __init__(
        self,
        repair: GradPrune,
        model: nn.Module,
        before: nn.Module,
        gone: list[Filter],
        found: Tree,
        evidence: Evidence,
        images: ImageSet,
        *,
        seed: int,
        meter: Meter,
    ) -> None:
        self._repair, self._before, self._found, self.meter = repair, before, found, meter
        self._evidence, self._images, self._seed = evidence, images, seed
        self._augment = Augment(shift=repair.shift)
        probe, _ = images.batch(slice(1))
        self._silence = silence(model, gone, probe)
        meter.forward += bool(gone)
        optimize = SGD(momentum=repair.momentum, weight_decay=repair.weight_decay)
        self._learning = Supervised(
            model,
            images,
            loss=self._loss,
            lr=repair.lr,
            schedule=cosine,
            optimize=clipped(optimize, repair.clip),
            meter=meter,
        )
        self.model = self._learning.model

    def begin(self, epoch: int) -> int:
        if epoch and self._repair.learn == "both":
            self._found = self._repair.source.renewed(
                self._found,
                self.model,
                self._images,
                seed=derive(self._seed, "renewed", epoch),
                meter=self.meter,
            )
        return self._learning.begin(epoch)

    def step(self, rows: Tensor, position: float) -> float:
        loss = self._learning.step(rows, position)
        self._silence()
        return loss

    def _loss(self, model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        repair, x = self._repair, self._augment(x)
        if repair.still:
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        # One pass a set: the statistics of a batch are then those of one kind of image.
        said = model(x)
        loss = F.cross_entropy(said, y)
        self._count(len(x), backward=True)
        if repair.learn == "both":
            stamp = repair.source.stamp(self._found, self._evidence)
            loss = loss + repair.weight * F.cross_entropy(model(stamp(x)), y)
            self._count(len(x), backward=True)
        if repair.keep:
            with torch.no_grad(), frozen(self._before) as before:
                known = before(x).log_softmax(dim=1)
            far = F.kl_div(said.log_softmax(dim=1), known, reduction="batchmean", log_target=True)
            loss = loss + repair.keep * far
            self._count(len(x), backward=False)
        return loss

    def _count(self, images: int, *, backward: bool) -> None:
        self.meter.forward += images
        self.meter.backward += images if backward else 0

    def state_dict(self) -> Tree:
        return {"learning": self._learning.state_dict(), "found": self._found}

    def load_state_dict(self, state: Tree) -> None:
        self._learning.load_state_dict(state["learning"])
        self._found = state["found"]


def _stop(curve: Sequence[Outlook], alpha: float) -> int:
    """How many filters go: the smallest loss of triggered images while the clean ones are kept."""
    best = 0
    for k, seen in enumerate(curve):
        if curve[0].clean - seen.clean >= alpha:
            break
        if seen.trigger_loss < curve[best].trigger_loss:
            best = k
    return best


def settled(curve: Sequence[Outlook], judge: Literal["both", "clean"]) -> int:
    """The last epoch whose loss is within one standard error of the smallest."""
    if judge == "both":
        losses = [(seen.clean_loss + seen.trigger_loss, seen.both_error) for seen in curve]
    else:
        losses = [(seen.clean_loss, seen.clean_error) for seen in curve]
    smallest, error = min(losses)
    return max(k for k, (loss, _) in enumerate(losses) if loss <= smallest + error)
