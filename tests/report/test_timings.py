"""What a guard costs, on the page and in words; ``latency.json`` is a stranger's."""

import pytest

from bezoar.costs import Latency
from bezoar.report import pages, timings
from bezoar.report.record import read

from .conftest import write_json, write_run

PART = {
    "part": "whole",
    "batch": 64,
    "seconds": [0.5, 0.25, 1.0],
    "memory": 2_500_000,
    "transfer": 0.0,
    "device": "CPU",
    "threads": 2,
}
ALONE = {**PART, "part": "classifier", "seconds": [0.25, 0.125, 0.5], "memory": 1500}


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", repaired=False)


def test_the_page_shows_what_is_kept_and_the_same_every_time(run):
    assert "What the guard costs" not in pages.render(run)
    write_json(run / "latency.json", {"format": 1, "latency": [PART, ALONE]})
    page = pages.render(run)
    assert "In batches of 64 the whole takes 2.00 times as long as the classifier alone." in page
    assert "CPU, 2 threads." in page
    row = ["64", "500 ms", "1 s", "7.81 ms", "128", "2.5 MB", "3"]
    assert f'<th scope="row">whole</th>{"".join(f"<td>{text}</td>" for text in row)}' in page
    assert pages.render(run) == page


def test_a_device_cannot_write_into_the_page(run):
    write_json(run / "latency.json", {"latency": [{**PART, "device": "<script>x</script>"}]})
    assert "<script>x" not in pages.render(run)


@pytest.mark.parametrize(
    "found",
    [
        [],
        {},
        "text",
        [PART, PART],
        [PART, {**ALONE, "seconds": [1.0]}],
        *(
            [{**PART, **wrong}]
            for wrong in (
                {"part": "other"},
                {"batch": 0},
                {"batch": 1.5},
                {"batch": True},
                {"seconds": []},
                {"seconds": [0.0]},
                {"seconds": ["1"]},
                {"seconds": None},
                {"memory": -1},
                {"transfer": -1.0},
                {"transfer": None},
                {"device": 3},
                {"threads": 0},
                {"more": 1},
            )
        ),
        [{name: value for name, value in PART.items() if name != "memory"}],
    ],
    ids=str,
)
def test_what_was_not_written_by_the_protocol_is_refused(run, found):
    write_json(run / "latency.json", {"latency": found})
    with pytest.raises(ValueError, match=r"latency\.json: "):
        read(run)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(4.3e-7, "0.43 µs"), (2.5e-5, "25 µs"), (0.0125, "12.5 ms"), (2.25, "2.25 s"), (128, "128 s")],
)
def test_durations_have_three_digits(seconds, said):
    one = Latency(**{**PART, "batch": 1, "seconds": (seconds,)})
    assert timings.rows([one])[0][2] == said


def test_the_way_to_the_device_is_said_where_there_is_one():
    found = [Latency(**{**PART, "seconds": (1.0,), "device": "A100", "transfer": 0.002})]
    assert timings.where(found) == "A100, 2 threads; to the device, not counted: 2 ms for 64"
    assert timings.ratios(found) == []
