"""A stage makes its folder completely or not at all, never over another, and continues where it stopped."""

from __future__ import annotations

import errno
import os
import random
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from pydantic import Field

from medvit import __version__
from medvit.artifacts import Checkpoint, Lineage, Report
from medvit.config import Config
from medvit.dataset.manifest import Facts, Manifest
from medvit.errors import ConfigError, DataError, OutputError
from medvit.logs import LOG, STAMP
from medvit.phantoms import write_ct_studies
from medvit.stage import OPTIONS, Run, StageConfig, seed_everything, stage
from tests.plugins.tracking_template import MakeStore
from tests.processes.forked import Forked, heard, say


class CountConfig(StageConfig):
    """Options of a stage that writes numbers."""

    output: Path
    """Output folder."""
    until: int = 3
    """Number of lines to write."""
    stop_at: int | None = Field(None, json_schema_extra={"private": True})
    """Position of the failure; private, so that it may change between an interrupted run and the resumed one."""
    error: str = "data"
    """Kind of failure."""
    dataset: Path | None = None
    """A dataset to read."""
    checkpoint: Path | None = None
    """A checkpoint to read."""


ERRORS: dict[str, BaseException] = {
    "data": DataError("no more numbers"),
    "full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "bug": ZeroDivisionError("division by zero"),
    "stop": KeyboardInterrupt(),
}


@stage
def count(config: CountConfig, run: Run) -> Report:
    """Writes a file a number."""
    if config.dataset is not None:
        run.dataset(config.dataset)
    if config.checkpoint is not None:
        run.checkpoint(config.checkpoint)
    for number in range(config.until):
        if number == config.stop_at:
            raise ERRORS[config.error]
        path = run.folder / f"{number}.txt"
        if not path.exists():
            path.write_text(f"{os.getpid()} {random.random()}", encoding="utf-8")
        run.tracker.metrics({"number": number}, step=number)
    run.failures.append("none of the numbers is large")
    return Report(run.folder, {"count": config.until})


def run_count(folder: Path, **options: Any) -> Report:
    return count(**{"output": folder / "out", "tracking": {"enabled": False}, **options})


def sqlite(folder: Path) -> dict[str, str]:
    return {"uri": f"sqlite:///{folder / 'mlflow.db'}"}


def test_a_finished_stage_has_its_final_name_and_lineage(tmp_path: Path) -> None:
    made = run_count(tmp_path)
    assert made.folder == tmp_path / "out"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert (tmp_path / "out" / "2.txt").is_file()
    assert Lineage.read(tmp_path / "out").stage == "count"
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_failed_items_are_handed_on(tmp_path: Path) -> None:
    config = CountConfig.parse({"output": tmp_path / "out", "tracking": {"enabled": False}})
    assert count.run(config).failures == ("none of the numbers is large",)


def test_the_saved_config_runs_again_unchanged(tmp_path: Path) -> None:
    run_count(tmp_path, until=2)
    saved = tmp_path / "out" / "config.yaml"
    again = CountConfig.load(saved, [f"output={tmp_path / 'again'}"])
    assert count(again).metrics == {"count": 2}
    assert Lineage.read(tmp_path / "again").config_sha256 != Lineage.read(tmp_path / "out").config_sha256


@pytest.mark.parametrize("error", ["data", "bug", "stop"])
def test_a_stopped_stage_never_has_the_final_name(tmp_path: Path, error: str) -> None:
    with pytest.raises(type(ERRORS[error])):
        run_count(tmp_path, stop_at=2, error=error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.partial"]


def test_what_a_kill_left_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run_count(tmp_path, stop_at=2)
    partial = tmp_path / "out.partial"
    left = [".last.ckpt.partial", "tiles/.t.parquet.partial", f"images/ab/.{'ab' * 32}.4711.b2nd"]
    kept = [".notes", "mine.partial", "images/ab/x.b2nd", ".tracking/.sent.partial", ".spool/a/.x.partial"]
    for name in (*left, *kept):
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_text(name, encoding="utf-8")
    before = (partial / "1.txt").read_text(encoding="utf-8")
    with pytest.raises(DataError):
        run_count(tmp_path, stop_at=2, resume=True)
    assert not [name for name in left if (partial / name).exists()]
    assert all((partial / name).read_text(encoding="utf-8") == name for name in kept)
    assert (partial / "1.txt").read_text(encoding="utf-8") == before


def test_what_a_kill_after_the_renaming_left_is_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("medvit.stage.remove", killed)
        with pytest.raises(KeyboardInterrupt):
            run_count(tmp_path)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / ".lock").touch()  # which remains after a killed process, too
    with pytest.raises(OutputError, match="exists already"):
        run_count(tmp_path, resume=True)
    left = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert left == {name: content for name, content in whole.items() if not name.startswith(".")}
    assert whole.keys() - left.keys() == {".options.yaml", ".unneeded.json"}


