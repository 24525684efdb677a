"""The released code of arXiv:2312.03520 as it behaves, faults included: where its table is from.

Written from what that code does, not with it. What it does and nobody should:

- the classifier stays in training mode while it is attacked and scored: dropout is on, batch norm
  normalises by the batch;
- FGSM ascends the negative log-likelihood of *logits*: only the true logit is pushed down;
- PGD starts at the image and does not cut what it makes to [0, 1]; on Fashion-MNIST the row
  without defence has 7 steps of 0.01, so no radius above 0.07 matters;
- that row is measured on training images, the one with defence on test images;
- the validation loop of the auto-encoder trains it too, and clean images are never shown to it.

``bezoar reproduce cae`` shows these rows beside honest ones.
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import audit, checkpoints, data, making
from bezoar.data.imageset import ImageSet
from bezoar.files import read_json, write_json
from bezoar.models import Autoencoder, ShallowVGG
from bezoar.report import sheet
from bezoar.results import Rate
from bezoar.runs import provenance
from bezoar.seeds import derive
from bezoar.training import Training

FOLDER, NAME = Path("runs/as-published"), "cae-as-published"
SEED = 0
FGSM_EPS, PGD_EPS, PGD_STEP = 0.6, 0.15, 0.01

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is smaller than in the paper, and by how much.

    Attributes:
        width: of the classifier; the paper has 64.
        epochs: of the classifier's training, by Adam, on MNIST and half as many more on
            Fashion-MNIST; the paper has 10 of plain SGD.
        images: that the classifier is trained on, 0 is all 50,000.
        fgsm_images, pgd_images: training images of the auto-encoders; the paper has 60,000.
        inner_steps: of PGD while its auto-encoder is trained, in all as long as 40 of 0.01.
        tested_fgsm, tested_pgd: images that are attacked; the paper has 10,000.
    """

    width: int
    epochs: int
    images: int
    fgsm_images: int
    pgd_images: int
    inner_steps: int
    tested_fgsm: int
    tested_pgd: int


SIZES = {
    "smoke": Size(
        width=4,
        epochs=1,
        images=2000,
        fgsm_images=600,
        pgd_images=300,
        inner_steps=2,
        tested_fgsm=300,
        tested_pgd=100,
    ),
    "cpu": Size(
        width=16,
        epochs=4,
        images=0,
        fgsm_images=6_000,
        pgd_images=3_000,
        inner_steps=10,
        tested_fgsm=5_000,
        tested_pgd=1_000,
    ),
    "full": Size(
        width=64,
        epochs=10,
        images=0,
        fgsm_images=60_000,
        pgd_images=60_000,
        inner_steps=40,
        tested_fgsm=10_000,
        tested_pgd=10_000,
    ),
}
LONGER = {"mnist": 1.0, "fashion-mnist": 1.5}  # epochs of the classifier, times as many


