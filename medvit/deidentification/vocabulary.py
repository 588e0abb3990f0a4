"""Imaging words that name nobody; they are kept in descriptors, and an audit ignores them.

A free text is cleaned by keeping only small numbers and the words of this list. Names are not searched for, because a
list of names cannot be complete.
"""

from __future__ import annotations

import re
from collections.abc import Container

_BODY = """
abd abdomen abdominal abdpelvis acetabulum achilles adnexa adrenal adrenals airway ankle anus aorta aortic apex
appendix arm arms arteries artery articulation atria atrium auditory axilla axillary back bile biliary bladder body
bone bones bowel brachial brain brainstem breast breasts bronchi bronchus calcaneus calf canal cardiac carotid carpal
cauda cava cerebellum cerebral cerebrum cervical cervix chest chestabdpelvis cheek clavicle coccyx colon coronary
corpus cranial cranium csp cspine disc discs dorsal duct duodenum ear ears elbow elbows embryo esophagus extremity eye
eyes face facial feet femoral femur fetal fetus fibula finger fingers foot forearm forefoot fundus gallbladder gland
glands hallux hand hands head headneck heart hemithorax hepatic hip hippocampus hips humerus iac ileum iliac intestine
jaw jejunum joint joints kidney kidneys knee knees kub larynx leg legs lens ligament limb limbs lip liver loin lower
lspine lsspine lumbar lumbosacral lung lungs lymph macula mandible mastoid maxilla mediastinum meniscus metacarpal
metatarsal mouth muscle myocardium nasal neck nerve node nodes nose oral orbit orbits ovaries ovary palate pancreas
parathyroid parotid patella pelvic pelvis penis perineum pharynx phalanx pituitary placenta pleura popliteal portal
prostate pulmonary radius rectal rectum renal retina retinal rib ribs sacral sacroiliac sacrum salivary scaphoid
scapula scrotum sella shoulder shoulders sinus sinuses skin skull soft spinal spine spleen splenic sternum stomach
subclavian submandibular tarsal teeth temporal temporomandibular tendon testes testis thigh thoracic thoracolumbar
thorax throat thumb thymus thyroid tibia tmj toe toes tongue tonsil tooth torso trachea tspine ulna umbilical upper
ureter ureters urethra urinary uterus vagina vascular vein veins vena venous ventricle vertebra vertebrae vessel
vessels vulva wrist wrists abdomino pelvico hippo pelv
"""
_METHOD = """
acq acquisition adc angio angiogram angiography angle aorta arterial asl asset averaged axial background baseline
basic bilateral bilat binary biopsy blade bold bravo breath breathhold bssfp calc calcium calibration calculated cest
chemical cine ciss clinical collimation color colour combined comparison compressed cone contrast corrected correction
cor coronal cross ct cta ctp cube curved cxr dce deep default delay delayed denoised density derived dess detector
deidentified dicom diff diffusion digital direct display dixon doppler dose dsa dsi dti dual duplex dwi dynamic dx
early echo echocardiogram edge energy enhanced enhancement epi equilibrium est eswan excretory exp expiration
expiratory exposure exam examination fa fast fat fatsat fb fdg fiesta field file filter filtered filtering fine first
fixed flair flash flip flow fluoro fluoroscopy flt fmri follow followup fov frame free freq frfse frontal fs fse full
fused fusion gad gadolinium gain gantry gated gating gre gradient grase hard haste helical hepatobiliary high hires
horizontal image images imaging inhale inhance injection inner inphase input inspiration inspiratory internal inv
inversion inverted ir iso isotropic kernel kilovoltage kv kvp large last late lat lateral lava left line lossless
lossy loc locator localizer localiser long longitudinal low lt mag magnitude mammo mammogram mammography manual map
maps mask max maximum mdct mean measurement medial medium mean min minimum mip mixed mm mode model mono monochrome
monoenergetic motion mosaic moco mpr mprage mr mra mrcp mri mrs mrv multi multiecho multiphase multiplanar multislice
mv narrow nativ native navigator new nm non noncontrast none normal nuclear number oblique obl open optical opp
opposed original out outphase over overview pa pan panoramic parallel part passive pause pc pca pd pdw perf perfusion
pet phantom phase phases plain planar plane plus portable portovenous position post posterior postcontrast
postprocessed pre precontrast prep preview primary prior procedure processed processing profile projection prone
propeller protocol proton proxy pulse qsm quantitative quick radial radiograph radiography range rapid rate raw real
recon reconstructed reconstruction ref reference reformat reformatted registered registration regular relative removed
repeat report rescan research resolution respiratory rest restricted results reverse right rotated rotating rotation
routine rt sag sagittal saturation saved scan scanner scans scout screen screening screenshot se secondary segment
segmentation semi sense sequence sequences sequential series sharp shift short shot signal simulation single slab
slice slices slow small smart smooth soft source spair spc space spacing spatial spectral spectroscopy spgr spin
spiral spoiled ssfp ssfse standard standing static std step steady stir stack stereo stress strip study sub subject
subtracted subtraction summary supine surface survey susceptibility svr swan swi synthetic t1 t1w t2 t2w t2star
tagging tdm te technique template test text tfe tfl thick thin three time timed timing tir tirm tof tomo tomography
tomosynthesis topogram trace track tracking transaxial transverse treatment trigger triggered true trufi truefisp tse
turbo twist two type ultra ultrafast ultrasound unenhanced unilateral unknown unspecified up us use vibe view views
vista vol volume volumetric water wb weighted whole wholebody wide window with without wo xray zoom ap pa ll rl lr si
hfs ffs hfp ffp mlo cc lcc rcc lmlo rmlo ml lm xccl bw phs dyn cp angled tilt tilted fid sar mt mtc iv po mc kontrast
nativ ohne mit schaedel thorax knie hals kopf becken leber lunge herz ap seitlich sin con contraste torax abdomen
craneo cerebro rodilla pelvis avec sans crane genou foie poumon crop crops cropped reg
"""
_FINDING = """
abnormal abscess acute adenoma aneurysm anomaly arthritis artifact atelectasis atrophy benign bleed bleeding
calcification cancer carcinoma cardiomegaly cataract chronic colitis consolidation covid covid19 cyst cystic cysts
degeneration degenerative diabetic disease disorder drusen edema effusion embolism emphysema evaluation fibroadenoma
fibrosis fissure focal followup fracture fractures glaucoma glioblastoma glioma grade healthy hematoma hemorrhage
hernia infarct infarction infection infiltrate inflammation injury ischemia lesion lesions leukemia lymphoma malignant
mass masses melanoma meningioma metastases metastasis metastatic mild moderate neoplasm nodule nodules nofinding
notumor obstruction oedema opacity pain pathology pneumonia pneumothorax polyp polyps positive negative proliferative
retinopathy rule rupture sarcoma sclerosis severe staging stenosis stone stones stroke tear thrombosis trauma trial
tuberculosis tumor tumour ulcer
"""
_GRAMMAR = """
a ad all an and any are as at be both but by c case cases d day de der des die du each el en et false for from i in is
it la le les no not o of off on only or other per pre s same see set than that the these this to true und until v vs
was week were y year yes z x ax tra row rows col column columns linear identity exact removed
"""
_FILES = """
anon anonymous archive bmp bvec bval cases class classes control csv data dataset datasets dcm dicomdir dicoms
download export exports folder gif group gz ima images imagesTr imagesTs img imgs index input instance jpeg jpg json
label labels labelsTr manifest mha mhd nii nrrd npz output patient patients png raw readme sample samples
segmentations seg session ses site source sources studies sub tar temp testing tests tif tiff tmp train training txt
val valid validation version volumes zip manual im mr000 1st 2nd
"""

