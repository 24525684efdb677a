"""Does the audit tell networks that mask their gradients from honest ones that it has never seen?

A second zoo of small networks on the digits that come along. They were built from the literature
(arXiv:1802.00420, 1902.06705, 2002.08347 and the papers named below) without looking at the checks
or at the first zoo, and the audit then ran on them once: nothing was changed after its answers were
known. So the rates here say what the checks are worth on masks that they were not made for. Each
mask also comes with an attacker who knows it and takes his gradients from a stand-in, which tells
how much robustness the mask only feigned.

    python benchmarks/zoo.py

Metrics: ``masks`` (1 if it does by construction), ``flagged`` (1 if the audit warns at all),
``clean``, ``robust@0.08`` (share that stands against all attacks of the list up to this radius) and
``adaptive@0.08`` (share that stands against PGD on the stand-in).
"""

import argparse
import math
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from networks import PAGES, RESULTS
from scipy.fft import dctn, idctn
from torch import Tensor, nn

from bezoar import audit, data, models
from bezoar.attacks import PGD, PGDL2, Attack
from bezoar.data.imageset import DataSet, ImageSet
from bezoar.defence import Evidence
from bezoar.demo import CURVE, EPS
from bezoar.referee import measure
from bezoar.repairs import Correct, Stop
from bezoar.report import sheet
from bezoar.results import Rate
from bezoar.runs import provenance
from bezoar.training import Training

NAME = "masking-zoo"
SEED = 0
COUNT = 200  # test images

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Masked(NamedTuple):
    """A network that hides its gradients, and what an attacker who knows how takes instead."""

    network: nn.Module
    stand_in: nn.Module


# --------------------------------------------------------------------------------- training


def small(
    activation: Callable[[], nn.Module] = nn.ReLU, *, channels: int = 1, width: int = 16
) -> nn.Sequential:
    """Two convolutions and two dense layers for images of 8x8."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        activation(),
        nn.AvgPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        activation(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, 64),
        activation(),
        nn.Linear(64, 10),
    )


def dense(activation: Callable[[], nn.Module] = nn.ReLU, *, width: int = 128) -> nn.Sequential:
    """Two hidden layers."""
    sizes = ((64, width), (width, width))
    layers = [layer for size in sizes for layer in (nn.Linear(*size), activation())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, 10))


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def learnt(
    model: nn.Module,
    train: ImageSet,
    *,
    loss: Loss = cross_entropy,
    epochs: int = 30,
    lr: float = 2e-3,
    decay: float = 0.0,
) -> nn.Module:
    """Train in place with AdamW; losses and settings here are those that ``Training`` has not."""
    x, y = train.batch(slice(None))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss(model, x[rows], y[rows]).backward()
            optimizer.step()
    return model.eval()


def having(model: nn.Module, **fields: Any) -> nn.Module:
    """A copy whose layers have other settings, where they have such a setting."""
    copy = deepcopy(model)
    for module in copy.modules():
        for name, value in fields.items():
            if hasattr(module, name):
                setattr(module, name, value)
    return copy


# ------------------------------------------------------------------------ masks on the input


class Thermometer(nn.Module):
    """Each pixel as how many of ten thresholds it passes (Buckman et al., ICLR 2018)."""

    thresholds: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.slope = math.inf  # of the step; finite for the stand-in
        self.register_buffer("thresholds", (torch.arange(10) + 0.5)[:, None, None] / 10)

    def forward(self, x: Tensor) -> Tensor:
        over = x - self.thresholds
        return (over > 0).float() if self.slope == math.inf else (self.slope * over).sigmoid()


# The table of luminance of the JPEG standard, annex K, for blocks of 8x8: here a whole image.
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


class JPEG(nn.Module):
    """Quantised cosine transform at quality 25, computed outside autograd (arXiv:1608.00853)."""

    def forward(self, x: Tensor) -> Tensor:
        steps = 2 * LUMINANCE / 255
        waves = dctn(x.detach().numpy().astype(np.float64), axes=(2, 3), norm="ortho")
        back = idctn(np.round(waves / steps) * steps, axes=(2, 3), norm="ortho")
        return torch.from_numpy(back.clip(0, 1).astype(np.float32))


class Codebook(nn.Module):
    """Each patch of 2x2 replaced by the nearest of 32 that k-means found in the training images."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        patches = F.pixel_unshuffle(x, 2).permute(0, 2, 3, 1).reshape(-1, 4)
        self.codes = patches[torch.randperm(len(patches))[:32]]
        for _ in range(20):
            nearest = torch.cdist(patches, self.codes).argmin(dim=1)
            for k in nearest.unique():
                self.codes[k] = patches[nearest == k].mean(dim=0)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(x, 2).permute(0, 2, 3, 1)
        nearest = torch.cdist(patches.reshape(-1, 4), self.codes).argmin(dim=1)
        return F.pixel_shuffle(self.codes[nearest].reshape(patches.shape).permute(0, 3, 1, 2), 2)


