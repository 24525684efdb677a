"""Whole experiments in a run folder: attack a model; attack, repair, attack again.

Everything that takes long is kept as soon as it is done, so the same call goes on where an
interrupted one stopped, and ends with the same files.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from torch import nn

from bezoar import audit, checkpoints, latency, matrix, models
from bezoar.attacks import FGSM, Attack
from bezoar.certificates import Certificates, certify
from bezoar.data.imageset import DataSet, ImageSet, digest
from bezoar.defence import Evidence
from bezoar.files import read_json, write_json, write_text
from bezoar.fit import Progress, silent
from bezoar.referee import Measurement, Referee
from bezoar.repairs import Repair
from bezoar.report import export, figures
from bezoar.report.figures import Curve
from bezoar.report.tables import Cell
from bezoar.runs import Run
from bezoar.runs.folder import read_arrays, write_arrays
from bezoar.sanity import outdone
from bezoar.verdicts import Verdict

OnUnit = Callable[[str, int, int], None]

STEPS = 20  # of the curve of certified accuracy


def quiet(what: str, done: int, units: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a model is attacked with.

    Args:
        eps: radius that the verdict is about, in pixel units of [0, 1].
        attacks: all attacks; at least one in ``norm`` of radius ``eps`` or without a radius.
        floor: worst-case robust accuracy at ``eps`` that counts as healthy.
        seed: names the noise.
        norm: norm of the ball that the verdict is about.
        radii: further points of the curve, where there is an attack without a radius.
        target: a class to lead to, or ``random``; see ``Referee``.
        low_precision: search in bfloat16 first; see ``Referee``.
    """

    eps: float
    attacks: Sequence[Attack]
    floor: float = audit.HEALTHY
    seed: int = 0
    norm: str = "linf"
    radii: Sequence[float] = ()
    target: int | Literal["random"] | None = None
    low_precision: bool = False

    def rows(self, case: str, measured: Sequence[Measurement]) -> list[audit.Row]:
        """The rows of a case in the result table."""
        return audit.rows(case, measured, eps=self.eps, norm=self.norm, radii=self.radii)

    def verdict(self, measured: Sequence[Measurement]) -> Verdict:
        """Whether a case is healthy; with a target, whether enough are not led to it."""
        return audit.healthy(measured, self.eps, self.floor, self.norm)


def attack(
    run: Run,
    model: nn.Module,
    images: ImageSet,
    plan: Plan,
    *,
    validation: ImageSet | None = None,
    surrogate: nn.Module | None = None,
    on_unit: OnUnit = quiet,
) -> dict[str, Any]:
    """Attack a model, keep the adversarial images, write results and report.

    Of a guarded model it is also measured, once, what the guard costs.

    Args:
        run: the run folder.
        model: images to logits; not changed.
        images: what it is attacked on.
        plan: the attacks.
        validation: what attacks are fitted on that have to see images first; never ``images``.
        surrogate: another classifier, on which all attacks are made once more, by an attacker who
            does not know ``model``; what its images do to ``model`` stands beside, as transfer.
        on_unit: told when a unit of work is done.

    Returns:
        The content of ``results.json``.
    """
    run.keep_images(images)
    measured = _measured(run, "before", model, images, plan, on_unit, validation)
    verdict = {"sick": plan.verdict(measured)}
    found = audit.suspicions(model, images, measured)
    if surrogate is not None:
        elsewhere = _measured(
            run, "before", model, images, plan, on_unit, validation, aim=surrogate
        )
        found += outdone(measured, elsewhere)
        measured += elsewhere
    _keep_latency(run, model, images)
    table = plan.rows("before", measured)
    return _finish(run, audit.results(run.notes, table, {"before": found}, verdict))


