"""`codesign dump` prints what was recorded, by its names."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import traces
from vllm_codesign.cli.main import main
from vllm_codesign.exporter.keep import RecordKeeper
from vllm_codesign.recorder.layout import DECODING, DeviceWork, Ending, Field, Job, Kind
from vllm_codesign.recorder.reader import Record
from vllm_codesign.store.capture import Capture, ClockAnchor

S = 1_000_000_000
API, ENGINE = 100, 200


def R(kind: Kind, **more: Any) -> Record:
    """A record; what is not named is 0."""
    return Record(0, kind, **{"s": 0, "c": 0, "key": 0, "t0": 0, "t1": 0, "a": 0, "b": 0, **more})


API_RECORDS = [
    R(Kind.ROOT_BEGIN, key=0xAB, t0=2 * S, t1=2 * S + 500_000, a=77, c=2, s=0),
    R(Kind.ROOT_PARENT, key=0xAB, t0=-1, t1=1, a=2, b=3, c=1, s=1),
    R(Kind.JOB, key=0xAB, t0=3 * S, t1=4 * S, a=5 * S, b=12, c=2 << 16 | 3, s=Job.TOKENIZE),
    R(Kind.TEXT, key=0xAB, s=Field.MODEL, c=1, payload="möd el".encode().ljust(32, b"\0")),
    R(Kind.ITL, key=0xCD, c=3, payload=b"".join(n.to_bytes(4, "little") for n in range(8))),
    R(Kind.ROOT_PARAMS, key=0xAB, t0=16, t1=1, a=4602678819172646912, b=-1, s=1),
    R(Kind.ROOT_END, key=0xAB, t0=9 * S, a=200, b=250_000, s=Ending.COMPLETE),
]
ENGINE_RECORDS = [
    R(Kind.ENG_HEAD, key=0xCD, t0=6 * S, s=3),
    R(Kind.ENG_LOOKUP, key=0xCD, t0=7 * S, t1=7 * S + 9, a=64 << 32 | 48, b=1_500_000, c=2),
    R(Kind.ENG_FINISHED, key=0xCD, t0=8 * S, t1=1, a=15, b=30, s=2),
    Record(0, 99, s=1, c=2, key=3, t0=4, t1=5, a=6, b=7),
]


def write(folder: Path, records: dict[int, list[Record]]) -> Path:
    keeper = RecordKeeper(folder / "records")
    for pid, those in records.items():
        for number, record in enumerate(those):
            keeper.add(pid, record._replace(number=number))
    keeper.close()
    return folder


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    made = traces.write_capture(tmp_path, requests=[])
    made.save(made.load().model_copy(update={"anchors": [ClockAnchor(monotonic_ns=S, unix_ns=5)]}))
    write(made.path, {API: API_RECORDS, ENGINE: ENGINE_RECORDS})
    return made


def dump(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert main(["dump", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_lines_by_name(capture: Capture, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [" ".join(line.split()) for line in dump(capsys, capture.path)]
    assert lines == [
        "100 0 1.000500 root_begin 00000000000000ab first_byte=1.000000 entered=1.000500 "
        "route=/v1/chat/completions level=step announced_bytes=77",
        "100 1 1.000500 root_parent 00000000000000ab trace_high=ffffffffffffffff "
        "trace_low=0000000000000001 span=0000000000000002 parent=0000000000000003 "
        "trace_flags=1 from_caller=true",
        "100 2 4.000000 job 00000000000000ab queued=2.000000 begins=3.000000 ends=4.000000 "
        "job=tokenize tokens=12 pool_size=2 jobs_ahead=3",
        '100 3 4.000000 text 00000000000000ab field=model piece=0 pieces=1 text="möd el"',
        "100 4 4.000000 itl 00000000000000cd piece=0 intervals=3 us=[0, 1, 2]",
        "100 5 4.000000 root_params 00000000000000ab max_tokens=16 n=1 temperature=0.5 "
        "top_p=null stream=true",
        "100 6 8.000000 root_end 00000000000000ab end=8.000000 first_chunk=never status=200 "
        "first_send=0.250ms ending=complete",
        "200 0 5.000000 eng_head 00000000000000cd since=5.000000 reason=token_budget",
        "200 1 6.000000 eng_lookup 00000000000000cd begins=6.000000 ends=6.000000 "
        "tokens_asked=64 tokens_hit=48 all_tries=1.500ms tries=2",
        "200 2 7.000000 eng_finished 00000000000000cd freed=7.000000 prefill_chunks=1 "
        "decode_steps=15 batch_sum=30 preemptions=0 finish=length",
        "200 3 7.000000 kind_99 0000000000000003 s=1 c=2 t0=4 t1=5 a=6 b=7",
    ]


def test_members_of_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def eight(*numbers: int) -> bytes:
        return b"".join(n.to_bytes(4, "little") for n in (*numbers, *[0] * (8 - len(numbers))))

    chunks = eight(9, 64, 10, DECODING | 4)
    records = [
        R(Kind.STEP_DECODES, key=0x1A, s=2, payload=eight(7, 8)),
        R(Kind.STEP_CHUNKS, key=0x1A, s=2, c=1, payload=chunks),
        R(Kind.WORKER_DEVICE, key=0x1A, t0=S, t1=2 * S, c=DeviceWork.SAMPLE, s=3),
    ]
    capture = traces.write_capture(tmp_path, requests=[])
    anchors = [ClockAnchor(monotonic_ns=S, unix_ns=5)]
    capture.save(capture.load().model_copy(update={"anchors": anchors}))
    write(capture.path, {ENGINE: records})
    assert [line.split(maxsplit=5)[5] for line in dump(capsys, capture.path)] == [
        "requests=2 piece=0 numbers=[7, 8]",
        "requests=2 piece=1 numbers=[9, 10] tokens=[64, 4] decoding=[0, 1]",
        "begins=0.000000 ends=1.000000 forward=never forward_end=never work=sample rank=3",
    ]


def test_sorted_is_by_time_over_all_processes(
    capture: Capture, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = dump(capsys, capture.path, "--sorted")
    assert [line.split()[:2] for line in lines] == [
        *(["100", str(n)] for n in range(6)),
        *(["200", str(n)] for n in range(4)),
        ["100", "6"],
    ]


def test_filters(capture: Capture, capsys: pytest.CaptureFixture[str]) -> None:
    def chosen(*arguments: str) -> list[str]:
        return [line.split()[3] for line in dump(capsys, capture.path, *arguments)]

    assert chosen("--kind", "ENG_head", "--kind", "job") == ["job", "eng_head"]
    assert chosen("--key", "cd") == ["itl", "eng_head", "eng_lookup", "eng_finished"]
    assert chosen("--key", "0xcd", "--pid", "100") == ["itl"]
    assert chosen("--pid", "200", "--kind", "job") == []


def test_json_lines_have_raw_times(capture: Capture, capsys: pytest.CaptureFixture[str]) -> None:
    documents = [json.loads(line) for line in dump(capsys, capture.path, "--json")]
    assert len(documents) == 11
    assert documents[0] == {
        "pid": 100,
        "number": 0,
        "time_ns": 2 * S + 500_000,
        "kind": "root_begin",
        "key": "00000000000000ab",
        "first_byte": 2 * S,
        "entered": 2 * S + 500_000,
        "route": "/v1/chat/completions",
        "level": "step",
        "announced_bytes": 77,
    }
    assert documents[6]["first_send"] == 250_000
    assert documents[4]["us"] == [0, 1, 2]


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[list[str], str]:
    assert main(["dump", *map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    return out.splitlines(), err


def test_no_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = traces.write_capture(tmp_path, requests=[])
    out, err = fails(capsys, made.path)
    assert out == []
    assert err == (
        f"codesign: {made.path} holds no raw records: run the server with CODESIGN_KEEP_RECORDS=1\n"
    )


@pytest.mark.parametrize(
    ("damage", "message", "printed"),
    [
        (lambda raw: raw[:-10], "ends within a record, 54 bytes into it", 10),
        (lambda raw: raw[: 16 + 128] + b"\xff" + raw[16 + 129 :], "is damaged at byte 144", 9),
        (lambda raw: b"nonsense" + raw[8:], "holds no raw records", 7),
        (lambda raw: raw[:8] + b"\x09" + raw[9:], "has format 9; this version reads 1", 7),
        (lambda _: b"", "holds no raw records", 7),
    ],
)
def test_damage_is_told_after_what_could_be_read(
    capture: Capture,
    capsys: pytest.CaptureFixture[str],
    damage: Any,
    message: str,
    printed: int,
) -> None:
    path = capture.path / "records" / f"{ENGINE}.records"
    path.write_bytes(damage(path.read_bytes()))
    out, err = fails(capsys, capture.path)
    assert len(out) == printed
    assert message in err
    assert str(path) in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "nonsense"), "no such kind; there are void,"),
        (("--key", "xyz"), "not a hexadecimal key"),
        (("--pid", "7"), "no records of process 7: there are those of 100, 200"),
    ],
)
def test_bad_filters(
    capture: Capture,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert message in fails(capsys, capture.path, *arguments)[1]


def test_without_run_file_the_first_stamp_is_the_origin(
    capture: Capture, capsys: pytest.CaptureFixture[str]
) -> None:
    capture.run_file.unlink()
    assert dump(capsys, capture.path)[6].split()[2] == "6.999500"


def test_newest_capture_of_the_store(
    capture: Capture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODESIGN_STORE", str(capture.path.parent))
    assert len(dump(capsys)) == 11
    monkeypatch.setenv("CODESIGN_STORE", "")
    assert "there is no store" in fails(capsys)[1]
