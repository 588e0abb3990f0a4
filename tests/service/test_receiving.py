"""Received means on disk; what cannot be told apart safely waits for a person; who may speak is checked."""

from __future__ import annotations

import copy
import shutil
import sqlite3
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForPresentation,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MRImageStorage,
    SegmentationStorage,
    generate_uid,
)

from medvit.errors import ConfigError
from tests.service.conftest import Start, association, changed, config_of, send, until
from tests.sources.conftest import Certificates

Studies = list[list[pydicom.Dataset]]


def of_class(one: Dataset, sop_class: str) -> Dataset:
    return changed(one, SOPClassUID=sop_class, SOPInstanceUID=generate_uid())


def test_what_was_answered_with_success_is_on_disk(start: Start, ct: Studies) -> None:
    served = start(complete={"quiet_s": 60})
    with association(served.port, ct[0]) as found:
        for number, one in enumerate(ct[0][:5], 1):
            assert found.send_c_store(one).Status == 0x0000
            with sqlite3.connect(f"file:{served.folder / 'service.sqlite'}?mode=ro", uri=True) as base:
                (row,) = base.execute("SELECT study, file FROM instances WHERE uid = ?", [one.SOPInstanceUID])
            stored = pydicom.dcmread(served.folder / "received" / row[0] / row[1])
            assert stored == one
            assert len(list((served.folder / "received").rglob("*.dcm"))) == number
    assert not list((served.folder / "incoming").iterdir())


def test_the_same_instance_is_stored_once(start: Start, ct: Studies) -> None:
    served = start(complete={"quiet_s": 60})
    assert send(served.port, [*ct[0][:3], *ct[0][:3]]) == [0x0000] * 6
    assert len(list((served.folder / "received").rglob("*.dcm"))) == 3
    assert served.studies()[0]["instances"] == 3
    assert 'medvit_serve_instances_total{outcome="known"} 3.0' in served.call("/metrics").text


def test_other_content_under_a_known_uid_is_set_aside_until_a_person_decides(start: Start, ct: Studies) -> None:
    served = start()
    other = changed(ct[0][0], SeriesDescription="another")
    assert send(served.port, [*ct[0], other, other]) == [0x0000] * (len(ct[0]) + 2)
    (dead,) = served.get("/api/dead")
    assert (dead["what"], dead["code"]) == ("held", "instance_differs")
    assert len(list((served.folder / "aside").iterdir())) == 1
    time.sleep(1.5)
    assert not served.jobs()
    assert served.call(f"/api/studies/{dead['study']}/release", "post").status_code == 200
    assert send(served.port, [other]) == [0x0000]
    (job,) = served.ended(1)
    assert job["status"] == "done"
    kept = [pydicom.dcmread(path).get("SeriesDescription") for path in (served.folder / "received").rglob("*.dcm")]
    assert "another" not in kept


def test_objects_that_are_not_images_are_refused_and_the_association_continues(start: Start, ct: Studies) -> None:
    served = start(complete={"quiet_s": 60})
    classes = (
        SegmentationStorage,
        ComprehensiveSRStorage,
        GrayscaleSoftcopyPresentationStateStorage,
        KeyObjectSelectionDocumentStorage,
    )
    unwanted = [of_class(ct[0][0], one) for one in classes]
    own = changed(ct[0][1], SOPInstanceUID=generate_uid())
    equipment = Dataset()
    equipment.Manufacturer = "medvit"
    own.ContributingEquipmentSequence = [equipment]
    assert send(served.port, [*unwanted, own, ct[0][0]]) == [0x0122] * 5 + [0x0000]
    assert served.studies()[0]["instances"] == 1


def test_images_of_all_modalities_are_wanted(start: Start, ct: Studies) -> None:
    served = start(complete={"quiet_s": 600})
    wanted = (DigitalXRayImageStorageForPresentation, DigitalMammographyXRayImageStorageForProcessing, MRImageStorage)
    assert send(served.port, [of_class(ct[0][0], one) for one in wanted]) == [0x0000] * len(wanted)