class MeanShift(nn.Module):
    """Ten steps towards the training images; differentiable, but the gradients vanish on the way.

    What purifies by a long iteration, as in arXiv:1710.10766 and 1805.06605; why it masks is in
    arXiv:1802.00420, section 5.4.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.known = x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        for _ in range(10):
            far = flat.square().sum(1, keepdim=True) - 2 * flat @ self.known.T
            far = far + self.known.square().sum(1)
            flat = (-20 * far).softmax(dim=1) @ self.known
        return flat.reshape(x.shape)


class Deflection(nn.Module):
    """Eight pixels, drawn by numpy, take the value of a neighbour (arXiv:1801.08926)."""

    def forward(self, x: Tensor) -> Tensor:
        n, size = len(x), x[0].numel()
        source = np.tile(np.arange(size), (n, 1))
        chosen = np.random.rand(n, size).argsort(axis=1)[:, :8]  # noqa: NPY002
        moved = chosen + np.random.choice([-9, -8, -7, -1, 1, 7, 8, 9], chosen.shape)  # noqa: NPY002
        np.put_along_axis(source, chosen, moved % size, axis=1)
        return x.flatten(1).gather(1, torch.from_numpy(source)).reshape(x.shape)


# ----------------------------------------------------------------------- masks between layers


class KWinners(nn.Module):
    """Keep the largest fifth of an image's activations, drop the rest (arXiv:1905.10510)."""

    def __init__(self) -> None:
        super().__init__()
        self.share = 0.2

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, int(self.share * flat.shape[1])), dim=1).values[:, -1:]
        return torch.where(flat >= least, flat, 0.0).reshape(x.shape)


class Saturated(nn.Module):
    """A sigmoid with a large gain: flat almost everywhere (arXiv:1703.09202)."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return (self.gain * x).sigmoid()


class Sign(nn.Module):
    """Signs, learnt straight through (arXiv:1602.02830); the gradient of the finished ones is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.through = True

    def forward(self, x: Tensor) -> Tensor:
        linear = x.clamp(-1, 1)
        return linear + (x.sign() - linear).detach() if self.through else x.sign()


class Noisy(nn.Module):
    """Adds Gaussian noise on every call and tells nobody (arXiv:1712.00673)."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = 0.2

    def forward(self, x: Tensor) -> Tensor:
        return x + self.spread * torch.randn_like(x)


class OneOf(nn.Module):
    """Asks another of its members on each call."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.members[int(torch.randint(len(self.members), ()))](x)
        return logits


# ----------------------------------------------------------------------- masks on the output


class Clamped(nn.Module):
    """Logarithms of probabilities that are cut to [0.05, 0.9]: flat wherever it is sure."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1).clamp(0.05, 0.9).log()


class Rounded(nn.Module):
    """Logits rounded to whole numbers."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.round()


# ---------------------------------------------------------------------------------- networks


def front(layer: Callable[[Tensor], nn.Module]) -> Callable[[DataSet], Masked]:
    """A network learnt behind a layer, which the stand-in leaves out."""

    def make(whole: DataSet) -> Masked:
        model = nn.Sequential(layer(whole.train.batch(slice(None))[0]), dense())
        learnt(model, whole.train)
        return Masked(model, model[1])

    return make


