"""``bezoar attack``."""

from bezoar.cli import options


def attack(
    model: options.Model = None,
    data: options.Data = "digits",
    eps: options.Eps = "0.1",
    curve: options.Curve = "0.05,0.1,0.2,0.3",
    attacks: options.Attacks = None,
    surrogates: options.Surrogates = None,
    target: options.Target = None,
    low_precision: options.LowPrecision = False,
    factory: options.Factory = None,
    weights: options.Weights = None,
    images: options.Images = 0,
    floor: options.Floor = "0.9",
    out: options.Out = None,
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    image_size: options.ImageSize = None,
    threads: options.Threads = 0,
) -> int:
    """Attack a model and record what happened to every image.

    With --surrogate also what an attacker does who knows other models only. Exit code 1 when the
    worst-case robust accuracy at --eps, of attackers who know MODEL, is not above --floor for sure;
    with --target, when the share of images that are not led to it is not.

    Example: bezoar attack lenet.safetensors --data mnist --eps 0.1 --images 1000
    """
    from bezoar import experiments
    from bezoar.cli import screen, subject

    subject.threads(threads)
    plan = subject.plan(eps, curve, attacks, floor, seed)
    named = subject.subject(model, factory, weights)
    whole = subject.dataset(data, data_root, image_size, named.shape)
    tested = subject.tested(named, whole, images)
    other = subject.surrogate(surrogates or [], named, tested)
    plan = subject.aimed(plan, target, named.model, tested)
    if low_precision:
        plan = subject.lowered(plan, named.model, tested)
    settings = experiments.settings(plan)
    if other:
        settings["surrogate"] = other.about
    run = subject.opened(out, "attack", named, whole, tested, seed, settings)
    with screen.screen() as bars:
        results = experiments.attack(
            run,
            named.model,
            tested,
            plan,
            validation=whole.validation,
            surrogate=other.model if other else None,
            on_unit=bars.on_unit,
        )
    screen.before_after(results, ["before"])
    screen.closing(results, run.path)
    return int(results["verdict"]["sick"]["outcome"] != "met")