def test_a_result_that_comes_back_is_not_predicted(start: Start, ct: Studies) -> None:
    served = start()
    send(served.port, ct[0])
    served.ended(1)
    made = [pydicom.dcmread(path) for path in (served.folder / "results").rglob("*.dcm")]
    assert made
    assert send(served.port, made) == [0x0122] * len(made)
    assert send(served.port, ct[0]) == [0x0000] * len(ct[0])
    time.sleep(1.5)
    assert len(served.jobs()) == 1


def test_a_nearly_full_disk_refuses_for_the_moment_and_the_association_continues(start: Start, ct: Studies) -> None:
    served = start(complete={"quiet_s": 60}, min_free_gib=1e9)
    with association(served.port, ct[0]) as found:
        assert found.send_c_store(ct[0][0]).Status == 0xA700
        assert served.call("/ready").status_code == 503
        served.service.store.min_free_gib = 0.0
        assert found.send_c_store(ct[0][0]).Status == 0x0000
    assert served.call("/ready").status_code == 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here: this takes root and the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_refuses_and_loses_nothing_that_was_answered(start: Start, ct: Studies, small_disk: Path) -> None:
    served = start(complete={"quiet_s": 600}, folder=small_disk / "service")
    statuses = send(served.port, [one for study in ct for one in study])
    assert set(statuses) == {0x0000, 0xA700}
    files = list((small_disk / "service" / "received").rglob("*.dcm"))
    assert len(files) == statuses.count(0x0000)
    assert all(pydicom.dcmread(path).PixelData for path in files)


def test_only_the_titles_and_addresses_that_are_listed_may_send(start: Start, ct: Studies) -> None:
    served = start(complete={"quiet_s": 60}, receive={"callers": ["SENDER"]})
    with association(served.port, ct[0], calling="OTHER") as found:
        assert found.is_rejected
    with association(served.port, ct[0], called="OTHER") as found:
        assert found.is_rejected
    assert send(served.port, ct[0][:1]) == [0x0000]
    start.stop()  # type: ignore[attr-defined]


def test_connections_of_other_addresses_are_closed(start: Start, ct: Studies) -> None:
    served = start(receive={"hosts": ["10.0.0.0/8"]})
    with association(served.port, ct[0]) as found:
        assert not found.is_established
    assert 'medvit_serve_rejected_associations_total{reason="address"} 1.0' in served.call("/metrics").text


@pytest.mark.parametrize("options", [{}, {"callers": ["A"]}, {"hosts": ["10.0.0.0/8"]}])
def test_other_machines_can_only_send_if_title_and_address_are_checked(
    tmp_path: Path, checkpoint: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"other machines can reach 0\.0\.0\.0"):
        config_of(tmp_path, checkpoint, receive={"listen": "0.0.0.0", **options})


def test_a_web_server_for_other_machines_needs_encryption(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="the token must not be sent without encryption"):
        config_of(tmp_path, checkpoint, web={"listen": "0.0.0.0"})


def test_with_mutual_tls_only_a_sender_with_a_trusted_certificate_is_heard(
    start: Start, ct: Studies, certificates: Certificates
) -> None:
    files = {"ca": certificates.ca, "cert": certificates.cert, "key": certificates.key}
    served = start(complete={"quiet_s": 60}, receive={"encrypted": True, "tls": files})
    context = ssl.create_default_context(cafile=certificates.ca)
    with association(served.port, ct[0], tls_args=(context, "127.0.0.1")) as found:
        assert not (found.is_established and found.send_c_store(ct[0][0]))
    context.load_cert_chain(certificates.cert, certificates.key)
    assert send(served.port, ct[0][:1], tls_args=(context, "127.0.0.1")) == [0x0000]