def back(layer: nn.Module) -> Callable[[DataSet], Masked]:
    """A finished network before a layer, which the stand-in leaves out."""

    def make(whole: DataSet) -> Masked:
        plain = learnt(dense(), whole.train)
        return Masked(nn.Sequential(plain, layer), plain)

    return make


def distilled(whole: DataSet) -> Masked:
    """Defensive distillation at temperature 100, used at temperature 1 (arXiv:1511.04508)."""

    def warm(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x) / 100, y)

    teacher = learnt(small(), whole.train, loss=warm, epochs=60, lr=5e-3)

    def taught(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            soft = (teacher(x) / 100).softmax(dim=1)
        return F.cross_entropy(model(x) / 100, soft)

    student = learnt(small(), whole.train, loss=taught, epochs=60, lr=5e-3)
    cooled: Any = deepcopy(student)
    with torch.no_grad():
        for parameter in cooled[-1].parameters():
            parameter.div_(100)
    return Masked(student, cooled)


def thermometer(whole: DataSet) -> Masked:
    model = learnt(nn.Sequential(Thermometer(), small(channels=10)), whole.train)
    return Masked(model, having(model, slope=30.0))


def k_winners(whole: DataSet) -> Masked:
    model = learnt(small(KWinners), whole.train)
    # Its jumps average out over noise (arXiv:2002.08347, section 5).
    return Masked(model, having(nn.Sequential(Noisy(), model), spread=0.05))


def saturated(whole: DataSet) -> Masked:
    model: nn.Module = small(Saturated)
    for gain in (1.0, 4.0, 16.0, 64.0):
        model = learnt(having(model, gain=gain), whole.train, epochs=15)
    return Masked(model, having(model, gain=16.0))


def sign(whole: DataSet) -> Masked:
    model = learnt(small(Sign), whole.train)
    return Masked(having(model, through=False), model)


def noisy(whole: DataSet) -> Masked:
    body = dense(lambda: nn.Sequential(Noisy(), nn.ReLU()))
    model = learnt(nn.Sequential(Noisy(), body), whole.train)
    return Masked(model, having(model, spread=0.0))


def one_of(whole: DataSet) -> Masked:
    members = [learnt(dense(), whole.train) for _ in range(5)]
    return Masked(OneOf(members), models.Ensemble(members))


def flat(whole: DataSet) -> Masked:
    """Trained to have no gradient at the images (arXiv:1711.09404).

    The one whose mask can be disputed: part of what the penalty does is honest.
    """

    def penalised(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        loss = F.cross_entropy(model(x), y, reduction="sum")
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return (loss + slope.square().sum()) / len(x)

    return Masked(learnt(dense(), whole.train, loss=penalised), learnt(dense(), whole.train))


MASKED: dict[str, Callable[[DataSet], Masked]] = {
    "distilled": distilled,
    "thermometer": thermometer,
    "jpeg": front(lambda x: JPEG()),
    "codebook": front(Codebook),
    "mean-shift": front(MeanShift),
    "pixel-deflection": front(lambda x: Deflection()),
    "k-winners": k_winners,
    "saturated": saturated,
    "sign": sign,
    "noisy": noisy,
    "one-of-five": one_of,
    "clamped-probabilities": back(Clamped()),
    "rounded-logits": back(Rounded()),
    "flat": flat,
}


def resnet(whole: DataSet) -> nn.Module:
    settings = {"width": 8, "blocks": (1, 1, 1, 1)}
    model = models.create("preact-resnet", shape=whole.shape, classes=10, seed=SEED, **settings)
    Training(epochs=15)(model, whole.train, whole.validation, seed=SEED)
    return model


def smoothed(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y, label_smoothing=0.2)


def with_noise(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x + 0.2 * torch.randn_like(x)), y)


def corrected(inner: Attack, lam: float) -> Callable[[DataSet], nn.Module]:
    """Adversarial training after the plain one."""

    def make(whole: DataSet) -> nn.Module:
        stop = Stop(rounds=8, target=2.0, judge=PGD(eps=EPS, steps=5))
        repair = Correct(inner=inner, lam=lam, lr=2e-3, batch=64, stop=stop)
        plain = learnt(small(), whole.train)
        return repair(plain, Evidence(whole.train, whole.validation), seed=SEED).classifier

    return make


HONEST: dict[str, Callable[[DataSet], nn.Module]] = {
    "preact-resnet": resnet,
    "linear": lambda whole: learnt(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), whole.train),
    "dense": lambda whole: learnt(dense(), whole.train),
    "dense-tanh": lambda whole: learnt(dense(nn.Tanh), whole.train),
    "wide": lambda whole: learnt(dense(width=512), whole.train),
    "smoothed-labels": lambda whole: learnt(small(), whole.train, loss=smoothed),
    "noise-trained": lambda whole: learnt(small(nn.GELU), whole.train, loss=with_noise),
    "decayed": lambda whole: learnt(dense(), whole.train, decay=10.0),
    "ensemble": lambda whole: models.Ensemble([learnt(dense(), whole.train) for _ in range(4)]),
    "robust": corrected(PGD(eps=0.1, steps=5), 1.0),
    "robust-far": corrected(PGD(eps=0.2, steps=7), 1.0),
    "robust-l2": corrected(PGDL2(eps=0.6, steps=5), 0.5),
}