def fgsm(eps: float) -> Attack:
    """One step along the true logit alone, cut to [0, 1]."""

    def made(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        point = x.clone().requires_grad_()
        loss = F.nll_loss(network(point), y)
        (slope,) = torch.autograd.grad(loss, point)
        return (x + eps * slope.sign()).clamp(0, 1)

    return made


def pgd(eps: float, steps: int, step: float) -> Attack:
    """Signed steps from the image, held to the ball but not to [0, 1]."""

    def made(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        change = torch.zeros_like(x)
        for _ in range(steps):
            point = (x + change).requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(network(point), y), point)
            change = (change + step * slope.sign()).clamp(-eps, eps)
        return x + change

    return made


def resized(images: ImageSet, rows: Tensor) -> tuple[Tensor, Tensor]:
    """28x28 to 32x32, bilinearly, as the released code loads them."""
    x, y = images.batch(rows)
    return F.interpolate(x, size=(32, 32), mode="bilinear"), y


def accuracy(
    network: nn.Module,
    attack: Attack | None,
    images: ImageSet,
    count: int,
    before: nn.Module | None = None,
) -> Rate:
    """Share of right answers in training mode, batches of 64; ``before`` purifies, in eval mode."""
    right = 0
    for rows in torch.arange(min(count, len(images))).split(64):
        x, y = resized(images, rows)
        seen = x if attack is None else attack(network, x, y)
        with torch.no_grad():
            said = network(seen if before is None else before(seen)).argmax(dim=1)
        right += int((said == y).sum())
    return Rate(right, min(count, len(images)))


def purifier(network: nn.Module, attack: Attack, images: ImageSet, epochs: int) -> Autoencoder:
    """The auto-encoder as it is trained there: on attacked images alone, on validation too."""
    torch.manual_seed(derive(SEED, "as-published", "cae"))
    made = Autoencoder(shape=(1, 32, 32))
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-3)
    parts = torch.randperm(len(images)).split(len(images) * 5 // 6 + 1)
    tired = 0
    for _ in range(epochs):
        means = []
        for part in parts[:2]:  # train, then validation, which takes steps as well
            losses = []
            for rows in part[torch.randperm(len(part))].split(64):
                x, y = resized(images, rows)
                loss = F.mse_loss(made.train()(attack(network, x, y)), x)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            means.append(sum(losses) / len(losses))
        tired += means[1] > means[0]
        if tired == 2:
            break
    return made.eval()


def classifier(name: str, size: Size) -> nn.Module:
    """The network of ``bezoar reproduce cae``, made for images that are 32x32 already."""
    whole = data.load(name)
    path = FOLDER / f"{name}-{size.width}-{size.epochs}-{size.images}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = replace(whole, train=whole.train.at_most(size.images))
    training = Training(epochs=round(LONGER[name] * size.epochs), schedule="cosine")
    making.trained(path, "vgg-8conv", whole, training, seed=SEED, fields={"width": size.width})
    made = ShallowVGG(shape=(1, 32, 32), classes=10, width=size.width)
    made.load_state_dict(checkpoints.load(path).model.state_dict())
    return made.requires_grad_(False).train()


def rows(name: str, size: Size) -> list[audit.Row]:
    """All cells of a data set."""
    torch.manual_seed(derive(SEED, "as-published", name))
    network, whole = classifier(name, size), data.load(name)
    plain = pgd(PGD_EPS, 40, PGD_STEP)
    bare = plain if name == "mnist" else pgd(PGD_EPS, 7, PGD_STEP)
    inner = pgd(PGD_EPS, size.inner_steps, 0.4 / size.inner_steps)
    none, cae = f"{name} none as published", f"{name} cae as published"
    fast, slow = f"fgsm@{FGSM_EPS:g}", f"pgd40@{PGD_EPS:g}"
    cells = {
        (none, "clean"): accuracy(network, None, whole.test, size.tested_fgsm),
        (none, fast): accuracy(network, fgsm(FGSM_EPS), whole.test, size.tested_fgsm),
        (none, slow): accuracy(network, bare, whole.train, size.tested_pgd),
    }
    for metric, attack, count, epochs, learnt in (
        (fast, fgsm(FGSM_EPS), size.fgsm_images, 15, fgsm(FGSM_EPS)),
        (slow, plain, size.pgd_images, 5, inner),
    ):
        made = purifier(deepcopy(network), learnt, whole.train.at_most(count), epochs)
        tested = size.tested_fgsm if metric == fast else size.tested_pgd
        cells[cae, f"greybox:{metric}"] = accuracy(network, attack, whole.test, tested, made)
        cells[cae, f"clean:{metric}"] = accuracy(network, None, whole.test, tested, made)
        print(name, metric, cells[cae, f"greybox:{metric}"], flush=True)
    return [audit.rate_row(case, SEED, metric, rate) for (case, metric), rate in cells.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--pages", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    size = SIZES[options.size]
    table: list[audit.Row] = []
    for name in LONGER:
        kept = FOLDER / f"{name}-{options.size}.json"
        if not kept.exists():
            write_json(kept, {"rows": rows(name, size)})
        table += read_json(kept)["rows"]
    notes = provenance(f"python benchmarks/as_published/cae.py --size {options.size}")
    about = [f"size: {', '.join(f'{key} {value}' for key, value in asdict(size).items())}"]
    whole = {**audit.results(notes, table, {}), "about": about}
    for path in sheet.write(whole, NAME, options.results, options.pages):
        print(path)


if __name__ == "__main__":
    main()
