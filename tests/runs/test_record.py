"""Trial records: whole or absent after any crash, oldest first, unreadable ones named."""

from __future__ import annotations

import json
import stat

import pytest

from nas.runs.record import TrialRecord, read_records, record_path, scan_records, write_record
from nas.space.genotype import Genotype
from nas.space.specs import Basic, Involution, Stem

GENOTYPE = Genotype(stem=Stem(kind="small"), stages=((Basic(width=16, operator=Involution()),),))


def record(number: int, finished: float = 0.0, **more) -> TrialRecord:
    values = {
        "state": "complete",
        "genotype": GENOTYPE.to_dict(),
        "params": {"stages.0.operator": "inv7", "stages.0.depth": 1},
        "objectives": {"top1": 0.875, "latency_ms": 1.5},
        "curve": [{"epoch": 1, "train_loss": 0.1, "top1": 0.875}],
    }
    return TrialRecord(**{"number": number, "key": GENOTYPE.key, "finished": finished} | values | more)


def test_round_trip(tmp_path):
    written = record(3, 5.0, error="diverged: loss is “nan”", state="failed", objectives={})
    write_record(tmp_path, written)
    assert read_records(tmp_path) == [written]
    assert TrialRecord.from_json(written.to_json()) == written
    assert Genotype.from_dict(read_records(tmp_path)[0].genotype) == GENOTYPE
    assert read_records(str(tmp_path)) == [written]


def test_file_holds_the_promised_keys(tmp_path):
    write_record(tmp_path, record(0))
    data = json.loads((tmp_path / "trials" / "0.json").read_text())
    promised = {"number", "key", "state", "genotype", "seed", "objectives", "curve", "seconds", "error"}
    assert promised <= data.keys()


def test_records_come_oldest_first(tmp_path):
    for number, finished in ((2, 10.0), (10, 5.0), (1, 10.0), (0, 20.0)):
        write_record(tmp_path, record(number, finished))
    assert [item.number for item in read_records(tmp_path)] == [10, 1, 2, 0]


def test_a_run_without_trials_has_no_records(tmp_path):
    assert read_records(tmp_path) == []


def test_a_second_write_replaces_the_first(tmp_path):
    write_record(tmp_path, record(0, state="stopped"))
    write_record(tmp_path, record(0))
    assert [item.state for item in read_records(tmp_path)] == ["complete"]
    assert [path.name for path in (tmp_path / "trials").iterdir()] == ["0.json"]
    assert stat.S_IMODE(record_path(tmp_path, 0).stat().st_mode) == 0o644


UNREADABLE = {
    "empty": b"",
    "cut": record(1).to_json().encode()[:-20],
    "list": b"[]",
    "no record": b"{}",
    "later format": record(1, format=2).to_json().encode(),
    "binary": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_record_is_named(name, tmp_path):
    write_record(tmp_path, record(0))
    path = record_path(tmp_path, 1)
    path.write_bytes(UNREADABLE[name])
    with pytest.raises(ValueError, match=r"unreadable trial record: .*1\.json"):
        read_records(tmp_path)
    records, unreadable = scan_records(tmp_path)
    assert [item.number for item in records] == [0] and unreadable == [path]


def test_fields_of_later_versions_are_left_out():
    data = json.loads(record(0).to_json()) | {"mood": "good"}
    del data["checksum"]
    assert TrialRecord.from_json(json.dumps(data)) == record(0)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["objectives"].update(top1=9.32),
        lambda data: data["curve"][0].update(top1=0.876),
        lambda data: data.pop("error"),
        lambda data: data.update(checksum="0" * 16),
    ],
)
def test_a_value_that_was_changed_is_noticed(tmp_path, change):
    write_record(tmp_path, record(0))
    data = json.loads(record_path(tmp_path, 0).read_text())
    record_path(tmp_path, 0).write_text(json.dumps(data))  # in another layout
    assert read_records(tmp_path) == [record(0)]
    change(data)
    record_path(tmp_path, 0).write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"unreadable trial record: .*0\.json"):
        read_records(tmp_path)
    with pytest.raises(ValueError, match="not those that were written"):
        TrialRecord.from_json(json.dumps(data))


def test_a_record_of_an_earlier_version_has_no_checksum_and_is_read():
    data = json.loads(record(0).to_json())
    del data["checksum"]
    assert TrialRecord.from_json(json.dumps(data)) == record(0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_record_holds_only_finite_numbers(value, tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(tmp_path, record(0, objectives={"top1": value}))
    assert read_records(tmp_path) == []


def test_temporary_files_are_no_records(tmp_path):
    write_record(tmp_path, record(0))
    (tmp_path / "trials" / ".1.json.abc").write_text("half")
    assert len(read_records(tmp_path)) == 1
