"""NC: reverse the triggers of the accused classes with Neural Cleanse, and unlearn them."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence, accuracy
from bezoar.fit import (
    BatchLoss,
    Judgement,
    Progress,
    cost_of,
    fit,
    silent,
)
from bezoar.repairs import descent
from bezoar.repairs.protocol import Repair
from bezoar.scans.neural_cleanse import NeuralCleanse, Triggers, inverted
from bezoar.snapshots import Snapshot, Stages, Tree


@dataclass(frozen=True, kw_only=True)
class NeuralCleanseUnlearning(Repair):
    r"""Learn the true labels of images that carry the reversed triggers.

    .. math::
        \min_\theta\; \mathrm{E}\, L\Bigl(f_\theta\bigl((1 - m_t)\, x + m_t\, q_t\bigr), y\Bigr)

    where the share ``share`` of the images carries a trigger and the others none, with the mask m
    and the pattern q that ``scans.NeuralCleanse`` found for a class t that it accuses, one of them
    drawn for each image where it accuses several. By SGD with momentum, as ``FineTune`` does it.

    Where no class is accused the network is handed back as it came, as in the benchmark
    arXiv:2206.12654: there is nothing to unlearn, and fine-tuning under another name would be
    taken for this method's work. ``always`` undoes the smallest mask even so. Paper: Wang et al.,
    "Neural Cleanse", IEEE S&P 2019, section VI.

    Cost: that of the scan. Then an epoch is one pass each way an image, and one forward pass a
    validation image.

    Args:
        scan: how the triggers are looked for; its threshold says who is accused.
        always: whether something is undone where nobody is accused.
        share: of the images that carry a trigger, in [0, 1].
        epochs: budget.
        batch: images a step.
        lr: learning rate.
        schedule: of the learning rate, a name in ``fit.SCHEDULES``.
        momentum: share of the last step that is taken again, in [0, 1].
        weight_decay: see ``fit.SGD``.
    """

    scan: NeuralCleanse = field(default_factory=NeuralCleanse)
    always: bool = False
    share: float = 0.2
    epochs: int = 100
    batch: int = 256
    lr: float = 0.01
    schedule: str = "cosine"
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        checks.in_range("share", self.share, 0, 1)
        descent.require(self)

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        """Repair; see ``defence.Defence``.

        Log: ``suspect`` is the class that is accused most or undone, -1 for none, ``index`` its
        anomaly index or the highest there was, ``accused`` how many classes are.

        Raises:
            ValueError: the scan refuses the classifier or the images, or reached too few classes
                to compare them.
        """
        begun = Meter()
        clean = accuracy(classifier, evidence.validation, begun)
        spent, stages = cost_of(begun), Stages(snapshot)

        def scan(part: Snapshot | None) -> Tree:
            found = inverted(
                self.scan, classifier, evidence.train, seed=seed, meter=begun, on_step=on_step
            )
            return {"found": vars(found), "meter": begun.as_dict()}

        made = stages("scan", scan)
        meter, found = Meter(**made["meter"]), Triggers(**made["found"])
        scores = self.scan.index(found)
        accused = (scores > self.scan.threshold).nonzero().squeeze(1)
        undone = accused if len(accused) or not self.always else found.norms.argmin()[None]
        suspect = int(undone[scores[undone].argmax()]) if len(undone) else -1
        said = {
            "suspect": float(suspect),
            "index": float(scores[suspect] if suspect >= 0 else scores.max()),
            "accused": float(len(accused)),
        }
        came = {"round": 0.0, "clean": clean, **said, **spent}
        model = deepcopy(classifier)
        if not len(undone):
            looked = {"round": 1.0, "clean": clean, **said, **cost_of(meter)}
            return Defended(model.eval(), [came, looked], meter)
        learning = descent.learner(
            self, model, evidence.train, stamping(found, undone, self.share, meter), meter
        )

        def judge(epoch: int) -> Judgement:
            # What came in was judged before the scan.
            now = clean if epoch < 0 else accuracy(model, evidence.validation, meter)
            return Judgement({"clean": now, **said})

        def unlearn(part: Snapshot | None) -> Tree:
            log = fit(
                learning,
                epochs=self.epochs,
                batch=self.batch,
                seed=seed,
                judge=judge,
                snapshot=part,
                on_step=on_step,
            )
            return {"log": log, "model": model.state_dict(), "meter": meter.as_dict()}

        last = stages("unlearn", unlearn)
        model.load_state_dict(last["model"])
        pictures = {"mask": found.masks[suspect], "pattern": found.patterns[suspect]}
        log = [came, *last["log"][1:]]
        return Defended(model.eval(), log, Meter(**last["meter"]), pictures)


def stamping(found: Triggers, classes: Tensor, share: float, meter: Meter) -> BatchLoss:
    """The mean cross-entropy of a batch in which some images carry a reversed trigger.

    Which ones, and which of the triggers, follows from torch's global generator, to which
    ``fit.fit`` gives a state of its own in each step. Cost: one pass each way an image.

    Args:
        found: the triggers.
        classes: whose are put on images, ``(k,)`` int64.
        share: of a batch that carries one, rounded.
        meter: where the passes are counted.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        chosen = torch.randperm(len(x))[: round(share * len(x))].to(x.device)
        drawn = classes[torch.randint(len(classes), (len(chosen),))]
        mask, pattern = found.masks[drawn].to(x), found.patterns[drawn].to(x)
        shown = x.clone()
        shown[chosen] = (1 - mask) * x[chosen] + mask * pattern
        meter.forward += len(x)
        meter.backward += len(x)
        return F.cross_entropy(model(shown), y)

    return loss
