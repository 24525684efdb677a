"""``bezoar attack``."""

from bezoar.cli import options


def attack(
    model: options.Model = None,
    data: options.Data = "digits",
    eps: options.Eps = "0.1",
    curve: options.Curve = "0.05,0.1,0.2,0.3",
    attacks: options.Attacks = None,
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

    Exit code 1 when the worst-case robust accuracy at --eps is not above --floor for sure.

    Example: bezoar attack lenet.safetensors --data mnist --eps 0.1 --images 1000
    """
    from bezoar import experiments
    from bezoar.cli import screen, subject
    from bezoar.runs import Run, default, provenance

    subject.threads(threads)
    plan = subject.plan(eps, curve, attacks, floor, seed)
    named = subject.subject(model, factory, weights)
    whole = subject.dataset(data, data_root, image_size, named.shape)
    tested = subject.tested(whole, images)
    subject.fits(named, tested)
    about = {
        "title": f"{named.about['file']} on {tested.name}",
        "seed": seed,
        "model": named.about,
        "data": experiments.described(whole, tested),
        "settings": experiments.settings(plan),
    }
    run = Run(out or default("attack", about), about, provenance(subject.command()))
    with screen.screen() as bars:
        results = experiments.attack(run, named.model, tested, plan, on_unit=bars.on_unit)
    screen.before_after(results, ["before"])
    screen.closing(results, run.path)
    return int(results["verdict"]["sick"]["outcome"] != "met")
