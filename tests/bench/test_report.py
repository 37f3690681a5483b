"""What is written of what was measured: Markdown and a picture."""

import xml.etree.ElementTree as xml

import pytest
import report as paper
from canned import report
from compare import OURS, Bench
from goals import Goal


class Machine:
    def lines(self):
        return ["2 cores"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(12, "12"), (999, "999"), (3066, "3.07k"), (251_400, "251k"), (14_260_000, "14.3M")],
)
def test_short_numbers(number, text):
    assert paper.short(number) == text


def test_tables():
    assert paper.table(["a", "b"], [[1, 2], ["x", ""]]) == (
        "| a | b |\n| --- | --- |\n| 1 | 2 |\n| x |  |\n"
    )


def test_a_missed_goal_stands_out():
    goals = [Goal("a", ">= 1", "2", "met"), Goal("b", ">= 1", "0.9", "missed, within noise")]
    assert "| a | >= 1 | 2 | met |" in paper.goals_table(goals)
    assert "| b | >= 1 | 0.9 | **missed**, within noise |" in paper.goals_table(goals)
    assert paper.goals_text(goals).splitlines()[1] == "missed, within noise b: 0.9 (goal >= 1)"


def test_a_server_that_was_not_in_a_case_has_an_empty_cell():
    runs = {"few": {"x": [report(1)], "y": [report(2)]}, "many": {"x": [report(3)]}}
    lines = paper.fanout_table(runs, lambda results: results[0]["deliveries_per_cpu_s"])
    assert lines.splitlines()[2:] == ["| x | 1 | 3 |", "| y | 2 |  |"]


def test_the_generator_tells_of_itself():
    assert paper.generator([report(own_cpu_s=1.5), report(own_cpu_s=1, late=2)]) == "0.62 / 1.1"
    assert paper.generator([report(late=None)]) == "0.25"  # nothing was due at a time


def test_the_picture():
    runs = {"a & b": {OURS: [report(200)], "send() each": [report(400)], "<x>": [report(100)]}}
    svg = xml.fromstring(paper.picture(runs))
    space = "{http://www.w3.org/2000/svg}"
    names = [text.text for text in svg.iter(f"{space}text") if text.get("class") == "name"]
    assert names == ["send() each", OURS, "<x>"]  # the best first
    bars = [bar for bar in svg.iter(f"{space}rect") if bar.get("x")]
    widths = [float(bar.get("width")) for bar in bars]
    assert widths == [paper.BAR, paper.BAR / 2, paper.BAR / 4]
    colours = [bar.get("fill") for bar in bars]
    assert colours == [paper.LIMIT_COLOUR, paper.OURS_COLOUR, paper.PEER_COLOUR]


def test_the_whole(tmp_path):
    bench = Bench(2, 3, False)
    bench.runs = {"few": {OURS: [report(100), report(300), report(200)]}}
    bench.goal("ours / theirs", [0.9, 1.1, 1.0], at_least=1)
    bench.tables = [("One more", "A note.", ["a"], [["cell"]])]
    bench.found = ["hlchat: 1 lost"]
    more = {"uWebSockets": "--login ''"}
    absent = {"nchan": "no package"}
    paper.write(tmp_path, bench, Machine(), absent, "make bench", ["chatload x"], more)
    text = (tmp_path / "results.md").read_text()
    for part in (
        "Written by `make bench`.",
        "- 2 cores\n",
        "| ours / theirs | >= 1 | 1.00 (0.90 – 1.10) | met, within noise |",
        "Medians of 3 interleaved rounds (least – most).",
        "| hlchat | **200** (100 – 300) |",
        "| hlchat | 0.25 / 0.1 |",
        "## One more\n\nA note.\n\n| a |\n| --- |\n| cell |\n",
        "chatload x\n",
        "uWebSockets: --login ''\n",
        "- nchan: no package\n",
        "## What went wrong\n\n- hlchat: 1 lost\n",
    ):
        assert part in text
    assert "quick run" not in text
    assert (tmp_path / "fanout.svg").read_text().startswith("<svg")


def test_a_quick_run_says_that_it_proves_nothing(tmp_path):
    paper.write(tmp_path, Bench(0.5, 1, True), Machine(), {}, "make bench BENCH=quick", [], {})
    assert "says nothing about the goals" in (tmp_path / "results.md").read_text()
    assert not (tmp_path / "fanout.svg").exists()


def test_the_share_of_others():
    machine = paper.Machine()
    shares = machine.of_others()
    assert all(0 <= share <= 100 for share in shares)
    assert "load average" in machine.lines()[3]
