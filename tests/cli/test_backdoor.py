"""``bezoar backdoor``: what it writes is a model for every other verb."""

import pytest

from bezoar import cli, planted
from bezoar.triggers import AllToAll, AllToOne, BadNets

PLANT = ("backdoor", "plant", "lenet-fig4", "--epochs", "2", "--threads", "1")


def test_plants_a_backdoor_and_measures_it(work, capsys):
    words = [*PLANT, "--with", "badnets:size=2", "--target", "3", "--images", "60"]
    assert cli.run([*words, "--out", "sick.safetensors"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "lenet-fig4 on digits with badnets:size=2: 108 images poisoned, 2 epochs"
    assert [line.partition(":")[0] for line in said[1:]] == [
        "clean accuracy",
        "triggered images where the attacker wants them",
        "triggered images named rightly",
        "model",
        "what the attacker knows",
    ]
    assert said[1].endswith("/60)")
    secret = planted.read(work / "sick.safetensors")
    assert (secret.trigger, secret.aim) == (BadNets(size=2), AllToOne(3))
    few = ("--attack", "fgsm", "--images", "10", "--out", "run")
    assert cli.run(["attack", "sick.safetensors", *few]) in (0, 1)


def test_a_trigger_is_fitted_on_the_clean_model_and_next_is_all_to_all(work, capsys):
    lf = ("--with", "lf:images=3,passes=1,steps=5", "--clean", "base.safetensors")
    assert cli.run([*PLANT, *lf, "--out", "lf.safetensors"]) == 0
    assert planted.read(work / "lf.safetensors").trigger.learnt is not None
    in_loop = ("--with", "bpp:levels=3", "--target", "next", "--out", "bpp.safetensors")
    capsys.readouterr()
    assert cli.run([*PLANT, *in_loop]) == 0
    assert "poisoned in the loop" in capsys.readouterr().out
    assert planted.read(work / "bpp.safetensors").aim == AllToAll()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--with", "badnet"), "did you mean 'badnets'?"),
        (("--with", "badnets:size=9"), "size=9 on images of 8x8: expected a trigger smaller"),
        (("--target", "10"), "target=10: expected a class from 0 to 9"),
        (("--target", "cat"), "--target 'cat': expected one of"),
        (("--rate", "0"), "expected at least one poisoned image"),
        (("--rate", "a tenth"), "--rate="),
        (("--with", "lf"), "expected a clean classifier to fit it on"),
        (("--with", "sig:frequency=2", "--rate", "0.3"), "of the target class"),
    ],
)
def test_refusals(refused, words, reason):
    assert reason in refused(*PLANT, *words, "--out", "sick.safetensors")
