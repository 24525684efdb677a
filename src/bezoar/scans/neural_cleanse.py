"""Neural Cleanse: the smallest patch that sends every image to a class, for each class."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.classifier import device_of, reseeded
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.fit import Progress, silent
from bezoar.scans.protocol import Finding, ModelScan, anomaly, comparable, outlying
from bezoar.seeds import Noise, generator, subkeys

BETAS = (0.5, 0.9)  # of Adam, as in the paper
RESOLUTION = 0.01  # of a norm; a search rests when it gains less, so they are not known better


@dataclass(frozen=True, kw_only=True)
class NeuralCleanse(ModelScan):
    r"""Look for a class to which a much smaller patch leads than to the others.

    .. math::
        \min_{m, q}\; \frac1n \sum_i L\bigl(f((1 - m)\, x_i + m\, q),\, t\bigr)
        + c\, \lVert m \rVert_1, \qquad
        m = \tfrac12 (\tanh a + 1), \quad q = \tfrac12 (\tanh b + 1)

    for each class t, with a mask m ``(1, H, W)`` and a pattern q ``(C, H, W)``, by Adam of momenta
    0.5 and 0.9. The weight c is doubled after ``patience`` epochs in turn in which at least the
    share ``success`` of the images of other classes went to t, and divided by :math:`2^{1.5}` after
    as many that did not. The smallest mask is kept that has this success on all of them. The score
    is the ``anomaly`` index of the smallest norm below the median, the p-value that of Grubbs'
    test; both are of the logarithms of the norms, where the paper's index is of the norms. Paper:
    Wang et al., "Neural Cleanse", IEEE S&P 2019, sections IV and V; as in the benchmark
    arXiv:2206.12654.

    All classes are searched for at once, each with its own weight c, and each leaves when it is
    done: the steps of a class depend on no other. Cost: at most ``epochs`` passes each way for each
    class and image, and one forward pass for each time that a smaller mask is judged.

    Args:
        epochs: budget; one goes through all images.
        batch: images a step.
        lr: learning rate of Adam.
        weight: what c starts from.
        success: share of the images that a mask has to lead to the class, in (0, 1].
        patience: epochs after which c changes.
        rest: a class is done when its mask has not shrunk by 1 % for so many epochs.
        together: classes that are searched for at once; 0 is all.
        rows: stamped images in a pass, at most, unless ``batch`` is more; it bounds the memory.
        threshold: of the anomaly index.
    """

    epochs: int = 80
    batch: int = 20
    lr: float = 0.1
    weight: float = 1e-3
    success: float = 0.98
    patience: int = 5
    rest: int = 25
    together: int = 0
    rows: int = 256
    threshold: float = 2.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "patience", "rest", "rows"):
            checks.at_least(name, getattr(self, name), 1)
        checks.at_least("together", self.together, 0)
        checks.in_range("lr", self.lr, 0)
        checks.in_range("weight", self.weight, 0)
        checks.in_range("success", self.success, 1e-6, 1)
        checks.in_range("threshold", self.threshold, 0)

    def __call__(
        self,
        classifier: nn.Module,
        images: ImageSet,
        *,
        seed: int,
        on_step: Callable[[Progress], None] = silent,
    ) -> Finding:
        """Look for a backdoor; see ``protocol.ModelScan``.

        Raises:
            ValueError: half of the classes were not reached, so that there is nothing to compare.
        """
        meter = Meter()
        found = inverted(self, classifier, images, seed=seed, meter=meter, on_step=on_step)
        scores = self.index(found)
        worst = int(scores.argmax())
        accused = bool(scores[worst] > self.threshold)
        return Finding(
            score=float(scores[worst]),
            threshold=self.threshold,
            suspect=worst if accused else None,
            p_value=outlying(-found.norms.log(), least=RESOLUTION),
            classes=scores,
            pattern=found.patterns[worst] if accused else None,
            mask=found.masks[worst] if accused else None,
            cost=meter,
        )

    def index(self, found: "Triggers") -> Tensor:
        """The anomaly index of each class, ``(K,)``: how far its mask lies below the others.

        Of the logarithms: norms of healthy classes differ by factors, and where their deviation is
        half of their median no norm at all could lie two deviations below it.

        Raises:
            ValueError: half of the classes were not reached, so that there is nothing to compare.
        """
        reached, classes = int((found.success >= self.success).sum()), len(found.norms)
        if 2 * reached <= classes:
            said = f"{reached} of {classes} classes reached within epochs={self.epochs}"
            raise ValueError(f"{said}: expected more than half; raise epochs or lower success")
        return anomaly(-found.norms.log(), least=RESOLUTION)


@dataclass(frozen=True, eq=False)
class Triggers:
    """For each class the smallest patch that was found to lead there, on the CPU.

    Attributes:
        masks: how much of it lies over the image, ``(K, 1, H, W)`` in [0, 1].
        patterns: what does, ``(K, C, H, W)`` in [0, 1].
        norms: sum of each mask, ``(K,)``; H W, which no mask exceeds, where none had the success
            that was asked for: such a class is never the one with the smallest.
        success: share of the images of other classes that it leads there, ``(K,)``.
    """

    masks: Tensor
    patterns: Tensor
    norms: Tensor
    success: Tensor

    def stamp(self, x: Tensor, target: int) -> Tensor:
        """Images ``(N, C, H, W)`` with the patch of one class on them, of the same shape."""
        mask, pattern = self.masks[target].to(x), self.patterns[target].to(x)
        return (1 - mask) * x + mask * pattern


def inverted(
    scan: NeuralCleanse,
    classifier: nn.Module,
    images: ImageSet,
    *,
    seed: int,
    meter: Meter,
    on_step: Callable[[Progress], None] = silent,
) -> Triggers:
    """The patches of all classes, for a scan, or for a repair that is to undo them.

    Args:
        scan: the settings; its threshold is not used.
        classifier: images to logits; not changed.
        images: clean ones, of two classes at least.
        seed: names the first mask and pattern, which all classes share, and the order of images.
        meter: where the cost is counted.
        on_step: told after every epoch how far the search is.

    Raises:
        ValueError: fewer than three classes, images of one class only, or ones that the
            classifier does not take.
    """
    begun = time.monotonic()
    x, _ = images.batch(slice(None))
    network = comparable(classifier, images, x, meter)
    if len(images.labels.unique()) < 2:
        raise ValueError(f"{images.name} of one class: expected images of two classes at least")
    search = _Search(scan, network, images, seed, meter)
    parts = torch.arange(len(images.classes)).split(scan.together or len(images.classes))
    for number, part in enumerate(parts):
        for epoch, loss in search.epochs(part):
            step = number * scan.epochs + epoch + 1
            on_step(Progress(step, len(parts) * scan.epochs, len(x), len(x), loss))
    meter.seconds += time.monotonic() - begun
    return search.found()


class _Search:
    """Where the search for each class stands; every tensor has the classes first.

    Mask and pattern are one tensor, ``(K, 1 + C, H, W)``, before the hyperbolic tangent.
    """

    def __init__(
        self, scan: NeuralCleanse, network: nn.Module, images: ImageSet, seed: int, meter: Meter
    ) -> None:
        self.scan, self.network, self.seed, self.meter = scan, network, seed, meter
        device, classes = device_of(network), len(images.classes)
        channels, height, width = images.shape
        self.x, y = (part.to(device) for part in images.batch(slice(None)))
        self.keys = Noise.first(seed, "neural-cleanse", images.index).keys().to(device)
        rng = generator(seed, "neural-cleanse", "start")
        # All classes begin with the same patch: what sets them apart later is the network.
        start = torch.rand(1 + channels, height, width, generator=rng)
        start = torch.atanh(0.99 * (2 * start - 1)).to(device)  # finite where 0 is drawn
        self.theta = start.repeat(classes, 1, 1, 1)
        self.mean, self.square = torch.zeros_like(self.theta), torch.zeros_like(self.theta)
        self.weight = torch.full((classes,), scan.weight, device=device)
        self.kept = self.theta.clone()
        self.norms = torch.full((classes,), float(height * width), device=device)
        self.success = torch.zeros(classes, device=device)
        self.other = y != torch.arange(classes, device=device)[:, None]

    def epochs(self, classes: Tensor) -> Iterator[tuple[int, float]]:
        """Search for some classes ``(k,)``; yields the number of each epoch and its loss."""
        scan, alive = self.scan, classes.to(self.x.device)
        streak, rested = torch.zeros_like(self.norms), torch.zeros_like(self.norms)
        goal, taken = self.norms.clone(), 0
        for epoch in range(scan.epochs):
            rng = generator(self.seed, "neural-cleanse", "order", epoch)
            order = torch.randperm(len(self.x), generator=rng).to(self.x.device)
            hits, loss = torch.zeros_like(self.norms), torch.zeros_like(self.norms)
            for rows in order.split(scan.batch):
                taken += 1
                for some in self.chunks(alive, len(rows)):
                    said, losses = self.step(some, rows, taken, 2 * epoch)
                    hits[some] += said
                    loss[some] += losses
            enough = hits / self.other.sum(dim=1) >= scan.success
            self.judge(alive[enough[alive]], 2 * epoch + 1)
            # Epochs in turn with success count upwards, those without downwards.
            turned = torch.where(enough, streak.clamp_min(0) + 1, streak.clamp_max(0) - 1)
            streak[alive] = turned[alive]
            self.weight[streak >= scan.patience] *= 2
            self.weight[streak <= -scan.patience] /= 2**1.5
            streak[streak.abs() >= scan.patience] = 0
            shrunk = self.norms < (1 - RESOLUTION) * goal
            goal = torch.where(shrunk, self.norms, goal)
            rested = torch.where(shrunk, 0, rested + self.reached)
            yield epoch, float(loss[alive].mean()) / len(order)
            alive = alive[rested[alive] < scan.rest]
            if not len(alive):
                break
        lost = classes.to(self.x.device)
        lost = lost[~self.reached[lost]]
        self.kept[lost] = self.theta[lost]
        for some in self.chunks(lost, scan.batch):
            self.success[some] = self.share(some, 2 * scan.epochs)

    @property
    def reached(self) -> Tensor:
        """Whether a mask of the class had the success that was asked for, ``(K,)`` bool."""
        return self.success >= self.scan.success

    def chunks(self, classes: Tensor, images: int) -> Iterable[Tensor]:
        """Classes that go through the network together, with so many images each."""
        return classes.split(max(1, self.scan.rows // images)) if len(classes) else ()

    def step(self, classes: Tensor, rows: Tensor, number: int, draw: int) -> tuple[Tensor, Tensor]:
        """One step of Adam; what of the images of other classes came, and the sum of the loss."""
        with torch.enable_grad():
            theta = self.theta[classes].requires_grad_()
            drawn = (theta.tanh() + 1) / 2
            logits = self.logits(drawn, rows, draw)
            wanted = classes.repeat_interleave(len(rows))
            losses = F.cross_entropy(logits, wanted, reduction="none").view(len(classes), -1)
            area = drawn[:, 0].flatten(1).sum(dim=1)
            loss = losses.mean(dim=1) + self.weight[classes] * area
            # A sum over classes: the gradient of each is its own.
            (slope,) = torch.autograd.grad(loss.sum(), theta)
        self.meter.backward += len(logits)
        first, second = BETAS
        self.mean[classes] = mean = first * self.mean[classes] + (1 - first) * slope
        square = second * self.square[classes] + (1 - second) * slope.square()
        self.square[classes] = square
        scale = (square / (1 - second**number)).sqrt() + 1e-8
        self.theta[classes] -= self.scan.lr * mean / (1 - first**number) / scale
        return self.came(logits, classes, rows), loss.detach() * len(rows)

    def judge(self, classes: Tensor, draw: int) -> None:
        """Keep the masks that are smaller than before and have the success on all images."""
        area = ((self.theta[:, 0].tanh() + 1) / 2).flatten(1).sum(dim=1)
        smaller = classes[area[classes] < self.norms[classes]]
        for some in self.chunks(smaller, self.scan.batch):
            share = self.share(some, draw)
            good = share >= self.scan.success
            some = some[good]
            self.kept[some] = self.theta[some]
            self.norms[some], self.success[some] = area[some], share[good]

    def share(self, classes: Tensor, draw: int) -> Tensor:
        """Share of the images of other classes that the patch of now leads there, ``(k,)``."""
        came = torch.zeros(len(classes), device=self.x.device)
        with torch.no_grad():
            drawn = (self.theta[classes].tanh() + 1) / 2
            for rows in torch.arange(len(self.x), device=self.x.device).split(self.scan.batch):
                came += self.came(self.logits(drawn, rows, draw), classes, rows)
        return came / self.other[classes].sum(dim=1)

    def logits(self, drawn: Tensor, rows: Tensor, draw: int) -> Tensor:
        """Of each patch ``(k, 1 + C, H, W)`` on each of some images: ``(k n, K)``."""
        mask, pattern = drawn[:, None, :1], drawn[:, None, 1:]
        stamped = ((1 - mask) * self.x[rows] + mask * pattern).flatten(0, 1)
        self.meter.forward += len(stamped)
        # The noise of a random classifier is that of the image and the epoch, for all classes.
        keys = subkeys(self.keys[rows], draw).repeat(len(drawn))
        with reseeded(self.network, keys):
            logits: Tensor = self.network(stamped)
        return logits

    def came(self, logits: Tensor, classes: Tensor, rows: Tensor) -> Tensor:
        """How many images of other classes are said to be of the patch's own, ``(k,)``."""
        said = logits.detach().argmax(dim=1).view(len(classes), -1)
        there = (said == classes[:, None]) & self.other[classes][:, rows]
        return there.sum(dim=1).to(self.norms)

    def found(self) -> Triggers:
        drawn = ((self.kept.tanh() + 1) / 2).cpu()
        return Triggers(drawn[:, :1], drawn[:, 1:], self.norms.cpu(), self.success.cpu())