WORDS = frozenset(" ".join((_BODY, _METHOD, _FINDING, _GRAMMAR, _FILES)).casefold().split())
"""Imaging words that name nobody, in lower case."""

_UNITS = "mm|cm|ms|s|sec|min|t|x|d|kv|kvp|hu|deg|w|l|r|f|st|nd|rd|th"
_SMALL_NUMBER = re.compile(rf"\d{{1,3}}({_UNITS})?|[bt]\d{{1,4}}|[clts]\d{{1,2}}")
_NUMBERS = re.compile(r"(?<!\w)\d+(?:[-/.:, ]\d+)+(?!\w)")
_WORD = re.compile(r"\d{1,3}\.\d{1,3}(?:mm|cm|ms|s|t)?(?![^\W_.])|[^\W_]+", re.IGNORECASE)
_PIECE = re.compile(r"[^\W\d_]?[a-zà-öø-ÿ]+|[A-ZÀ-ÖØ-Þ]+(?![a-zà-öø-ÿ])|\d+|[^\W_]")
"""Pattern of the parts of a word: runs of letters in one case, or of digits. A capital letter belongs to the small
letters that follow it.
"""
_SIGNS_OUT = str.maketrans("", "", "-/.:, ")
NAME_PREFIXES = frozenset(
    [
        "mc",
        "mac",
        "de",
        "da",
        "di",
        "du",
        "la",
        "le",
        "al",
        "el",
        "st",
        "van",
        "von",
        "der",
        "den",
        "des",
        "las",
        "los",
        "ben",
        "bin",
    ]
)
"""Prefixes of surnames. A word such as McLong is a surname, although its parts alone are not."""
MIN_PART = 3
"""Minimum letters of a part of a word that is kept without the other parts."""
MANY_DIGITS = 5
"""This many digits, with any characters between them, may be a date, a telephone number or an identifier."""


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; a word is a run of letters and digits, in any alphabet."""
    return re.findall(r"[^\W_]+", text.casefold())


def is_common(word: str) -> bool:
    """Return whether a word, in lower case, names nobody."""
    return word in WORDS or _SMALL_NUMBER.fullmatch(word) is not None


def clean(text: str, forbidden: Container[str] = (), allowed: Container[str] = ()) -> str:
    """Return the part of a text that may be kept: common or `allowed` words that are not `forbidden`.

    A compound word, such as HippoCrop or T1post, is split where the letter case changes or letters meet digits. It is
    kept whole if all parts may be kept; otherwise only parts of three or more letters are kept, and never a number.
    """
    text = _NUMBERS.sub(lambda match: " " if sum(map(str.isdigit, match[0])) >= MANY_DIGITS else match[0], text)
    kept = (_cleaned_word(word, forbidden, allowed) for word in _WORD.findall(text))
    return " ".join(filter(None, kept))


def removed(text: str, allowed: Container[str] = ()) -> str:
    """Return the words of a text that `clean` would remove or shorten without `forbidden` words."""
    words = _WORD.findall(_NUMBERS.sub(lambda match: match[0].translate(_SIGNS_OUT), text))
    return " ".join(word for word in words if _cleaned_word(word, (), allowed) != word)


def _cleaned_word(word: str, forbidden: Container[str], allowed: Container[str]) -> str:
    folded = word.casefold()
    if folded in forbidden:
        return ""
    if _may_stay(folded, allowed):
        return word
    parts = _parts_of(word, allowed)
    if len(parts) < 2 or any(part.casefold() in forbidden for part, _ in parts):
        parts = [(part, is_kept) for part, is_kept in parts if part.casefold() not in forbidden]
    elif all(is_kept for _, is_kept in parts) and sum(map(str.isdigit, word)) < MANY_DIGITS:
        return word
    return " ".join(part for part, is_kept in parts if is_kept and _is_meaningful(part))


def _parts_of(word: str, allowed: Container[str]) -> list[tuple[str, bool]]:
    """Split a word into parts that are as long as possible; return each part with whether it may be kept."""
    pieces = _PIECE.findall(word)
    parts: list[tuple[str, bool]] = []
    while pieces:
        for number in range(len(pieces), 0, -1):
            part = "".join(pieces[:number])
            # A bare number is part of a word (T1, 3mm) or of an identifier.
            folded = part.casefold()
            may_stay = not part.isdigit() and folded not in NAME_PREFIXES and _may_stay(folded, allowed)
            if may_stay or number == 1:
                parts.append((part, may_stay))
                pieces = pieces[number:]
                break
    return parts


def _is_meaningful(part: str) -> bool:
    """Return whether a part of a word may be kept without the other parts.

    A part that consists of letters must have at least three. Any other part must be on the list of imaging words.
    """
    return (part.isalpha() and len(part) >= MIN_PART) or (not part.isalpha() and part.casefold() in WORDS)


def _may_stay(word: str, allowed: Container[str]) -> bool:
    return "." in word or is_common(word) or word in allowed
