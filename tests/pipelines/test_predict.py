from __future__ import annotations

import csv
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
import yaml
from PIL import Image as Picture

from medvit.artifacts import Checkpoint, Predictions
from medvit.deidentification.pseudonyms import SiteNames
from medvit.errors import CheckpointError, ConfigError, DataError, OutputError
from medvit.evaluation.caveats import other_values
from medvit.geometry import Affine, like
from medvit.hardware import resolve_device
from medvit.inference.jobs import make_job, values_as_trained
from medvit.inference.review.gate import Expected, QualityGate
from medvit.inference.series_selection import studies
from medvit.inference.study_job import StudyJob
from medvit.inference.worklist import DATABASE
from medvit.leakage.merge import merge
from medvit.models.image import Model, ModelConfig
from medvit.phantoms import write_ct_pairs, write_ct_studies, write_fundus, write_radiograph_studies
from medvit.readers import find
from medvit.readers.options import ValuesConfig
from medvit.stage import Finished
from medvit.transforms.preprocess import Preprocess
from medvit.types import Image, Prediction
from medvit.writers import Maker
from pipelines.__main__ import main
from pipelines.finetune import finetune
from pipelines.ingest import ingest
from pipelines.predict import PredictConfig, predict
from tests.processes.forked import Forked

Make = Callable[..., Path]
VIT = {"name": "vit", "patch_size": 8, "width": 12, "depth": 4, "heads": 2}
OFF = {"tracking": {"enabled": False}}


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Make:
    """An untrained model of some kind; it predicts every class somewhere."""

    def make(kind: str = "segmentation", *, ndim: int = 3, channels: int = 1, **applies_to: str) -> Path:
        torch.manual_seed(0)
        config = ModelConfig.parse(
            {
                "kind": kind,
                "backbone": {**VIT, "ndim": ndim, "channels": channels},
                "peft": {"name": "full"},
                "head": {"name": "dense", "channels": 4} if kind == "segmentation" else {"name": "linear"},
                "classes": ("background", "liver", "spleen") if kind == "segmentation" else ("normal", "effusion"),
                "roi": (16,) * ndim if kind == "segmentation" else None,
                "overlap": 0.0,
                "applies_to": {"kind": "volume" if ndim == 3 else "image", **applies_to},
            }
        )
        chain = {"kind": config.applies_to.kind, "channels": channels}
        resampling = {"spacing_mm": (16.0, 16.0, 16.0)} if ndim == 3 else {"size": (32, 32)}
        state = Model(config, config.backbone.build()).state_dict()
        folder = tmp_path / "checkpoint"
        Checkpoint(folder, config.tree(), Preprocess.parse({**chain, **resampling}).tree(), state).save()
        return folder

    return make


def run(tmp_path: Path, checkpoint: Path, source: Path, **options: object) -> Finished[Predictions]:
    tree = {"checkpoint": checkpoint, "source": source, "output": tmp_path / "out", "key": tmp_path / "site.key"}
    return predict.run(predict.config_type.parse({**tree, **OFF, **options}))


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_every_study_gets_its_mask_as_nifti_and_seg_with_volumes_and_a_picture(
    tmp_path: Path, make_checkpoint: Make
) -> None:
    write_ct_studies(tmp_path / "source", 2)
    made = run(tmp_path, make_checkpoint(modality="CT"), tmp_path / "source").artifact
    assert (made.num_done, made.num_skipped, made.num_failed) == (2, 0, 0)
    for line in table(made.folder / "status.csv"):
        assert line["outputs"] == "mask.nii.gz;preview.png;segmentation.dcm"
        assert all((made.folder / line["study"] / name).is_file() for name in line["outputs"].split(";"))
        mask = nib.load(made.folder / line["study"] / "mask.nii.gz")
        voxel_ml = Affine(mask.affine).voxel_ml
        for row in (row for row in table(made.folder / "predictions.csv") if row["study"] == line["study"]):
            count = np.count_nonzero(np.asarray(mask.dataobj) == ["", "liver", "spleen"].index(row["class"]))
            assert int(row["num_voxels"]) == count
            assert float(row["volume_ml"]) == pytest.approx(count * voxel_ml, rel=1e-5)
    assert (made.folder / "lineage.json").is_file()