# ----------------------------------------------------------------------------------- measuring


def seeded() -> None:
    """The masks draw from the global states, as such defences do."""
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002


def audited(
    name: str, model: nn.Module, stand_in: nn.Module | None, images: ImageSet
) -> tuple[list[audit.Row], list[Any]]:
    """The rows of a network, and what the audit suspects."""
    measured = []
    for attack in audit.evasion(EPS, CURVE):
        seeded()
        measured.append(measure(attack, model, images, seed=SEED))
    seeded()
    found = audit.suspicions(model, images, measured)
    inside = [m.facts.robust for m in measured if m.stamp.eps <= EPS]
    stands = Rate(int(np.all(inside, axis=0).sum()), len(images))
    rows = [
        audit.number_row(name, SEED, "masks", float(stand_in is not None)),
        audit.number_row(name, SEED, "flagged", float(bool(found))),
        audit.rate_row(name, SEED, "clean", measured[0].facts.clean_accuracy),
        audit.rate_row(name, SEED, f"robust@{EPS}", stands),
    ]
    if stand_in is not None:
        seeded()
        attack = PGD(eps=EPS, loss="margin")
        knowing = measure(attack, model, images, seed=SEED, aim=stand_in)
        rate = knowing.facts.robust_accuracy
        rows.append(audit.rate_row(name, SEED, f"adaptive@{EPS}", rate))
    return rows, found


def main() -> None:
    """Build all networks, audit each once, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    torch.set_num_threads(parser.parse_args().threads)
    whole = data.load("digits")
    images = whole.test.first(COUNT)
    table: list[audit.Row] = []
    warnings: dict[str, list[Any]] = {}
    for kind, networks in (("masking", MASKED), ("honest", HONEST)):
        flagged = 0
        for name, make in networks.items():
            start = time.perf_counter()
            seeded()
            made = make(whole)
            model, stand_in = made if isinstance(made, Masked) else (made, None)
            rows, found = audited(name, model, stand_in, images)
            table += rows
            flagged += bool(found)
            if found:
                warnings[name] = found
            shown = "  ".join(f"{row['metric']} {row['value']:.3g}" for row in rows)
            kinds = ", ".join(warning.kind for warning in found) or "nothing"
            seconds = time.perf_counter() - start
            print(f"{name}: {shown}  warns of {kinds}  {seconds:.0f} s", flush=True)
        rate = Rate(flagged, len(networks))
        table.append(audit.rate_row(f"all {kind}", SEED, "flagged", rate))
    results = audit.results(provenance("python benchmarks/zoo.py"), table, warnings)
    sheet.write(results, NAME, RESULTS, PAGES)


if __name__ == "__main__":
    main()
