"""Commands of the golden outputs: one per line, run in order in one folder, on real data and on phantoms.

All paths are relative to that folder, so that outputs do not depend on the location of the folder. `SUBSETS` are the
copies of real data that the commands read from `in/`; phantoms are drawn into `phantoms/`.
"""

from __future__ import annotations

from collections.abc import Mapping

SUBSETS: Mapping[str, tuple[str, ...]] = {
    "brain-mr": ("brain-mr-dicom-studies/Study1", "brain-mr-dicom-studies/Study3"),
    "qa-nih": ("dcm_qa_nih/In",),
    "qa-ts": ("dcm_qa_ts",),
    "qa-ct": ("dcm_qa_ct",),
    "odd": ("dicom-odd",),
    "wg04": ("nema-wg04/REF", "nema-wg04/J2KR", "nema-wg04/JLSL", "nema-wg04/RLE"),
    "totalseg": ("totalseg-ct",),
    "ct-series": ("torchio-ct-series",),
    "highdicom": ("highdicom-sm-seg-sr",),
    "busi": ("busi-ultrasound/*/*(1?)*.png", "busi-ultrasound/normal/*(?)*.png"),
    "peers": ("peers-odd",),
    "hippocampus": ("msd-hippocampus/*/hippocampus_0[0-3]*.nii.gz",),
    "drive": ("drive/*/*/2[1-4]*", "drive/*/*/0[1-4]*"),
    "wsi": ("wsi/*.svs", "wsi/*.tif"),
    "retina": ("medmnist/retinamnist.npz",),  # truncated to `NUM_SHORTENED` images per split
}
"""Folder in `in/` -> patterns of files and folders of real data, which keep their paths in it."""

NUM_SHORTENED = 80
"""Number of images to keep of each split of an .npz file."""

VIT = "backbone.width=48 backbone.depth=2 backbone.heads=3"
VIT_2D, VIT_3D = f"{VIT} backbone.patch_size=7", f"{VIT} backbone.patch_size=8"
DECODER = "objective.decoder_width=32 objective.decoder_depth=1 objective.decoder_heads=2"
PIXELS = "preprocess={kind: image, channels: 3, size: [28, 28], intensity: {method: range}}"
PHOTOGRAPHS = PIXELS.replace("28", "84")
SLICES = "preprocess={kind: image, size: [64, 64], intensity: {method: window, window_width: 2400, window_center: 0}}"
HEADS = "objective.head.prototypes=64 objective.head.hidden=32"
LOCAL = "objective.views.size=[56,56] objective.views.local_size=[28,28]"
SHORT, BRIEF = "trainer={epochs: 2, steps_per_epoch: 10}", "trainer={epochs: 1, steps_per_epoch: 4}"
TRACKED = "tracking.uri=sqlite:///mlflow.db"
TILES = "taking.tiles.size=128 taking.tiles.magnification=20x"

INGEST = f"""
ingest source=in/brain-mr dataset=data/brain-mr scanning.geometry=resample taking.burned_in.policy=mask \
  deidentify.copy_to=copies/brain-mr
ingest source=in/qa-nih dataset=data/qa-nih scanning.geometry=slices
ingest source=in/qa-ts dataset=data/qa-ts engine.num_processes=2
ingest source=in/qa-ct dataset=data/qa-ct scanning.geometry=resample curation.duplicates=drop
ingest source=in/odd dataset=data/odd taking.burned_in.policy=mask taking.burned_in.look_at=all \
  deidentify.copy_to=copies/odd
ingest source=in/wg04 dataset=data/wg04 taking.values.radiographs=displayed
ingest source=in/totalseg dataset=data/totalseg
ingest source=in/ct-series dataset=data/ct-series name=ct-series \
  facts.license=Apache-2.0 facts.description="One series"
ingest source=in/highdicom dataset=data/highdicom {TILES}
ingest source=in/busi dataset=data/busi scanning.modality=US labeling.from_folders=folder \
  labeling.mask_classes=[background,lesion]
ingest source=in/peers dataset=data/peers
ingest configs/hippocampus/ingest.yaml source=in/hippocampus dataset=data/hippocampus splits.val=0.2
ingest configs/drive/ingest.yaml source=in/drive dataset=data/drive splits.val=0.5
ingest configs/retinamnist/ingest.yaml source=in/retina/retinamnist.npz dataset=data/retina
ingest source=in/wsi dataset=data/wsi taking.tiles.slide_mpp=0.5 {TILES}
ingest source=in/wsi dataset=data/wsi-packed taking.tiles.pack=true taking.tiles.size=256 taking.tiles.magnification=5x
ingest source=in/qa-ts dataset=data/qa-ts-again update=data/qa-ts
ingest source=phantoms/ct dataset=data/ct scanning.modality=CT labeling.mask_classes=[background,liver,spleen] \
  deidentify.copy_to=copies/ct
ingest source=phantoms/radiographs dataset=data/radiographs scanning.modality=DX labeling.from_folders=folder
ingest source=phantoms/eyes dataset=data/eyes scanning.modality=OP labeling.from_folders=folder
ingest source=phantoms/stacks dataset=data/stacks scanning.modality=OPT scanning.stacks.spacing_mm=[0.24,0.0039,0.011]
ingest source=phantoms/slides dataset=data/slides labeling.from_folders=folder \
  scanning.patient_from=(patient-[0-9]+) 'splits={{val: 0.3, test: 0.3, salt: 1}}' {TILES}
ingest source=in/nothing dataset=data/nothing
"""
"""Datasets; the last source does not exist, to record the text of an error."""

