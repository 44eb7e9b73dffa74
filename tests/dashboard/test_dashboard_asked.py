"""What pages ask for once they have drawn: networks trained at length, what they confuse, and networks thought of."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Route, expect

from helpers.dashboard_pages import get, served, whole_view
from helpers.mistakes_samples import MATRIX, write_mistakes
from helpers.run_samples import experiment, make_run
from helpers.searches import ended
from nas.dashboard import export_html
from nas.runs.record import read_records
from nas.space.search_space import SearchSpace

SPACE = SearchSpace(experiment().space)
RETRAINED = 28


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("results") / "asked", 60)


@pytest.fixture(scope="module")
def key(run_dir) -> str:
    """Of the network that was trained at length twice."""
    key = next(record.key for record in read_records(run_dir) if record.number == RETRAINED)
    for name in (key, f"{key}-again"):
        (run_dir / "retrain" / name).mkdir(parents=True)
        training = {"dataset": "cifar10", "recipe": "hornet", "resolution": 32}
        done = {"top1": 0.9, "best_top1": 0.92, "proxy_top1": 0.5, "epochs": 3, "training": training}
        (run_dir / "retrain" / name / "config.json").write_text(json.dumps(done), encoding="utf-8")
    return key


@pytest.fixture(scope="module")
def url(run_dir) -> Iterator[str]:
    with served(run_dir.parent) as address:
        yield address


def test_the_page_of_a_trial_shows_what_its_network_confuses(open_page, url, run_dir, key):
    kept = write_mistakes(run_dir / "retrain" / key)
    page = open_page(f"{url}/run/asked/trial/{RETRAINED}")
    section = page.locator("section", has_text="What it confuses")
    expect(section).to_contain_text("7 of 30 images of digits are wrong (23.3 %)")
    cells = section.locator(".matrix tbody tr")
    for i, row in enumerate(MATRIX):
        expect(cells.nth(i).locator("th")).to_have_text(kept["class_names"][i])
        right = f"{10 * row[i]:.1f} %"
        expect(cells.nth(i).locator("td")).to_have_text([*map(str, row), right])
    expect(section.locator(".mistakes img")).to_have_count(2)
    assert section.locator(".mistakes img").first.evaluate("(image) => image.naturalWidth") == 8
    again = section.locator("pre")
    expect(again).to_have_count(1)  # the other training was not evaluated yet
    assert shlex.split(again.inner_text())[-4:] == ["--name", "again", "--data", "DIR"]
    write_mistakes(run_dir / "retrain" / f"{key}-again", matrix=None, class_names=None)
    page.reload()
    expect(section.locator("tbody tr", has_text="cow").last).to_contain_text("40.0 %")


def test_a_file_of_something_else_shows_nothing(run_dir, key):
    folder = run_dir / "retrain" / key
    view = whole_view(run_dir)
    write_mistakes(folder)
    assert view.mistakes(RETRAINED)[0]["found"]
    for changes in (
        {"matrix": [[1, 2], [3, 4]]},
        {"matrix": [["x"] * 3] * 3},
        {"num_wrong": None},
        {"pairs": [[]]},
        {"images": [{"index": 1, "file": None, "label": "a", "predicted": "b", "probability": 0.5, "png": "<b>" * 9}]},
        {"data": "x" * 3_000_000},
    ):
        write_mistakes(folder, **changes)
        assert view.mistakes(RETRAINED)[0]["found"] is None, changes
    (folder / "mistakes.json").write_text("[" * 100_000, encoding="utf-8")
    assert view.mistakes(RETRAINED)[0]["found"] is None


def test_trials_without_long_training_have_none(url, run_dir, key):
    assert json.loads(get(url, "/api/run/asked/trial/5/mistakes")[1]) == []
    assert get(url, "/api/run/asked/trial/999/mistakes")[0] == 404
    other = next(record.key for record in read_records(run_dir) if record.number == 5)
    write_mistakes(run_dir / "proxy" / other)
    found = json.loads(get(url, "/api/run/asked/trial/5/mistakes")[1])
    assert [one["of"] for one in found] == ["weights of the search"] and "--weights proxy" in found[0]["command"]


def test_networks_trained_at_length_are_in_one_table(open_page, url, run_dir, key, tmp_path, monkeypatch, capsys):
    alone = run_dir.parent / "retrained" / "retrain" / "0123456789ab"
    alone.mkdir(parents=True)
    (alone / "settings.json").write_text(json.dumps({"epochs": 90, "dataset": "imagefolder"}), encoding="utf-8")
    (alone / "metrics.csv").write_text("epoch,train_loss,top1\n1,2.0,0.25\n", encoding="utf-8")
    code, said, _ = ended(tmp_path, monkeypatch, capsys, "status", str(run_dir.parent), "--retrained", "--json")
    rows = json.loads(said)
    assert code == 0 and rows == json.loads(get(url, "/api/runs")[1])["retrained"]
    latency = next(r for r in read_records(run_dir) if r.number == RETRAINED).objectives["latency_ms"]
    known = {"run": "asked", "number": RETRAINED, "key": key, "recipe": "hornet", "proxy_top1": 0.5, "best_top1": 0.92}
    assert [row["name"] for row in rows] == ["", "again", ""]
    for row in rows[:2]:
        assert row | known | {"latency_ms": latency, "top1": 0.9, "done": True} == row
    assert rows[2] | {"run": "retrained", "number": None, "latency_ms": None, "done": False, "asked": 90} == rows[2]
    code, said, _ = ended(tmp_path, monkeypatch, capsys, "status", str(run_dir), "--retrained")
    assert code == 0 and said.count("hornet") == 2 and "again" in said and "90.00" in said
    page = open_page(f"{url}/")
    lines = page.locator("#retrained tbody tr")
    expect(lines).to_have_count(3)
    expect(lines.filter(has_text="0123456789ab")).to_contain_text("1 of 90")
    page.locator("#retrained button", has_text="top-1").press("Enter")
    expect(lines.last).to_contain_text("imagefolder")
    page.locator("#retrained button", has_text="top-1").press("Enter")
    expect(lines.first).to_contain_text("imagefolder")
    expect(page.locator("#retrained button", has_text="top-1")).to_be_focused()
    lines.last.locator("a").click()
    expect(page.locator("#name")).to_have_text(f"asked: trial {RETRAINED}")


def test_status_of_no_long_training(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "results" / "one", 2)
    code, said, _ = ended(tmp_path, monkeypatch, capsys, "status", "--retrained")
    assert code == 0 and "no network was trained at length yet" in said
    code, _, said = ended(tmp_path, monkeypatch, capsys, "status", "nowhere", "--retrained")
    assert code == 2 and "nowhere" in said


def counted(route: Route) -> None:
    """The answer, as of a run whose numbers of parameters are those of its networks."""
    answer = route.fetch()
    found = answer.json()
    found["predicted"]["num_params"]["exact"] = True
    route.fulfill(response=answer, json=found)


def label_of(select: Locator) -> str:
    return select.evaluate("(select) => select.selectedOptions[0].text")


def test_a_network_that_is_thought_of_is_predicted_beside_a(open_page, url, run_dir, key, tmp_path):
    record = next(record for record in read_records(run_dir) if record.number == RETRAINED)
    page = open_page(f"{url}/run/asked#a={RETRAINED}")
    node = page.locator("#what-if")
    node.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(node.locator("table")).to_be_visible(timeout=60_000)
    expect(node.locator("[role=status]")).to_have_text("These are the choices of A itself.")
    top1 = node.locator("tbody tr", has_text="top-1")
    expect(top1.locator("td").nth(1)).to_have_text(f"{100 * record.objectives['top1']:.2f}")
    depth = node.locator('[data-choice="stages.0.depth"]')
    other = next(value for value in (1, 2) if value != record.params["stages.0.depth"])
    depth.focus()
    page.keyboard.press("ArrowDown" if other == 2 else "ArrowUp")
    expect(node.locator("[role=status]")).to_have_text("")
    expect(depth).to_be_focused()
    blocks = node.locator('[data-choice^="stages.0.blocks."]')
    expect(blocks).to_have_count(other)
    params = record.params | {"stages.0.depth": other}
    if other == 2:  # a further block is as the one before it
        params["stages.0.blocks.1.operator"] = params["stages.0.blocks.0.operator"]
    question = f"/api/run/asked/what-if?params={quote(json.dumps(params))}"
    guess = json.loads(get(url, question)[1])["predicted"]["top1"]
    expect(top1.locator("td").nth(2)).to_have_text(f"{100 * guess['value']:.2f} ± {100 * guess['margin']:.2f}")
    blocks, kind = node.locator('[data-choice^="stages.1.blocks."]'), node.locator('[data-choice="stages.1.block"]')
    second = blocks.nth(1)
    first_label, labels = label_of(blocks.nth(0)), second.locator("option").all_inner_texts()
    chosen = next(label for label in labels if label != first_label)
    second.select_option(label=chosen)
    kind.select_option(index=1 - kind.evaluate("(select) => select.selectedIndex"))
    assert [label_of(blocks.nth(at)) for at in range(2)] == [first_label, chosen], "operators stay in other blocks"
    held: list[Route] = []  # an answer that is late is no answer to what was asked since
    page.route("**/what-if?params=*", lambda route: route.continue_() if held else held.append(route))
    second.select_option(label=first_label)
    expect(node.locator("[role=status]")).to_have_text("Predicting …")
    second.select_option(label=chosen)
    expect(node.locator("[role=status]")).to_have_text("")
    answer = top1.locator("td").nth(2).inner_text()
    with page.expect_response("**/what-if?params=*"):
        held[0].continue_()
    page.wait_for_timeout(200)
    assert top1.locator("td").nth(2).inner_text() == answer
    page.unroute("**/what-if?params=*")
    page.route("**/what-if?params=*", counted)
    second.select_option(label=first_label)
    expect(node.locator("tbody tr", has_text="parameters").locator("td").nth(2)).to_contain_text("exact")
    page.unroute("**/what-if?params=*")
    twin = next(r for r in read_records(run_dir) if r.number != RETRAINED and r.state == "complete")
    found = json.loads(get(url, f"/api/run/asked/what-if?params={quote(json.dumps(twin.params))}")[1])
    assert found["trial"]["number"] == twin.number
    assert get(url, "/api/run/asked/what-if?params=[1")[0] == get(url, "/api/run/asked/what-if")[0] == 400
    assert get(url, "/api/run/asked/trial/999/what-if")[0] == 404
    export_html(run_dir, tmp_path / "saved.html", explained=False)
    page.goto(f"file://{tmp_path}/saved.html#a={RETRAINED}")
    page.locator("#panel summary", has_text="What if").click()
    expect(page.locator("#panel")).to_contain_text("need the page that a server shows: nas dashboard asked")