def test_associations_and_instances_are_limited(start: Start, ct: Studies) -> None:
    receive = {"max_associations": 1, "max_study_instances": 2, "max_instance_gib": 1e-5}
    served = start(complete={"quiet_s": 60}, receive=receive)
    with association(served.port, ct[0]) as one, association(served.port, ct[0]) as two:
        assert one.is_established
        assert two.is_rejected
    small = sorted(ct[0], key=lambda each: len(each.PixelData))[:1]
    large = copy.deepcopy(small[0])
    large.PixelData = bytes(20_000)
    with association(served.port, [large]) as found:
        assert not found.send_c_store(large)
        until(lambda: not found.is_established)
    start.stop()  # type: ignore[attr-defined]
    served = start(complete={"quiet_s": 60}, receive={"max_study_instances": 2})
    assert send(served.port, ct[0][:3]) == [0x0000, 0x0000, 0xA700]
    assert served.get("/api/dead")[0]["code"] == "too_large"


def test_patients_with_one_study_uid_are_never_mixed(start: Start, ct: Studies) -> None:
    served = start()
    shared = {"StudyInstanceUID": ct[0][0].StudyInstanceUID}
    pairs = zip(ct[0], (changed(one, **shared) for one in ct[1]), strict=False)
    assert set(send(served.port, [one for pair in pairs for one in pair])) == {0x0000}
    time.sleep(1.5)
    held = served.get("/api/dead")
    assert {one["code"] for one in held} == {"shared_study_uid"}
    assert len(held) == 2
    assert not served.jobs()
    for one in held:
        served.call(f"/api/studies/{one['study']}/release", "post")
    served.ended(2)
    patients = []
    for one in held:
        (made,) = (served.folder / "results" / one["study"]).rglob("segmentation.dcm")
        sources = {pydicom.dcmread(p).PatientID for p in (served.folder / "received" / one["study"]).iterdir()}
        assert sources == {pydicom.dcmread(made).PatientID}
        patients += sources
    assert set(patients) == {ct[0][0].PatientID, ct[1][0].PatientID}


def test_interleaved_studies_without_patient_id_are_not_mixed(start: Start, ct: Studies) -> None:
    served = start()
    nameless = [[changed(one, PatientID="") for one in study] for study in ct[:2]]
    assert set(send(served.port, [one for pair in zip(*nameless, strict=False) for one in pair])) == {0x0000}
    jobs = served.ended(2)
    assert {job["status"] for job in jobs} == {"done"}
    uids = {pydicom.dcmread(path).StudyInstanceUID for path in (served.folder / "results").rglob("segmentation.dcm")}
    assert uids == {study[0].StudyInstanceUID for study in ct[:2]}


def test_a_study_whose_instances_name_several_orders_waits_for_a_person(start: Start, ct: Studies) -> None:
    served = start()
    send(served.port, [*ct[0][:-1], changed(ct[0][-1], AccessionNumber="OTHER")])
    time.sleep(1.5)
    assert [one["code"] for one in served.get("/api/dead")] == ["patient_differs"]
    assert not served.jobs()


def test_dcmtk_can_send_and_is_answered(start: Start, ct: Studies, tmp_path: Path) -> None:
    if shutil.which("storescu") is None:
        pytest.skip("storescu is not installed (Debian: dcmtk)")
    served = start(complete={"quiet_s": 60})
    for number, one in enumerate(ct[0][:4]):
        one.save_as(tmp_path / f"{number}.dcm")
    files = sorted(map(str, tmp_path.glob("*.dcm")))
    echo = ["echoscu", "-aec", "MEDVIT", "127.0.0.1", str(served.port)]
    assert subprocess.run(echo, check=False).returncode == 0
    command = ["storescu", "-aet", "SENDER", "-aec", "MEDVIT", "127.0.0.1", str(served.port), *files]
    assert subprocess.run(command, check=False).returncode == 0
    assert until(served.studies)[0]["instances"] == 4