DATASETS = """
audit dataset=data/brain-mr source=in/brain-mr output=audits/brain-mr
audit dataset=data/odd source=in/odd copy_to=copies/odd output=audits/odd
export dataset=data/brain-mr output=exports/brain-mr
export dataset=data/peers output=exports/peers compress=false
export dataset=data/highdicom output=exports/highdicom
export dataset=data/drive output=exports/drive splits=[test]
leakage a=data/wg04 output=leakage/wg04
leakage a=data/qa-ts b=data/odd output=leakage/two
card a=data/qa-nih b=data/brain-mr output=cards/two
card a=data/busi output=cards/busi
merge datasets=[data/brain-mr,data/totalseg,data/ct] output=data/united slices=4
"""

LEARNING = f"""
pretrain dataset=data/retina output=models/mae {TRACKED} {VIT_2D} '{PIXELS}' {DECODER} '{SHORT}' loader.batch_size=16
pretrain dataset=data/united output=models/dinov2 objective=dinov2 {HEADS} {LOCAL} '{SLICES}' {VIT_2D} '{SHORT}' \
  slices.gap_mm=4
pretrain dataset=data/hippocampus output=models/volumes objective.views.size=[32,32,32] {VIT_3D} {DECODER} '{SHORT}'
pretrain dataset=data/retina output=models/dino objective=dino {HEADS} '{PIXELS}' {VIT_2D} '{BRIEF}'
pretrain dataset=data/retina output=models/simdinov2 objective=simdinov2 '{PIXELS}' {VIT_2D} '{BRIEF}'
pretrain dataset=data/retina output=models/simmim objective=simmim '{PIXELS}' {VIT_2D} '{BRIEF}'
pretrain dataset=data/retina output=models/continued checkpoint=models/mae {DECODER} '{BRIEF}'
finetune dataset=data/retina checkpoint=models/mae output=models/grades {TRACKED} peft=lora loader.batch_size=16 \
  '{SHORT}'
finetune dataset=data/hippocampus checkpoint=models/volumes output=models/hippocampus peft=lora crop=[32,32,32] \
  '{SHORT}' 'applies_to={{modality: MR, kind: volume}}'
finetune dataset=data/drive output=models/vessels '{PHOTOGRAPHS}' {VIT_2D} peft=full crop=[56,56] '{BRIEF}'
evaluate checkpoint=models/grades dataset=data/retina output=reports/grades {TRACKED} resamples=200
evaluate checkpoint=models/hippocampus dataset=data/hippocampus output=reports/hippocampus nsd_tolerance_mm=1 \
  resamples=200
evaluate checkpoint=models/vessels dataset=data/drive output=reports/vessels resamples=200
predict checkpoint=models/hippocampus source=in/brain-mr output=predictions/hippocampus applies_to.description=Crop
predict checkpoint=models/grades source=in/drive output=predictions/grades
audit dataset=data/brain-mr source=in/brain-mr places=[predictions/hippocampus] \
  output=audits/predictions
"""

SLIDES = f"""
pretrain dataset=data/slides output=models/tiles slides.key=site.key {VIT} {DECODER} '{BRIEF}' \
  'preprocess={{kind: image, channels: 3, intensity: {{method: range}}}}'
finetune dataset=data/slides checkpoint=models/tiles output=models/slides slides.key=site.key head=abmil \
  seeds=2 bags.tiles=32 '{BRIEF}'
evaluate checkpoint=models/slides dataset=data/slides output=reports/slides slides.key=site.key resamples=200
predict checkpoint=models/slides source=phantoms/new-slides output=predictions/slides
"""

COMMANDS = tuple(line for part in (INGEST, DATASETS, LEARNING, SLIDES) for line in part.split("\n") if line)
"""All commands, without the options common to all stages."""
