"""The benchmark of the search: the synthetic space, tables and what makes them unusable, searches that cost nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.tables import write_table
from nas.base.errors import UserError
from nas.bench.search.picture import plot
from nas.bench.search.run import bench
from nas.bench.search.simulation import simulate
from nas.bench.search.summary import summary, to_text
from nas.bench.search.synthetic import SyntheticSpace
from nas.bench.search.table import TableSpace
from nas.cli import main


@pytest.fixture(scope="module")
def space() -> SyntheticSpace:
    return SyntheticSpace(0)


def test_the_surrogate_knows_costs_when_they_are_measured_and_told_ones_before():
    class Counted(SyntheticSpace):
        asked = 0

        def cost(self, params: dict[str, Any]) -> float:
            self.asked += 1
            return super().cost(params)

    measured: Any = Counted(0)
    told: Any = Counted(0)
    assert simulate(measured, "surrogate", "none", 0, 10).hypervolumes != []
    simulate(told, "surrogate-told", "none", 0, 10)
    assert measured.asked == 20 + 10 and told.asked > 1000  # 20 before the first training


def test_the_synthetic_space_is_conditional_noisy_and_its_curves_cross(space):
    draw = np.random.default_rng(0)
    names, values = list(space.choices()), list(space.choices().values())

    def params(row):
        return {name: choices[at] for name, choices, at in zip(names, values, row, strict=True)}

    rows = space.random(60, draw)
    drawn = [params(row) for row in rows]
    assert len(space.active(drawn[0])) == 16 < len(drawn[0])
    changed = drawn[0] | {name: space.choices()[name][0] for name in set(drawn[0]) - set(space.active(drawn[0]))}
    assert space.true_error(changed) == space.true_error(drawn[0]) and space.cost(changed) == space.cost(drawn[0])
    assert [space.true_error(one) for one in drawn] == pytest.approx(space.errors(rows).tolist())
    curves = np.array([space.curve(one, 0) for one in drawn])
    finals = [space.curve(one, 1)[-1] - space.true_error(one) for one in drawn]
    assert (curves == np.array([space.curve(one, 0) for one in drawn])).all()
    assert 0.005 < np.std(finals) < 0.02
    early, late = curves[:, 2], curves[:, -1]
    crossings = np.mean([(early[i] < early[j]) != (late[i] < late[j]) for i in range(60) for j in range(i)])
    assert 0.05 < crossings < 0.5
    assert SyntheticSpace(1).true_error(drawn[0]) != space.true_error(drawn[0])


def test_a_query_takes_microseconds(space):
    rows = space.random(10_000, np.random.default_rng(0))
    begin = time.process_time()
    assert len(space.errors(rows)) == len(space.costs(rows))
    assert (time.process_time() - begin) / 10_000 < 50e-6


def test_stopping_trains_fewer_epochs_and_stopped_trials_are_not_found(space):
    whole = simulate(space, "random", "none", 0, 30)
    stopped = simulate(space, "random", "mo_asha", 0, 30)
    assert whole.epochs[-1] == 30 * space.epochs > 2 * stopped.epochs[-1]
    assert simulate(space, "random", "none", 0, 30).hypervolumes == whole.hypervolumes
    # four at once find the same in the end, but the first is known when four have begun
    at_once = simulate(space, "random", "none", 0, 30, num_workers=4)
    assert at_once.hypervolumes[-1] == whole.hypervolumes[-1] and at_once.epochs[-1] == whole.epochs[-1]
    assert at_once.epochs[:4] == [0, 0, 0, 4 * space.epochs - 3] and at_once.hypervolumes[2] == 0
    frozen = simulate(space, "surrogate", "freeze_thaw", 0, 12, num_workers=4)
    assert [count for count, _ in frozen.reached] == sorted({count for count, _ in frozen.reached})
    assert frozen.reached[-1][1] == frozen.hypervolumes[-1] and frozen.reached[0][0] > 2 * space.epochs
    assert len(frozen.epochs) == 12 and frozen.hypervolumes[-1] > 0 and frozen.epochs[:3] == [0, 0, 0]
    assert whole.hypervolumes == sorted(whole.hypervolumes) and 0 < whole.hypervolumes[-1] < 1
    assert 0 < stopped.hypervolumes[-1] <= whole.hypervolumes[-1]


def test_a_bench_goes_on_where_it_ended_and_is_summed_up_and_drawn(tmp_path, space):
    out = tmp_path / "bench.json"
    bench(out, [space], ["random"], ["none"], [0], 6)
    first = json.loads(out.read_text())["runs"]
    result = bench(out, [space], ["random", "nsga2"], ["none", "mo_asha"], [0, 1], 6)
    assert result["runs"][0] == first[0] and len(result["runs"]) == 8
    assert bench(out, [space], ["random"], ["none"], [0, 1], 6) == result
    line = summary(result, at=(5,))[0]
    assert line["runs"] == 2 and line["at 5"][1] <= line["at 5"][0] <= line["at 5"][2]
    short = bench(tmp_path / "short.json", [space], ["random"], ["none"], [0], 30, num_epochs=40)
    assert "at 25" not in summary(short)[0] and to_text(short)
    plot(result, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_is_searched_and_judged_by_its_means(tmp_path):
    table = TableSpace(write_table(tmp_path / "table.jsonl"))
    assert len(table.points) == 400 and table.num_seeds == 2 and table.epochs == 9
    params = {name: values[0] for name, values in table.choices().items()}
    assert (table.true_error(params), table.cost(params)) == (0.9, 1.0)
    course = simulate(table, "random", "none", 0, 20)
    assert len(course.hypervolumes) == 20 and 0 < course.hypervolumes[-1] <= 1


@pytest.mark.parametrize(
    "header, without, message",
    [
        ({"format": 2}, "", "a table of format 2 with genotypes of format 1; this version reads format 1"),
        ({"genotypes": 9}, "", "format 1 with genotypes of format 9"),
        ({}, "latency_ms", "not complete: 400 of 400 networks are trained, 0 have latency_ms"),
        ({}, "seed", "not complete: 0 of 400 networks are trained"),
    ],
)
def test_a_table_of_another_version_or_half_a_table_is_refused(tmp_path, header, without, message):
    with pytest.raises(UserError, match=message):
        TableSpace(write_table(tmp_path / "table.jsonl", header, without))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--table", "absent.jsonl"], "absent.jsonl: cannot be read"),
        (["--table", "other.json"], "other.json: not a table of trained networks"),
        (["--out", "other.json"], "other.json: not a file of `nas bench search`"),
        (["--table", "other_space.jsonl"], "other_space.jsonl: the space of this table is of another version"),
        (["--plot", "empty.png"], "there are no searches to draw"),
        (["--sampler", "best"], "'best' is not compared; allowed are random, nsga2"),
        (["--scheduler", "asha"], "'asha' is not compared; allowed are none, mo_asha, freeze_thaw"),
    ],
)
def test_mistakes_of_the_command_get_one_message(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text('{"a": 1}\n')
    write_table(Path("other_space.jsonl"), {"space": {"stem": {"kind": "of another version"}}})
    monkeypatch.setattr("sys.argv", ["nas", "bench", "search", "--out", "out.json", "--spaces", "0", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not Path("out.json").exists()