def repair(
    run: Run,
    model: nn.Module,
    data: DataSet,
    method: Repair,
    plan: Plan,
    *,
    kept: ImageSet | None = None,
    on_step: Callable[[Progress], None] = silent,
    on_unit: OnUnit = quiet,
) -> dict[str, Any]:
    """Attack a model, repair it, attack it afresh; write both models, results and report.

    Args:
        run: the run folder.
        model: images to logits; not changed.
        data: the repair sees train and validation; the attacks get test, and validation where
            they have to see other images first.
        method: the repair.
        plan: the attacks, the same before and after.
        kept: images to attack, if not all of ``data.test``.
        on_step: told how far the repair is.
        on_unit: told when a unit of an attack is done.

    Returns:
        The content of ``results.json``.
    """
    images = data.test if kept is None else kept
    shape = list(data.shape)
    run.keep_images(images)
    before = run.path / "before.safetensors"
    if not before.exists():
        checkpoints.save(before, model, classes=data.classes, shape=shape)
    sick = _measured(run, "before", model, images, plan, on_unit, data.validation)

    evidence = Evidence(data.train, data.validation)
    repaired = cured(run, model, data, method, evidence, seed=plan.seed, on_step=on_step)

    well = _measured(run, "after", repaired, images, plan, on_unit, data.validation)
    table = [*plan.rows("before", sick), *plan.rows("after", well)]
    if plan.norm == "linf":
        aimed = FGSM(eps=plan.eps)
        judge = Referee(aimed, repaired, images, seed=plan.seed, aim=model)
        stale = run.measure("after", judge)
        table.append(
            audit.rate_row("after", plan.seed, stale.stamp.metric, stale.facts.robust_accuracy)
        )
    table += _costs(run, plan.seed)
    verdict = {"sick": plan.verdict(sick), "well": plan.verdict(well)}
    found = {
        "before": audit.suspicions(model, images, sick),
        "after": audit.suspicions(repaired, images, well),
    }
    return _finish(run, audit.results(run.notes, table, found, verdict))


def cured(
    run: Run,
    model: nn.Module,
    data: DataSet,
    method: Repair,
    evidence: Evidence,
    *,
    seed: int,
    on_step: Callable[[Progress], None] = silent,
) -> nn.Module:
    """Repair a model, or read what was repaired; keep it, with its log and cost, in the run folder.

    Args:
        run: the run folder.
        model: images to logits; not changed.
        data: the classes and the shape of the images; its name goes into the record.
        method: the repair.
        evidence: what it may see.
        seed: names all randomness.
        on_step: told how far the repair is.
    """
    after, snapshot = run.path / "after.safetensors", run.snapshot("repair")
    if after.exists():
        repaired = deepcopy(model).eval()
        checkpoints.load_weights(after, repaired)
    else:
        done = method(model, evidence, seed=seed, snapshot=snapshot, on_step=on_step)
        repaired, cost = done.classifier, done.cost.as_dict()
        about = (type(method).__doc__ or "").partition("\n")[0]
        record = {"name": type(method).__name__.lower(), "about": about, "repr": repr(method)}
        write_json(run.path / "repair.json", {**record, "rows": done.log, "cost": cost})
        if done.found:
            pictures = {name: picture.numpy() for name, picture in done.found.items()}
            write_arrays(run.path / "found.safetensors", pictures)
        training = {"repair": repr(method), "seed": seed, "data": data.name}
        kept: dict[str, Any] = {"classes": data.classes, "shape": list(data.shape)}
        checkpoints.save(after, repaired, **kept, training=training)
    snapshot.clear()
    return repaired


def certified(
    run: Run,
    model: models.Smoothed,
    images: ImageSet,
    *,
    radii: Sequence[float],
    n: int,
    alpha: float,
    seed: int,
    on_unit: OnUnit = quiet,
) -> dict[str, Any]:
    """Certify the answers of a smoothed model; keep what was counted, write results and a figure.

    Args:
        run: the run folder.
        model: the smoothed model; not changed.
        images: whose answers are certified.
        radii: L2 radii of the rows ``certified-l2@RADIUS``, one at least; the curve is drawn up to
            the largest.
        n: draws of the noise an image.
        alpha: probability with which the certificate of an image may be wrong.
        seed: names the noise.
        on_unit: told when an image is done.

    Returns:
        The content of ``results.json``.
    """
    run.keep_images(images)
    path, snapshot = run.path / "certificates.safetensors", run.snapshot("certificates")
    if path.exists():
        kept: dict[str, Any] = read_arrays(path)
        made = Certificates(**kept, n=n, sigma=model.sigma, alpha=alpha)
    else:
        made = certify(
            model,
            images,
            n=n,
            alpha=alpha,
            seed=seed,
            snapshot=snapshot,
            on_image=lambda done, of: on_unit("certificates", done, of),
        )
        write_arrays(path, made.columns())
    snapshot.clear()
    rates = {"clean": made.clean, "abstained": made.abstained}
    rates |= {f"certified-l2@{radius:g}": made.accuracy(radius) for radius in radii}
    table = [audit.rate_row("before", seed, name, rate) for name, rate in rates.items()]
    results = {"format": 1, **run.notes, "rows": table}
    write_json(run.path / "results.json", results)
    export.write(run.path, ("csv", "tex"))  # the page of a report is about attacks
    grid = np.linspace(0, max(radii), STEPS + 1).tolist()
    points = tuple((radius, Cell.of(made.accuracy(radius), "certified-l2")) for radius in grid)
    drawn = figures.accuracy_curve([Curve("certified, L2", points)])
    write_text(run.path / "certified.svg", figures.svg(drawn))
    return results


