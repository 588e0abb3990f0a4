"""The same dataset wherever the work runs, and memory that hardly grows with the number of instances."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medvit import phantoms
from medvit.dataset.manifest import Manifest
from medvit.engine import EngineConfig, map_items
from medvit.errors import ConfigError, TimeLimitError
from medvit.ingest.scan import scan
from medvit.phantoms.large_archive import write_archive
from pipelines.ingest import ingest
from tests.processes.cluster_work import hang, kill_itself, of_unportable, pid_while_waiting

MAX_BYTES_AN_INSTANCE = 6 * 2**10
"""Maximum memory of scanning per instance: at 100,000 of them, 0.6 GiB."""

PEAK_OF_A_SCAN = """
import resource, sys
from pathlib import Path
from medvit.ingest.scan import scan

found = scan(Path(sys.argv[1]))
print(len(found.candidates), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""

QUIET = {"include_log_monitor": False, "no_monitor": True}
"""Options of a Ray node without processes that these tests do not need."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of two nodes with one worker each, on loopback."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'medvit[ray]')")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **QUIET})
    nodes.add_node(num_cpus=1, **QUIET)
    yield nodes.address
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CT studies with localizers, one of them with a hole, radiographs, and files that are not images."""
    folder = tmp_path_factory.mktemp("scale") / "source"
    phantoms.write_ct_studies(folder / "ct", 2)
    phantoms.write_radiograph_studies(folder / "dx", 2)
    phantoms.lose_slice(max(folder.glob("ct/**/"), key=lambda one: len(list(one.glob("*.dcm")))))
    (folder / "broken.dcm").write_bytes(bytes(128) + b"DICM broken")
    (folder / "notes.txt").write_text("no image")
    return folder


def ingested(source: Path, dataset: Path, **options: object) -> Manifest:
    key = source.parent / "site.key"
    return ingest(source=source, dataset=dataset, name="test", key=key, tracking={"enabled": False}, **options)


def contents(dataset: Path) -> dict[str, bytes]:
    """The bytes of all files except those about the run."""
    of_the_run = ("config.yaml", "lineage.json", "medvit.log")
    files = [path for path in dataset.rglob("*") if path.is_file() and path.name not in of_the_run]
    return {path.relative_to(dataset).as_posix(): path.read_bytes() for path in files}


def test_one_process_two_and_a_cluster_make_the_identical_dataset(source: Path, cluster: str, tmp_path: Path) -> None:
    alone = ingested(source, tmp_path / "alone")
    both = ingested(source, tmp_path / "both", engine={"num_processes": 2})
    spread = ingested(source, tmp_path / "spread", engine={"name": "ray", "address": cluster})
    assert len(alone) >= 4
    assert alone.hash == both.hash == spread.hash
    assert contents(tmp_path / "alone") == contents(tmp_path / "both") == contents(tmp_path / "spread")


def test_killing_a_worker_of_a_cluster_loses_nothing(cluster: str, tmp_path: Path) -> None:
    def kill() -> None:
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    config = EngineConfig(name="ray", address=cluster)
    (outcome,) = map_items(pid_while_waiting, [tmp_path], config=config, title="killed")
    killer.join()
    assert outcome.error is None
    assert outcome.result not in (None, int((tmp_path / "pid").read_text()))


def test_an_item_that_kills_every_worker_of_a_cluster_is_the_only_one_lost(cluster: str) -> None:
    config = EngineConfig(name="ray", address=cluster)
    outcomes = list(map_items(kill_itself, range(5), config=config, title="killing"))
    assert [outcome.result for outcome in outcomes] == [0, 1, None, 3, 4]
    assert "died on it 2 times" in str(outcomes[2].error)


def test_an_item_over_the_time_limit_of_a_cluster_is_stopped_alone_and_order_holds(cluster: str) -> None:
    config = EngineConfig(name="ray", address=cluster, item_timeout_s=0.4)
    items = [0.001, 60.0, 0.002, 60.5, 0.003]
    outcomes = list(map_items(hang, items, config=config, title="hung"))
    assert [outcome.item for outcome in outcomes] == items
    assert [outcome.result for outcome in outcomes] == [0.001, None, 0.002, None, 0.003]
    assert [type(outcomes[n].error) for n in (1, 3)] == [TimeLimitError] * 2


def test_an_item_that_cannot_be_passed_to_a_cluster_is_an_error_of_its_own(cluster: str) -> None:
    config = EngineConfig(name="ray", address=cluster)
    outcomes = list(map_items(of_unportable, [1, 2, 3], config=config, title="unportable"))
    assert [outcome.result for outcome in outcomes] == [1, None, 3]
    assert "pickle" in str(outcomes[1].error)


def test_a_map_on_a_cluster_may_be_left_at_its_last_outcome(cluster: str) -> None:
    """Ray aborts the process when a task is canceled while it completes; one of 50 such maps did."""
    config = EngineConfig(name="ray", address=cluster)
    for number in range(200):
        outcomes = map_items(abs, [-number], config=config, title="left")
        assert next(outcomes).result == number
        outcomes.close()


def test_a_cluster_that_does_not_answer_is_told_in_one_sentence() -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'medvit[ray]')")
    ray.shutdown()
    config = EngineConfig(name="ray", address="127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127\.0\.0\.1:1; start one"):
        list(map_items(kill_itself, [1], config=config, title="nowhere"))


def peak_of_a_scan(folder: Path) -> tuple[int, int]:
    command = [sys.executable, "-c", PEAK_OF_A_SCAN, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    num_found, peak_bytes = map(int, run.stdout.split())
    return num_found, peak_bytes


def test_memory_grows_by_no_more_than_a_header_an_instance(tmp_path: Path) -> None:
    write_archive(tmp_path / "few", num_series=10, num_slices=20)
    write_archive(tmp_path / "many", num_series=110, num_slices=20)
    few, many = peak_of_a_scan(tmp_path / "few"), peak_of_a_scan(tmp_path / "many")
    assert (few[0], many[0]) == (10, 110)
    assert (many[1] - few[1]) / 2000 < MAX_BYTES_AN_INSTANCE


def test_an_archive_holds_volumes_of_patients_of_their_own(tmp_path: Path) -> None:
    write_archive(tmp_path, num_series=3, num_slices=4)
    found = scan(tmp_path, engine=EngineConfig(num_processes=2))
    assert [len(one.item.files) for one in found.candidates] == [4, 4, 4]
    assert len({one.patient.id for one in found.candidates}) == 3
    assert found.refusals == ()
