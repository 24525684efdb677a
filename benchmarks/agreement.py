"""Do attacks that draw nothing give the peers' images, in float64, when every step is taken?

Writes results/attacks-agreement.json and its page in docs/results/: for each attack and peer the
largest difference of any pixel, ``difference:PEER``. The network is the small LeNet of
``networks.py`` without folding or another layout, so that the peers run the same arithmetic. ART
works in float32 and adv-lib keeps the first image that fools, so neither is here.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from networks import PAGES, RESULTS, SEED, network
from peers import MISSING, of_foolbox, of_torchattacks, present

from bezoar import attacks, audit
from bezoar.attacks import Untargeted
from bezoar.attacks.engine import perturb
from bezoar.referee import name_of
from bezoar.report import sheet
from bezoar.runs import provenance
from bezoar.seeds import Noise

NAME = "attacks-agreement"
EPS, STEPS = 0.1, 40
STEP = 2.5 * EPS / STEPS
CASES = {
    attacks.FGSM(eps=EPS): {
        "foolbox": of_foolbox("FGSM", EPS, random_start=False),
        "torchattacks": of_torchattacks("FGSM", eps=EPS),
    },
    attacks.BIM(eps=EPS): {
        "foolbox": of_foolbox(
            "LinfBasicIterativeAttack", EPS, abs_stepsize=EPS / 10, steps=10, random_start=False
        ),
        "torchattacks": of_torchattacks("BIM", eps=EPS, alpha=EPS / 10, steps=10),
    },
    attacks.PGD(eps=EPS, random_start=False): {
        "foolbox": of_foolbox("LinfPGD", EPS, abs_stepsize=STEP, steps=STEPS, random_start=False),
        "torchattacks": of_torchattacks(
            "PGD", eps=EPS, alpha=STEP, steps=STEPS, random_start=False
        ),
    },
    attacks.PGDL2(eps=1.0, random_start=False): {
        "foolbox": of_foolbox(
            "L2PGD", 1.0, abs_stepsize=2.5 / STEPS, steps=STEPS, random_start=False
        ),
    },
    attacks.MIFGSM(eps=EPS): {
        "torchattacks": of_torchattacks("MIFGSM", eps=EPS, alpha=EPS / 10, steps=10, decay=1.0),
    },
}


def main() -> None:
    """Compare, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, help="folder of the data sets")
    parser.add_argument("--images", type=int, default=100, help="first images of the test split")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # some peers make tensors of their own
    model, whole = network("lenet", arguments.data_root)
    model = model.double()
    x, y = whole.test.batch(slice(arguments.images))
    x, y = x.double()[(right := model(x.double()).argmax(dim=1) == y)], y[right]
    noise = Noise.first(SEED, "agreement", np.arange(len(x)))
    table: list[audit.Row] = []
    for ours, peers in CASES.items():
        frozen = model.requires_grad_(False)
        found = perturb(ours, frozen, x, Untargeted(y), noise, batch=len(x)).x_adv
        for name, peer in present(peers).items():
            theirs = peer(model.requires_grad_(True), x.clone(), y.clone()).detach()
            largest = (found - theirs).abs().max().item()
            case = f"lenet {name_of(ours)} float64"
            row = audit.number_row(case, SEED, f"difference:{name}", largest)
            table.append({**row, "n": len(x)})
            print(f"{case}: {row['metric']} {largest:.3g}", flush=True)
    results = audit.results(provenance("python benchmarks/agreement.py"), table, {})
    sheet.write(results, NAME, RESULTS, PAGES)
    if MISSING:
        print(f"peers that are not installed: {', '.join(MISSING)}")


if __name__ == "__main__":
    main()