def test_the_tables_and_names_of_a_batch_name_no_patient_but_its_segs_do(
    tmp_path: Path, make_checkpoint: Make, caplog: pytest.LogCaptureFixture
) -> None:
    write_ct_studies(tmp_path / "source", 1)
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in (tmp_path / "source").rglob("*.dcm")]
    secrets = {
        str(h[k].value) for h in headers for k in ("PatientID", "PatientName", "StudyInstanceUID", "SOPInstanceUID")
    }
    with caplog.at_level("DEBUG"):
        folder = run(tmp_path, make_checkpoint(), tmp_path / "source").artifact.folder
    texts = [path.read_text() for path in folder.rglob("*") if path.suffix in (".csv", ".json", ".yaml")]
    names = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    text = "\n".join([caplog.text, *texts, *names, str(tmp_path / "source")])
    assert not [secret for secret in secrets if secret in text.replace(str(tmp_path), "")]
    assert pydicom.dcmread(next(folder.rglob("*.dcm"))).PatientID == headers[0].PatientID


def test_the_site_can_find_the_study_of_a_pseudonym_and_nobody_else(tmp_path: Path, make_checkpoint: Make) -> None:
    write_ct_studies(tmp_path / "source", 1)
    folder = run(tmp_path, make_checkpoint(), tmp_path / "source").artifact.folder
    crosswalk = tmp_path / "site.key.crosswalk" / "predict-out.csv"
    (line,) = table(folder / "status.csv")
    uid = pydicom.dcmread(next((tmp_path / "source").rglob("*.dcm"))).StudyInstanceUID
    assert f"{line['study']},{uid}" in crosswalk.read_text()
    assert crosswalk.stat().st_mode & 0o777 == 0o600


