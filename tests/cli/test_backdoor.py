"""``bezoar backdoor``: what it writes is a model for every other verb."""

import json

import pytest
from PIL import Image

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


QUICK = "neural-cleanse:epochs=15,success=0.5"
SCAN = ("backdoor", "scan", "base.safetensors", "--threads", "1", "--spc", "2")


def test_a_scan_that_accuses_names_the_class_and_draws_the_trigger(work, capsys):
    words = [*SCAN, "--with", f"{QUICK},threshold=0", "--out", "trigger.png"]
    assert cli.run(words) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("of base.safetensors with 20 images of digits/train")
    assert [line.partition(":")[0] for line in said[1:]] == [
        "score",
        "p-value",
        "passes",
        "verdict",
        "suspected class",
        "picture",
    ]
    assert said[1].endswith("accused above 0.00")
    assert "verdict: a backdoor" in said
    with Image.open(work / "trigger.png") as picture:
        assert picture.format == "PNG"


def test_a_scan_that_finds_nothing_says_so(work, capsys):
    words = [*SCAN, "--with", f"{QUICK},threshold=1000", "--out", "trigger.png"]
    assert cli.run(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == [
        "verdict: no backdoor found",
        "picture: none, as no trigger was found",
    ]
    assert not (work / "trigger.png").exists()


@pytest.mark.parametrize("name", ["clp-scan:threshold=100", "mm-bd:starts=1,steps=2,level=1e-12"])
def test_a_blind_scan_says_that_it_saw_no_images(work, capsys, name):
    assert cli.run([*SCAN, "--with", name]) == 0
    assert capsys.readouterr().out.startswith(f"{name} of base.safetensors without images\n")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--with", "neural-clean"), "did you mean 'neural-cleanse'?"),
        (("--with", "mm-bd:starts=0"), "starts=0: expected an integer >= 1"),
        (("--spc", "1000"), "expected at least"),
        (("--out", "trigger.jpg"), "expected a file NAME.png"),
        (("--with", QUICK.replace("0.5", "1").replace("15", "1")), "classes reached within"),
    ],
)
def test_refusals_of_scans(refused, words, reason):
    assert reason in refused(*SCAN, *words)


class TestSift:
    WORDS = ("backdoor", "sift", "--data", "digits", "--threads", "1")

    @pytest.fixture
    def sick(self, work):
        assert cli.run([*PLANT, "--out", "sick.safetensors"]) == 0
        return "sick.safetensors"

    def test_says_how_much_of_the_poison_is_flagged_and_keeps_the_scores(self, sick, work, capsys):
        capsys.readouterr()
        more = ("--with", "spectral-signatures", "--out", "rows.json", "--images", "500")
        assert cli.run([*self.WORDS, sick, "--backdoor", sick, *more]) in (0, 1)
        said = capsys.readouterr().out.splitlines()
        assert "digits/train, poisoned, 500 images, through sick.safetensors" in said[0]
        told = {line.partition(":")[0]: line for line in said}
        assert told["poison that is flagged"].endswith(")")
        kept = json.loads((work / "rows.json").read_text())
        assert {len(kept[name]) for name in ("index", "label", "score", "flagged")} == {500}
        flagged = int(told["flagged images"].split()[-1])
        assert sum(kept["flagged"]) == flagged > 0

    def test_without_a_secret_it_sifts_the_training_split(self, work, capsys):
        words = [*self.WORDS, "base.safetensors", "--with", "activation-clustering"]
        assert cli.run(words) == 0
        said = capsys.readouterr().out
        assert "no poison found" in said
        assert "poison that is flagged" not in said

    def test_what_was_stamped_in_the_loop_has_no_rows(self, work, capsys):
        assert cli.run([*PLANT, "--with", "bpp:levels=3", "--out", "bpp.safetensors"]) == 0
        capsys.readouterr()
        words = [*self.WORDS, "bpp.safetensors", "--backdoor", "bpp.safetensors"]
        assert cli.run(words) == 2
        assert "expected one with a list of poisoned rows" in capsys.readouterr().err

    def test_a_scan_of_models_is_none_of_data(self, refused):
        reason = refused(*self.WORDS, "base.safetensors", "--with", "mm-bd")
        assert "scan of data 'mm-bd': expected one of" in reason