def test_a_stage_that_made_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run_count(tmp_path, stop_at=0)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_with_the_way_on(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is full; free some space, then continue with resume=true"):
        run_count(tmp_path, stop_at=1, error="full")


class Grouped(Config):
    """Options in a group, one of which is inferred."""

    terms: str = ""
    """Empty: inferred."""
    pace: int = 1
    """May change."""


class ResolvingConfig(StageConfig):
    """Options of a stage that infers one of them."""

    RESOLVED: ClassVar[tuple[str, ...]] = ("size", "facts.terms")
    MAY_CHANGE: ClassVar[tuple[str, ...]] = (*StageConfig.MAY_CHANGE, "facts.pace")
    RENAMED: ClassVar[dict[str, str]] = {"terms": "facts.terms"}

    output: Path
    """Output folder."""
    size: tuple[int, ...] | None = None
    """Unset: inferred."""
    other: int = 1
    """Something else."""
    facts: Grouped = Field(default_factory=Grouped)
    fails: bool = Field(False, json_schema_extra={"private": True})
    """Whether the stage fails after it has written a file."""


@stage
def resolve(config: ResolvingConfig, run: Run) -> Report:
    """Finds a size."""
    run.in_force(size=config.size or (3, 4), **{"facts.terms": config.facts.terms or "CC0"})
    (run.folder / "made.txt").touch()
    if config.fails:
        raise DataError("failed")
    return Report(run.folder, {})


def test_what_is_recorded_is_the_tree_in_force_and_it_runs_again_to_the_same(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        resolve(output=tmp_path / "out", tracking=sqlite(tmp_path), fails=True)
    resolve(output=tmp_path / "out", tracking=sqlite(tmp_path), resume=True)  # the same options as were asked for
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text(encoding="utf-8"))["size"] == [3, 4]
    assert not list((tmp_path / "out").glob(".*"))
    lineage = Lineage.read(tmp_path / "out")
    client = MlflowClient(tracking_uri=sqlite(tmp_path)["uri"])
    params = client.get_run(lineage.run_id).data.params
    assert (params["size"], params["other"]) == ("[3, 4]", "1")
    assert (params["facts.terms"], params["facts.pace"]) == ("CC0", "1")
    config = ResolvingConfig.load(tmp_path / "out" / "config.yaml", [f"output={tmp_path / 'again'}"])
    assert config.size == (3, 4)
    assert config.facts == Grouped(terms="CC0")
    resolve(config)
    assert (tmp_path / "again" / "config.yaml").is_file()


def test_a_run_of_an_earlier_version_goes_on_with_its_options_which_are_in_a_group_now(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        resolve(output=tmp_path / "out", tracking=OFF, fails=True, other=2)
    (tmp_path / "out.partial" / OPTIONS).write_text("{size: null, other: 2, terms: CC-BY}\n", encoding="utf-8")
    options = {"output": tmp_path / "out", "tracking": OFF, "resume": True, "other": 2}
    with pytest.raises(ConfigError, match=r"started with other options \(facts\.terms\)"):
        resolve(**options, facts={"pace": 3})
    made = resolve(**options, facts={"terms": "CC-BY", "pace": 3})
    assert yaml.safe_load((made.folder / "config.yaml").read_text(encoding="utf-8"))["facts"] == {
        "terms": "CC-BY",
        "pace": 3,
    }


def test_a_run_stopped_at_its_very_end_goes_on_with_the_options_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("medvit.stage.rename", fail)
        with pytest.raises(KeyboardInterrupt):
            resolve(output=tmp_path / "out", tracking=OFF)
    resolve(output=tmp_path / "out", tracking=OFF, resume=True)
    assert not list((tmp_path / "out").glob(".*"))


def test_a_run_that_failed_before_it_knew_records_what_was_asked_for(tmp_path: Path) -> None:
    @stage
    def early(config: ResolvingConfig, run: Run) -> Report:
        (run.folder / "made.txt").touch()
        raise DataError("failed")

    with pytest.raises(DataError):
        early(output=tmp_path / "out", tracking=sqlite(tmp_path))
    client = MlflowClient(tracking_uri=sqlite(tmp_path)["uri"])
    (run,) = client.search_runs([client.get_experiment_by_name("medvit").experiment_id])
    assert "size" in yaml.safe_load((tmp_path / "out.partial" / "config.yaml").read_text(encoding="utf-8"))
    assert run.data.params["other"] == "1"


def test_a_used_folder_is_refused_and_both_ways_out_are_named(tmp_path: Path) -> None:
    run_count(tmp_path)
    with pytest.raises(OutputError, match=r"exists already; give another output=\.\.\. or remove it first"):
        run_count(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="exists already"):
        run_count(tmp_path)
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run_count(tmp_path).metrics == {"count": 3}


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be created: Not a directory"):
        count(output=tmp_path / "file" / "out", tracking={"enabled": False})


def test_an_unfinished_run_is_not_started_over_by_accident(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run_count(tmp_path, stop_at=2)
    with pytest.raises(OutputError, match="continue with resume=true, or remove it"):
        run_count(tmp_path)


def test_a_resumed_run_keeps_what_was_made(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run_count(tmp_path, stop_at=2)
    before = (tmp_path / "out.partial" / "1.txt").read_text(encoding="utf-8")
    run_count(tmp_path, resume=True)
    assert (tmp_path / "out" / "1.txt").read_text(encoding="utf-8") == before
    assert (tmp_path / "out" / "2.txt").is_file()


OFF = {"enabled": False}


def work_until_told(output: Path) -> None:
    @stage
    def ingest(config: CountConfig, run: Run) -> Report:
        (run.folder / "mine.txt").touch()
        say("ready")
        heard()
        return Report(run.folder, {})

    ingest(output=output, tracking=OFF)


def other_process(output: Path) -> Forked:
    """A stage running in another process, which ends on request."""
    other = Forked(work_until_told, output)
    assert other.line() == "ready\n"
    return other


@pytest.mark.parametrize("resume", [False, True])
def test_of_two_runs_in_one_folder_the_second_is_refused_in_one_sentence(tmp_path: Path, resume: bool) -> None:
    with other_process(tmp_path / "out") as other:
        sentence = (
            rf"medvit ingest of process {other.pid} on .* is working in .*out\.partial; wait until it has ended, or"
        )
        with pytest.raises(OutputError, match=sentence):
            run_count(tmp_path, resume=resume)
        other.tell("")
    assert other.status == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.yaml",
        "lineage.json",
        "medvit.log",
        "mine.txt",
    ]
    with pytest.raises(OutputError, match="exists already"):
        run_count(tmp_path, resume=resume)


def test_a_killed_run_keeps_nobody_out(tmp_path: Path) -> None:
    with other_process(tmp_path / "out") as other:
        other.send(signal.SIGKILL)
    with pytest.raises(OutputError, match="contains an unfinished run"):
        run_count(tmp_path)
    assert run_count(tmp_path, resume=True).metrics == {"count": 3}
    assert not list((tmp_path / "out").glob(".*"))


def test_a_run_within_a_run_is_kept_out_of_its_folder_too(tmp_path: Path) -> None:
    @stage
    def outer(config: CountConfig, run: Run) -> Report:
        with pytest.raises(OutputError, match=r"medvit outer of process .* is working"):
            run_count(tmp_path, resume=True)
        return Report(run.folder, {})

    outer(output=tmp_path / "out", tracking=OFF)
    assert not list((tmp_path / "out").glob(".*"))


def test_leftovers_are_removed_when_the_folder_has_its_name_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @stage
    def outer(config: CountConfig, run: Run) -> Report:
        (run.folder / "last.ckpt").write_text("all of it", encoding="utf-8")
        (run.folder / ".head").mkdir(exist_ok=True)
        run.leftovers |= {"last.ckpt", ".head", "absent"}
        return Report(run.folder, {})

    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("medvit.stage._end", fail)
        with pytest.raises(KeyboardInterrupt):
            outer(output=tmp_path / "out", tracking=OFF)
    assert (tmp_path / "out.partial" / "last.ckpt").is_file()
    outer(output=tmp_path / "out", tracking=OFF, resume=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.yaml", "lineage.json", "medvit.log"]


def test_resuming_what_was_never_begun_begins_it(tmp_path: Path) -> None:
    assert run_count(tmp_path, resume=True).metrics == {"count": 3}


def test_resuming_with_other_options_is_refused_and_names_them(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run_count(tmp_path, stop_at=2)
    with pytest.raises(ConfigError, match=r"started with other options \(until\)"):
        run_count(tmp_path, resume=True, until=9)


def test_resuming_on_another_dataset_is_refused(tmp_path: Path) -> None:
    for name, rights in (("one", ""), ("other", "CC0-1.0")):
        (tmp_path / name).mkdir()
        Manifest((), Facts(name, license=rights), tmp_path / name).write()
    with pytest.raises(DataError):
        run_count(tmp_path, stop_at=2, dataset=tmp_path / "one")
    (tmp_path / "one" / "facts.json").exists()
    (tmp_path / "one").rename(tmp_path / "gone")
    (tmp_path / "other").rename(tmp_path / "one")
    with pytest.raises(ConfigError, match=r"the dataset differs from that of the unfinished run in"):
        run_count(tmp_path, resume=True, dataset=tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "other")
    (tmp_path / "gone").rename(tmp_path / "one")
    assert run_count(tmp_path, resume=True, dataset=tmp_path / "one").metrics == {"count": 3}
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def logged(folder: Path) -> list[str]:
    """Lines of a log file without their time."""
    return [STAMP.sub("", line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]


def test_the_log_of_a_run_goes_on_in_one_file_and_ends_with_the_summary(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run_count(tmp_path, stop_at=2)
    assert logged(tmp_path / "out.partial") == [
        f"INFO medvit {__version__}: count started",
        "ERROR count failed: DataError; its text is shown only on the terminal",  # a private option may name a patient
    ]
    run_count(tmp_path, resume=True)
    lines = logged(tmp_path / "out")
    assert lines[2:4] == [f"INFO medvit {__version__}: count resumed", "WARNING none of the numbers is large"]
    assert lines[4].startswith("INFO count: done in ")
    assert lines[5:] == [f"  folder  {tmp_path / 'out'}"]


@pytest.mark.parametrize(
    ("error", "line"), [("bug", "stopped by an unexpected ZeroDivisionError"), ("stop", "interrupted")]
)
def test_the_log_says_how_a_run_ended_that_did_not_finish(tmp_path: Path, error: str, line: str) -> None:
    with pytest.raises(type(ERRORS[error])):
        run_count(tmp_path, stop_at=2, error=error)
    assert logged(tmp_path / "out.partial")[-1] == f"ERROR count {line}"


class OpenConfig(StageConfig):
    """Options without private ones."""

    output: Path
    """Output folder."""


def test_an_error_that_can_name_no_patient_is_logged_whole(tmp_path: Path) -> None:
    @stage
    def fail(config: OpenConfig, run: Run) -> Report:
        (run.folder / "made.txt").touch()
        raise DataError("no more numbers")

    with pytest.raises(DataError):
        fail(output=tmp_path / "out", tracking=OFF)
    assert logged(tmp_path / "out.partial")[-1] == "ERROR fail failed: DataError: no more numbers"


def test_private_options_are_not_saved(tmp_path: Path) -> None:
    run_count(tmp_path, stop_at=7)
    assert "stop_at" not in yaml.safe_load((tmp_path / "out" / "config.yaml").read_text(encoding="utf-8"))


def test_the_same_seed_draws_the_same_numbers() -> None:
    def draws() -> tuple[float, ...]:
        seed_everything(5)
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    assert draws() == draws()


def test_an_ingest_never_waits_for_torch(tmp_path: Path) -> None:
    write_ct_studies(tmp_path / "source", 1)
    program = "import sys; from pipelines.__main__ import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    words = [f"source={tmp_path / 'source'}", f"dataset={tmp_path / 'out'}", f"key={tmp_path / 'k'}"]
    command = [sys.executable, "-c", program, "ingest", *words, "tracking.enabled=false"]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]


def test_every_run_is_in_mlflow_with_its_state(tmp_path: Path, make_store: MakeStore) -> None:
    client = MlflowClient(tracking_uri=make_store(tmp_path))
    with pytest.raises(DataError):
        run_count(tmp_path, stop_at=2, tracking=sqlite(tmp_path))
    (found,) = client.search_runs([client.get_experiment_by_name("medvit").experiment_id])
    run_id = found.info.run_id
    assert client.get_run(run_id).info.status == "FAILED"
    run_count(tmp_path, resume=True, tracking=sqlite(tmp_path))
    assert Lineage.read(tmp_path / "out").run_id == run_id  # the same run continued
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["until"] == "3"
    assert "config.yaml" in [artifact.path for artifact in client.list_artifacts(run_id)]


def only_run(folder: Path) -> MlflowRun:
    """Return the only run of a store."""
    client = MlflowClient(tracking_uri=sqlite(folder)["uri"])
    (found,) = client.search_runs([client.get_experiment_by_name("medvit").experiment_id])
    return client.get_run(found.info.run_id)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        ("data", "FAILED", "DataError; its text is shown only on the terminal"),
        ("bug", "FAILED", "unexpected ZeroDivisionError"),
        ("stop", "KILLED", "interrupted"),
    ],
)
def test_a_run_that_stopped_has_the_reason_until_it_is_resumed(
    tmp_path: Path, make_store: MakeStore, error: str, status: str, reason: str
) -> None:
    make_store(tmp_path)
    with pytest.raises(type(ERRORS[error])):
        run_count(tmp_path, stop_at=2, error=error, tracking=sqlite(tmp_path))
    run = only_run(tmp_path)
    assert (run.info.status, run.data.tags["medvit.failure"]) == (status, reason)
    assert reason in run.data.tags["mlflow.note.content"]
    run_count(tmp_path, resume=True, error=error, tracking=sqlite(tmp_path))
    run = only_run(tmp_path)
    assert (run.info.status, run.data.tags["medvit.failure"]) == ("FINISHED", "")
    assert reason not in run.data.tags["mlflow.note.content"]


def test_a_terminated_process_leaves_a_killed_run(tmp_path: Path, make_store: MakeStore) -> None:
    make_store(tmp_path)
    worker = f"""
import os, signal
from medvit.stage import Run, stage
from tests.test_stage import CountConfig

@stage
def wait(config: CountConfig, run: Run):
    (run.folder / "made.txt").touch()
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()

signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line does
wait(output={str(tmp_path / "out")!r}, tracking={sqlite(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-c", worker], capture_output=True, text=True, timeout=120, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert only_run(tmp_path).info.status == "KILLED"


def test_a_stranger_can_read_what_a_run_did(tmp_path: Path, make_store: MakeStore) -> None:
    make_store(tmp_path)
    run_count(tmp_path, until=5, stop_at=7, tracking=sqlite(tmp_path))
    tags = only_run(tmp_path).data.tags
    assert only_run(tmp_path).info.run_name == "count out"
    assert "1 item failed" in tags["mlflow.note.content"]
    assert tags["medvit.output"] == str(tmp_path / "out")
    assert tags["medvit.version"] == __version__
    words = shlex.split(tags["medvit.command"])
    assert words[:2] == ["medvit", "count"]
    assert set(words[2:]) == {f"output={tmp_path / 'out'}", "until=5", f"tracking.uri={sqlite(tmp_path)['uri']}"}
    assert "mlflow.user" not in tags or tags["mlflow.user"] == "unknown"


class Sized(Config):
    """Options that follow from the data unless one of them is given."""

    size: int = 1
    """Size."""
    channels: int = 1
    """Number of channels."""


class SizedConfig(StageConfig):
    """Options with a group that is unset by default."""

    output: Path
    """Output folder."""
    sized: Sized | None = None
    """Group."""


def test_a_command_gives_only_the_options_of_a_group_that_were_given(tmp_path: Path, make_store: MakeStore) -> None:
    make_store(tmp_path)

    @stage
    def look(config: SizedConfig, run: Run) -> Report:
        return Report(run.folder, {})

    look(output=tmp_path / "out", sized={"size": 28}, tracking=sqlite(tmp_path))
    words = shlex.split(only_run(tmp_path).data.tags["medvit.command"])
    assert [word for word in words if word.startswith("sized")] == ["sized.size=28"]


def test_a_parent_in_another_store_is_reported_and_hides_no_run(
    tmp_path: Path, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="medvit")
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        make_store(tmp_path / name)
    made = run_count(tmp_path, output=tmp_path / "model", tracking=sqlite(tmp_path / "there")).folder
    Checkpoint(made, {"kind": "backbone"}, {}, {"weight": torch.ones(1)}).save()
    run_count(tmp_path, checkpoint=made, tracking=sqlite(tmp_path / "here"))
    tags, parent = only_run(tmp_path / "here").data.tags, Lineage.read(made).run_id
    assert "mlflow.parentRunId" not in tags
    assert tags["medvit.parent_elsewhere.checkpoint"] == tags["medvit.parent.checkpoint"] == parent
    assert f"the run {parent}, which made the checkpoint, is not in the MLflow store" in caplog.text


def test_a_run_can_have_the_options_of_its_model(tmp_path: Path, make_store: MakeStore) -> None:
    make_store(tmp_path)
    made = run_count(tmp_path, output=tmp_path / "model", until=2).folder

    @stage
    def judge(config: OpenConfig, run: Run) -> Report:
        run.model_params(made)
        return Report(run.folder, {})

    judge(output=tmp_path / "out", tracking=sqlite(tmp_path))
    params = only_run(tmp_path).data.params
    assert params["model.until"] == "2"
    assert not {"output", "resume", "tracking.uri"} & params.keys()  # the result does not depend on them
    assert "model.output" not in params


def test_a_child_points_to_the_runs_of_its_inputs(tmp_path: Path, make_store: MakeStore) -> None:
    make_store(tmp_path)
    made = {}
    for name in ("dataset", "checkpoint"):
        made[name] = run_count(tmp_path, output=tmp_path / name, tracking=sqlite(tmp_path)).folder
    Manifest((), Facts("phantoms"), made["dataset"]).write()
    saved = Checkpoint(made["checkpoint"], {"kind": "backbone"}, {}, {"weight": torch.ones(1)}).save()
    run_count(tmp_path, tracking=sqlite(tmp_path), **made)
    lineage = Lineage.read(tmp_path / "out")
    parents = {name: Lineage.read(folder).run_id for name, folder in made.items()}
    assert lineage.parents == parents
    assert lineage.inputs == {"dataset": Manifest.read(made["dataset"]).hash, "checkpoint": saved.hash}
    tags = MlflowClient(tracking_uri=sqlite(tmp_path)["uri"]).get_run(lineage.run_id).data.tags
    assert "mlflow.parentRunId" not in tags  # the table of runs is flat
    assert tags["medvit.parent.dataset"] == parents["dataset"]


def test_a_store_that_cannot_be_used_stops_no_stage(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run_count(tmp_path, tracking={"uri": f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"})
    assert Lineage.read(tmp_path / "out").run_id is None
    assert (tmp_path / "out" / "2.txt").is_file()
    with pytest.raises(DataError):
        run_count(tmp_path, output=tmp_path / "none", stop_at=0, tracking={"uri": f"sqlite:///{tmp_path}/file/x.db"})
    assert not (tmp_path / "none.partial").exists(), "what made nothing leaves nothing"