def compared(
    run: Run,
    cases: Mapping[str, nn.Module],
    looks: Sequence[matrix.Look],
    images: ImageSet,
    *,
    seed: int,
    other: nn.Module | None = None,
    on_unit: OnUnit = quiet,
) -> dict[str, Any]:
    """Every attacker on every guard; keep the evidence, write ``results.json``.

    Args:
        run: the run folder.
        cases: guarded classifiers, or networks alone, by name; not changed.
        looks: the attackers.
        images: what all are attacked on.
        seed: names the noise.
        other: the network of an attacker who has none of ours.
        on_unit: told when a unit is done.

    Returns:
        The content of ``results.json``.
    """
    run.keep_images(images)

    def measure(case: str, referee: Referee) -> Measurement:
        name = f"{referee.stamp.metric}, {case}"
        return run.measure(case, referee, lambda done, units: on_unit(name, done, units))

    table = matrix.compared(cases, looks, images, seed=seed, other=other, measure=measure)
    results = audit.results(run.notes, table, {})
    write_json(run.path / "results.json", results)
    return results


def _measured(
    run: Run,
    case: str,
    model: nn.Module,
    images: ImageSet,
    plan: Plan,
    on_unit: OnUnit,
    validation: ImageSet | None,
    *,
    aim: nn.Module | None = None,
) -> list[Measurement]:
    measured = []
    for method in plan.attacks:
        known = model if aim is None else aim
        ready = run.fitted(method, known, validation, seed=plan.seed)
        referee = Referee(
            ready,
            model,
            images,
            seed=plan.seed,
            aim=known,
            target=plan.target,
            low_precision=plan.low_precision,
        )
        name = f"{referee.stamp.metric}, {case}"

        def tell(done: int, units: int, name: str = name) -> None:
            on_unit(name, done, units)

        measured.append(run.measure(case, referee, tell))
    return measured


def _keep_latency(run: Run, model: nn.Module, images: ImageSet) -> None:
    """Time a guarded model, shortly; apart from the results, which are the same every time."""
    path = run.path / "latency.json"
    if path.exists() or len(latency.parts(model)) == 1:
        return
    x, _ = images.at_most(latency.BATCH).batch(slice(None))
    measured = latency.latency(model, x, runs=20, warmup=3, seconds=2.5, least=3)
    write_json(path, {"format": 1, "latency": [asdict(one) for one in measured]})


def _costs(run: Run, seed: int) -> list[audit.Row]:
    cost = read_json(run.path / "repair.json")["cost"]
    spent = {"passes": cost["forward"] + cost["backward"], "seconds": cost["seconds"]}
    return [audit.number_row("after", seed, name, float(value)) for name, value in spent.items()]


def _finish(run: Run, results: dict[str, Any]) -> dict[str, Any]:
    write_json(run.path / "results.json", results)
    export.write(run.path)
    return results


def settings(plan: Plan, method: Repair | None = None, **more: Any) -> dict[str, Any]:
    """What identifies an experiment, for the run folder."""
    about = {"eps": plan.eps, "floor": plan.floor, "attacks": [repr(a) for a in plan.attacks]}
    if plan.norm != "linf":
        about["norm"] = plan.norm
    if plan.radii:
        about["radii"] = list(plan.radii)
    if plan.target is not None:
        about["target"] = plan.target
    if plan.low_precision:
        about["low_precision"] = True
    return {**about, **({"repair": repr(method)} if method else {}), **more}


def described(data: DataSet, images: ImageSet) -> dict[str, Any]:
    """The data of an experiment, for the run folder."""
    sizes = {"train": len(data.train), "validation": len(data.validation), "test": len(images)}
    found = digest(data.train, data.validation, images)
    return {"name": data.name, "classes": list(data.classes), **sizes, "hash": found}
