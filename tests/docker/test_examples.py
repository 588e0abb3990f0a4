"""Files of docker/: checkers accept them, files that they copy exist, and a job that Slurm ends is queued again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parent.parent.parent
DOCKER = PROJECT / "docker"
SCRIPTS = Path(sys.executable).parent
UNITS = sorted((DOCKER / "systemd").iterdir())


def test_the_schema_of_compose_accepts_the_services() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(DOCKER / "compose.yaml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_service_is_open_to_other_machines_or_runs_as_root() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    ours = [service for service in services.values() if service["image"] == "medvit"]
    assert len(ours) >= 2
    assert all(service["read_only"] and not service["user"].startswith("0") for service in ours)


def test_files_that_the_image_copies_exist_and_are_not_ignored() -> None:
    copied = re.findall(r"^COPY ([^-\s]\S*) ", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    kept = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied
    assert all((PROJECT / name).exists() for name in copied)
    assert {line.removeprefix("!") for line in kept if line.startswith("!")} == set(copied)


def test_hadolint_has_no_remark() -> None:
    hadolint = shutil.which("hadolint", path=f"{SCRIPTS}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_the_units(unit: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    remarks = [line for line in done.stderr.splitlines() if unit.name in line]
    assert done.returncode == 0, done.stderr
    assert remarks == []


def workloads() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every workload for Kubernetes, and its pod."""
    found = []
    for path in sorted((DOCKER / "kubernetes").iterdir()):
        for tree in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if tree["kind"] != "Service":
                spec = tree["spec"]["jobTemplate"]["spec"] if tree["kind"] == "CronJob" else tree["spec"]
                found.append((spec, spec["template"]["spec"]))
    return found


def test_pods_run_without_root_on_a_root_that_cannot_be_written() -> None:
    assert len(workloads()) == 3
    for _, pod in workloads():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_jobs_do_not_repeat_a_wrong_configuration() -> None:
    jobs = [(spec, pod) for spec, pod in workloads() if pod.get("restartPolicy") == "Never"]
    assert len(jobs) == 2
    for spec, pod in jobs:
        (rule,) = spec["podFailurePolicy"]["rules"]
        assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
        assert {1, 2, 3} == set(rule["onExitCodes"]["values"])


STAND_IN = """#!/bin/bash
echo "$@" >> arguments
trap 'sleep 0.3; echo saved >> arguments; exit 130' TERM
touch started
for _ in $(seq 100); do sleep 0.1; done
"""
"""A training in place of medvit: at SIGTERM, it takes a moment to save, and ends as an interrupted stage."""


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_a_job_that_slurm_ends_waits_for_medvit_and_is_queued_again(tmp_path: Path, is_interrupted: bool) -> None:
    programs = {
        "medvit": STAND_IN if is_interrupted else "#!/bin/bash\nexit 3\n",
        "scontrol": "#!/bin/bash\necho $@ > queued\n",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    words = ["bash", str(DOCKER / "slurm" / "train.sbatch"), "pretrain", "dataset=a"]
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) as job:
        deadline = time.monotonic() + 20
        while is_interrupted and not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        if is_interrupted:
            job.send_signal(signal.SIGTERM)
        assert job.wait(20) == (130 if is_interrupted else 3)
    assert (tmp_path / "queued").exists() is is_interrupted
    if is_interrupted:
        assert (tmp_path / "arguments").read_text() == "pretrain dataset=a resume=true\nsaved\n"
        assert (tmp_path / "queued").read_text() == "requeue 17\n"