def test_a_bad_study_ends_with_exit_status_3_and_is_tried_again_on_request(
    tmp_path: Path, make_checkpoint: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct_studies(tmp_path / "source", 3)
    lost = sorted(p for p in (tmp_path / "source" / "study-001").rglob("*.dcm") if "Scout" not in describe(p))
    middle = sorted(lost, key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2]))[len(lost) // 2]
    middle.rename(tmp_path / "lost.dcm")
    checkpoint = make_checkpoint(modality="CT")
    keys = [f"checkpoint={checkpoint}", f"source={tmp_path / 'source'}", f"key={tmp_path / 'site.key'}"]
    assert main(["predict", *keys, f"output={tmp_path / 'out'}", "tracking.enabled=false"]) == 3
    lines = table(tmp_path / "out" / "status.csv")
    assert sorted((line["status"], line["code"]) for line in lines) == [
        ("done", ""),
        ("done", ""),
        ("failed", "geometry"),
    ]
    assert "slice" in capsys.readouterr().err
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert main(["predict", *keys, f"output={tmp_path / 'out'}", "tracking.enabled=false", "status=true"]) == 0
    shown = capsys.readouterr().out
    assert f"{tmp_path / 'out'}: 2 done, 0 skipped, 1 failed, 0 running, 0 waiting\nfailed:\n  1 geometry: " in shown
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    (tmp_path / "lost.dcm").rename(middle)
    options = [*keys, f"output={tmp_path / 'out'}", "tracking.enabled=false"]
    assert main(["predict", *options, "retry=failed", "series=all"]) == 2
    assert "was started with other options (series)" in capsys.readouterr().err
    assert main(["predict", *options, "retry=failed"]) == 0
    assert [line["status"] for line in table(tmp_path / "out" / "status.csv")] == ["done"] * 3
    unchanged = [path for path in before if path.suffix in (".dcm", ".gz", ".png")]
    assert all(path.read_bytes() == before[path] for path in unchanged)
    assert main(["predict", *options]) == 1
    assert main(["predict", *keys, f"output={tmp_path / 'none'}", "status=true"]) == 2


def test_a_result_says_that_a_file_of_its_series_was_cut_short(tmp_path: Path, make_checkpoint: Make) -> None:
    write_ct_studies(tmp_path / "source", 1)
    slices = [path for path in (tmp_path / "source").rglob("*.dcm") if "Scout" not in describe(path)]
    top = max(slices, key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))
    top.write_bytes(top.read_bytes()[: top.stat().st_size // 2])
    (line,) = table(run(tmp_path, make_checkpoint(), tmp_path / "source").artifact.folder / "status.csv")
    assert line["status"] == "done"
    assert "1 files that may belong to it are excluded: the header declares" in line["reason"]


def describe(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).get("SeriesDescription", ""))


def test_an_interrupted_batch_goes_on_where_it_was(tmp_path: Path, make_checkpoint: Make) -> None:
    write_ct_studies(tmp_path / "source", 2)
    checkpoint = make_checkpoint()
    whole = run(tmp_path, checkpoint, tmp_path / "source", outputs=["dicom_seg"]).artifact.folder
    first, last = sorted(line["study"] for line in table(whole / "status.csv"))
    partial = tmp_path / "out.partial"
    os.replace(whole, partial)
    with closing(sqlite3.connect(partial / DATABASE)) as base, base:
        base.execute("UPDATE studies SET status = 'running', attempts = 1, worker = 'killed' WHERE name = ?", (last,))
    kept = (partial / first / "segmentation.dcm").read_bytes()
    shutil.rmtree(partial / last)
    continued = run(tmp_path, checkpoint, tmp_path / "source", outputs=["dicom_seg"]).artifact.folder
    assert [line["status"] for line in table(continued / "status.csv")] == ["done", "done"]
    assert (continued / first / "segmentation.dcm").read_bytes() == kept
    assert (continued / last / "segmentation.dcm").is_file()


def predict_in_fork(tmp_path: Path, checkpoint: Path, options: dict[str, object]) -> int:
    torch.set_num_threads(1)  # threads of the test's process are not in its fork
    return len(run(tmp_path, checkpoint, tmp_path / "source", **options).failures)


def results(folder: Path) -> dict[str, object]:
    """Return the tables without times, and the pixels of each mask."""
    lines = [{**line, "seconds": ""} for line in table(folder / "status.csv")]
    masks = {str(path.relative_to(folder)): np.asarray(Picture.open(path)) for path in sorted(folder.rglob("mask.png"))}
    digests = {name: (mask.shape, mask.tobytes()) for name, mask in masks.items()}
    return {"status": lines, "predictions": table(folder / "predictions.csv"), "masks": digests}


def test_two_processes_finish_a_batch_together_with_the_results_of_one(tmp_path: Path, make_checkpoint: Make) -> None:
    write_radiograph_studies(tmp_path / "source", 20)
    checkpoint = make_checkpoint(ndim=2)
    alone = run(tmp_path, checkpoint, tmp_path / "source", output=tmp_path / "alone").artifact.folder
    with (
        Forked(predict_in_fork, tmp_path, checkpoint, {}) as one,
        Forked(predict_in_fork, tmp_path, checkpoint, {}) as two,
    ):
        pass
    assert (one.status, two.status) == (0, 0), one.errors + two.errors
    together = tmp_path / "out"
    assert results(together) == results(alone)
    assert sorted(path.name for path in together.iterdir()) == sorted(path.name for path in alone.iterdir())
    text = (together / "medvit.log").read_text()
    assert text.count("predict: joins the run in") == 1
    with pytest.raises(OutputError, match="out exists already"):
        run(tmp_path, checkpoint, tmp_path / "source")


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_worker_processes_give_the_results_of_one_process(tmp_path: Path, make_checkpoint: Make, engine: str) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    write_radiograph_studies(tmp_path / "source", 12)
    (tmp_path / "source" / "broken.nii.gz").write_bytes(b"\x1f\x8b broken")
    checkpoint = make_checkpoint(ndim=2)
    alone = run(tmp_path, checkpoint, tmp_path / "source", output=tmp_path / "alone").artifact.folder
    spread = {"engine": {"name": engine, "num_processes": 2}, "max_volume_gib": 1.0}
    workers = run(tmp_path, checkpoint, tmp_path / "source", **spread).artifact.folder
    assert results(workers) == results(alone)
    assert sorted(path.name for path in workers.iterdir()) == sorted(path.name for path in alone.iterdir())


def test_a_process_with_other_options_is_refused_with_their_names(tmp_path: Path, make_checkpoint: Make) -> None:
    write_ct_studies(tmp_path / "source", 2)
    checkpoint = make_checkpoint()
    shutil.copytree(tmp_path / "source", tmp_path / "other")
    os.replace(run(tmp_path, checkpoint, tmp_path / "source").artifact.folder, tmp_path / "out.partial")
    with pytest.raises(ConfigError, match=r"other options \(series, outputs\); join or resume with the same ones"):
        run(tmp_path, checkpoint, tmp_path / "source", outputs=["preview"], series="all")
    with pytest.raises(ConfigError, match="the source or the key differs from that of the unfinished run"):
        run(tmp_path, checkpoint, tmp_path / "other")


def test_a_study_without_the_right_series_is_skipped_and_a_batch_of_only_such_is_reported(
    tmp_path: Path, make_checkpoint: Make
) -> None:
    write_ct_studies(tmp_path / "source", 1)
    finished = run(tmp_path, make_checkpoint(modality="MR"), tmp_path / "source")
    (line,) = table(finished.artifact.folder / "status.csv")
    assert (line["status"], line["code"]) == ("skipped", "no_series")
    assert [failure.partition(":")[0] for failure in finished.failures] == [
        "no study fits the model, all 1 were skipped"
    ]
    assert "1 series of CT as volume" in line["reason"]


def test_the_reasons_for_each_series_are_listed_without_running_the_model(
    tmp_path: Path, make_checkpoint: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct_studies(tmp_path / "source", 4)
    finished = run(tmp_path, make_checkpoint(), tmp_path / "source", explain=True, applies_to={"orientation": "axial"})
    lines = table(finished.artifact.folder / "series.csv")
    assert len(lines) == 8  # a scout and a volume in each study
    assert {(line["taken"], line["reason"]) for line in lines} == {
        ("yes", "it meets the rule"),
        ("no", "its planes are coronal, not axial"),
        ("no", "it is an image, not a volume"),
    }
    assert [line["study"] for line in lines if line["taken"] == "yes"] == sorted(
        {line["study"] for line in lines if line["orientation"] == "axial"}
    )
    assert not list(finished.artifact.folder.rglob("*.dcm"))
    printed = capsys.readouterr().out
    assert all(line["series"] in printed for line in lines)


def test_flagged_studies_are_in_the_table_the_page_and_the_report(tmp_path: Path, make_checkpoint: Make) -> None:
    write_ct_studies(tmp_path / "source", 1)
    checkpoint = make_checkpoint(modality="CT")
    QualityGate({"liver": Expected(1e6, 2e6, is_single=False)}, 50, 1, 0.01).write(checkpoint)
    folder = run(tmp_path, checkpoint, tmp_path / "source", outputs=["dicom_seg", "dicom_sr"]).artifact.folder
    (line,) = table(folder / "status.csv")
    assert "flagged: liver has" in line["reason"]
    assert line["study"] in (folder / "summary.html").read_text(encoding="utf-8").partition("Flagged")[2]
    report = pydicom.dcmread(folder / line["study"] / "report.dcm")
    texts = [one.TextValue for one in report.ContentSequence if one.ValueType == "TEXT"]
    assert texts[-1] in line["reason"].split("; ")


def test_a_rule_given_by_the_user_replaces_that_of_the_checkpoint(tmp_path: Path, make_checkpoint: Make) -> None:
    write_ct_studies(tmp_path / "source", 1)
    checkpoint = make_checkpoint(modality="MR", description="nothing")
    rule = {"modality": "CT", "description": "portal"}
    made = run(tmp_path, checkpoint, tmp_path / "source", applies_to=rule).artifact
    assert made.num_done == 1
    recorded = yaml.safe_load((made.folder / "config.yaml").read_text())
    assert recorded["device"] == resolve_device("auto").type


def test_the_mask_of_a_nifti_lies_voxel_by_voxel_on_its_file(tmp_path: Path, make_checkpoint: Make) -> None:
    write_ct_pairs(tmp_path / "source", 2)
    shutil.rmtree(tmp_path / "source" / "labels")
    made = run(tmp_path, make_checkpoint(), tmp_path / "source").artifact
    assert made.num_done == 2
    sources = [nib.load(path) for path in sorted((tmp_path / "source").rglob("*.nii.gz"))]
    masks = [nib.load(path) for path in made.folder.rglob("mask.nii.gz")]
    for mask in masks:
        assert any(s.shape == mask.shape and np.allclose(s.affine, mask.affine, atol=1e-4) for s in sources)
        ras = nib.as_closest_canonical(mask)
        assert like(np.asarray(mask.dataobj), Affine(mask.affine), Affine(ras.affine)).shape == ras.shape


@pytest.mark.parametrize("is_dicom", [True, False])
def test_images_get_a_probability_a_class(tmp_path: Path, make_checkpoint: Make, is_dicom: bool) -> None:
    (write_radiograph_studies if is_dicom else write_fundus)(tmp_path / "source", 2)
    checkpoint = make_checkpoint("classification", ndim=2, channels=1 if is_dicom else 3)
    made = run(tmp_path, checkpoint, tmp_path / "source").artifact
    assert made.num_done == 2
    rows = table(made.folder / "predictions.csv")
    assert [row["class"] for row in rows] == ["normal", "effusion"] * 2
    assert sum(float(row["probability"]) for row in rows) == pytest.approx(2.0, abs=1e-4)
    assert [path.name for path in made.folder.rglob("*") if path.parent.name.startswith("s-")] == ["preview.png"] * 2


def test_an_image_is_segmented_on_its_own_pixels(tmp_path: Path, make_checkpoint: Make) -> None:
    write_radiograph_studies(tmp_path / "source", 1)
    made = run(tmp_path, make_checkpoint(ndim=2), tmp_path / "source").artifact
    (mask,) = made.folder.rglob("mask.png")
    (source,) = (tmp_path / "source").rglob("*.dcm")
    header = pydicom.dcmread(source, stop_before_pixels=True)
    assert Picture.open(mask).size == (header.Columns, header.Rows)


def test_if_every_study_fails_the_stage_still_ends_with_its_list(tmp_path: Path, make_checkpoint: Make) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.nii.gz").write_bytes(b"\x1f\x8b broken")
    finished = run(tmp_path, make_checkpoint(), tmp_path / "source")
    (line,) = table(finished.artifact.folder / "status.csv")
    assert (line["status"], line["code"]) == ("failed", "unreadable")
    assert len(finished.failures) == 1


def test_a_source_without_images_and_a_checkpoint_of_another_task_are_refused(
    tmp_path: Path, make_checkpoint: Make
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "readme.txt").write_text("no image")
    checkpoint = make_checkpoint()
    with pytest.raises(DataError, match="none of the 1 files of the source is an image"):
        run(tmp_path, checkpoint, tmp_path / "source")
    with pytest.raises(ConfigError, match="the model has background, liver, spleen"):
        run(tmp_path, checkpoint, tmp_path / "source", codes={"lung": "SCT:39607008:Lung"})
    bare = Checkpoint(tmp_path / "bare", {"kind": "backbone"}, Preprocess().tree(), {"w": torch.zeros(1)}).save()
    with pytest.raises(CheckpointError, match=r"needs classification, multilabel, .* or slide"):
        run(tmp_path, bare.folder, tmp_path / "source")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_the_hippocampus_crop_is_chosen_in_each_real_study_and_no_other_series(
    tmp_path: Path, make_checkpoint: Make, shared_data: Path
) -> None:
    source = shared_data / "brain-mr-dicom-studies"
    folder = run(tmp_path, make_checkpoint(modality="MR", description="HippoCrop"), source).artifact.folder
    shapes = {nib.load(path).shape for path in folder.rglob("mask.nii.gz")}
    assert shapes == {(35, 51, 32), (34, 50, 40)}
    referenced = {pydicom.dcmread(path).ReferencedSeriesSequence[0].SeriesInstanceUID for path in folder.rglob("*.dcm")}
    crops = {pydicom.dcmread(path).SeriesInstanceUID for path in source.rglob("*_HCropVolume/1.dcm")}
    assert referenced == crops


def test_two_patients_under_one_study_uid_get_a_folder_and_a_result_each(tmp_path: Path, make_checkpoint: Make) -> None:
    for name in ("one", "two"):
        write_ct_studies(tmp_path / "source" / name, 1)
        for path in (tmp_path / "source" / name).rglob("*.dcm"):
            dataset = pydicom.dcmread(path)
            dataset.PatientID = name
            dataset.save_as(path)
    made = run(tmp_path, make_checkpoint(modality="CT"), tmp_path / "source").artifact
    assert made.num_done == 2
    patients = set()
    for line in table(made.folder / "status.csv"):
        assert line["reason"] == "1 other patients have the same StudyInstanceUID"
        patients.add(pydicom.dcmread(made.folder / line["study"] / "segmentation.dcm").PatientID)
    assert patients == {"one", "two"}
    crosswalk = (tmp_path / "site.key.crosswalk" / "predict-out.csv").read_text()
    assert "of the patient one" in crosswalk


def test_results_name_patients_so_only_their_owner_reads_them_and_whois_tells_whose_they_are(
    tmp_path: Path, make_checkpoint: Make, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct_studies(tmp_path / "source", 1)
    with caplog.at_level("INFO"):
        folder = run(tmp_path, make_checkpoint(modality="CT"), tmp_path / "source").artifact.folder
    assert {path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*")) if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o600}
    assert str(tmp_path / "site.key.crosswalk" / "predict-out.csv") in caplog.text
    (line,) = table(folder / "status.csv")
    uid = pydicom.dcmread(next((tmp_path / "source").rglob("*.dcm"))).StudyInstanceUID
    capsys.readouterr()
    assert main(["whois", line["study"], f"key={tmp_path / 'site.key'}"]) == 0
    assert capsys.readouterr().out == f"predict-out: {uid}\n"
    assert main(["whois", "s-000000000000", f"key={tmp_path / 'site.key'}"]) == 1
    assert "contains s-000000000000" in capsys.readouterr().err
    assert main(["whois", line["study"], f"key={tmp_path / 'none.key'}"]) == 2
    assert not (tmp_path / "none.key").exists()


def test_a_batch_of_which_nothing_fits_the_model_ends_with_exit_status_3(
    tmp_path: Path, make_checkpoint: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct_studies(tmp_path / "source", 1)
    keys = [f"checkpoint={make_checkpoint(modality='MR')}", f"source={tmp_path / 'source'}", f"key={tmp_path / 'k'}"]
    assert main(["predict", *keys, f"output={tmp_path / 'out'}", "tracking.enabled=false"]) == 3
    assert "no study fits the model, all 1 were skipped: the study has" in capsys.readouterr().err
    assert (tmp_path / "out" / "status.csv").is_file()


def test_a_model_gets_the_values_it_was_trained_on_or_no_answer(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_radiograph_studies(source, 8)
    displayed = {"taking": {"values": {"radiographs": "displayed"}}, "splits": {"val": 0.3}}
    displayed |= {"labeling": {"from_folders": "folder"}}
    made = ingest(source=source, dataset=tmp_path / "ds", key=tmp_path / "site.key", **displayed, **OFF)
    short = {"backbone": {**VIT, "depth": 1}, "peft": "full", "trainer": {"epochs": 1, "steps_per_epoch": 1}}
    model = finetune(dataset=made.folder, output=tmp_path / "model", loader={"batch_size": 2}, **short, **OFF)
    config = PredictConfig(checkpoint=model.folder, source=source, output=tmp_path / "out", key=tmp_path / "site.key")
    job = make_job(config, model, SiteNames(config.key), Maker("1", model.hash, None))
    assert isinstance(job, StudyJob)
    seen: list[bytes] = []

    def predict_nothing(image: Image) -> Prediction:
        seen.append(image.pixels.tobytes())
        return Prediction(("a", "b"), probabilities=np.array([0.5, 0.5]))

    found = studies(find(sorted(source.rglob("*.dcm"))), source, job.names, job.applies_to)
    for number, study in enumerate(found.studies):
        (tmp_path / f"results-{number}").mkdir()
        replace(job, predict=predict_nothing)(study, tmp_path / f"results-{number}")
    assert sorted(seen) == sorted(made.store.get(row.sha256).tobytes() for row in made)

    for path in source.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        del dataset.WindowCenter
        dataset.save_as(path)
    finished = run(tmp_path, model.folder, source)
    assert finished.artifact.num_failed == 8
    assert "trained on values.radiographs=displayed, but the files lack" in finished.failures[0]
    other = ingest(source=source, dataset=tmp_path / "stored", key=tmp_path / "site.key", **OFF)
    (note,) = other_values(other, Model.from_checkpoint(model).config)
    assert "with no values.*, the training images of the model with values.radiographs=displayed" in note
    with pytest.raises(DataError, match=r"values\.radiographs unset, but another of the datasets with displayed"):
        merge([made, other], tmp_path / "merged", name="both")


def test_values_of_a_checkpoint_that_did_not_record_them_can_be_given_and_are_never_assumed_in_silence(
    tmp_path: Path, make_checkpoint: Make
) -> None:
    source = tmp_path / "source"
    write_radiograph_studies(source, 1)
    folder = make_checkpoint("classification", ndim=2, modality="DX")
    found = yaml.safe_load((folder / "model.yaml").read_text())
    assert found.pop("values", None) is None
    (folder / "model.yaml").write_text(yaml.safe_dump(found))
    (line,) = table(run(tmp_path, folder, source).artifact.folder / "status.csv")
    assert line["reason"].startswith("stored values were read: the checkpoint is of a version that did not record")
    given = {"values": {"radiographs": "displayed"}}
    (line,) = table(run(tmp_path, folder, source, output=tmp_path / "given", **given).artifact.folder / "status.csv")
    assert (line["status"], line["reason"]) == ("done", "")

    assert values_as_trained(None, ValuesConfig()) == ValuesConfig()
    with pytest.raises(
        ConfigError, match=r"trained on stored values, .*; found values\.pet=SUVbw: leave values\.\* unset"
    ):
        values_as_trained(ValuesConfig(pet="SUVbw"), ValuesConfig())


def test_only_the_outputs_that_are_asked_for_are_written_and_one_that_does_not_apply_is_reported(
    tmp_path: Path, make_checkpoint: Make
) -> None:
    write_ct_pairs(tmp_path / "source", 1)
    made = run(tmp_path, make_checkpoint(), tmp_path / "source", outputs=["nifti", "dicom_seg"]).artifact.folder
    (line,) = table(made / "status.csv")
    assert (line["status"], line["outputs"]) == ("done", "mask.nii.gz")
    assert line["reason"] == "there is no DICOM segmentation: dicom_seg does not apply to this volume (format nifti)"
    assert yaml.safe_load((made / "config.yaml").read_text())["outputs"] == ["nifti", "dicom_seg"]


def test_outputs_are_recorded_as_they_are_in_force(tmp_path: Path, make_checkpoint: Make) -> None:
    write_radiograph_studies(tmp_path / "source", 1)
    made = run(tmp_path, make_checkpoint("classification", ndim=2), tmp_path / "source").artifact.folder
    assert yaml.safe_load((made / "config.yaml").read_text())["outputs"] == ["preview"]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ("dicom-seg", r"no writer is named 'dicom-seg'; did you mean 'dicom_seg'\? known are dicom_ann, "),
        (
            "geojson",
            r"this is a segmentation model, for which these writers exist: dicom_seg, .*nifti",
        ),
    ],
)
def test_outputs_that_no_study_could_get_are_refused_at_once(
    tmp_path: Path, make_checkpoint: Make, outputs: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, make_checkpoint(), tmp_path, outputs=outputs)
