"""Words that medvit itself writes into its outputs for any patient; an audit ignores them.

The list was made from the outputs of every stage on phantoms: texts of cards and reports, keys of JSON and YAML,
columns and notes of tables, DICOM elements, and texts that MLflow and its database write. It also contains the options
and choices of all configs, and the words of messages. Words of `medvit.deidentification.vocabulary`, words too short to
be searched for, and all words that came from an image, an identifier or a path were removed. Names of people were also
removed, even in the names of methods, because a patient may have the same name. A name was kept if it is a term or a
manufacturer in nearly every output.

A word that is missing from the list causes a false finding if a patient or a folder has that name; a name that should
not be in the list hides a true finding.
"""

from __future__ import annotations

from medvit.deidentification.vocabulary import WORDS

_WRITTEN = """
99medvit abmil about above absent absolute accepted accepts accessed accession accessionnumber accumulate accuracy
acqu acquired across action activations active adamw adapted adapter added address admin administrator affine after
again against ages aggregate agreement alarm alarms alembic algorithm alias align alignment alike allergies
allocated allow
allows alone along alpha already also altogether always among analyze anatomical anchor anew angles anisotropy annex
annotated annotations another answer answers anyone anywhere apart application applies apply archival archives area
argument
arguments around array arrow artifacts artificial ascii asctime asked asks assessment assessments association
associations assume assumed attention attn attributes audit augment auroc auth authority auto autoindex automatic
available average averages away axes axis b2nd backbone backend backoff backslash backup backward bags balance
balanced base base64 baselines batch batches been before began begin begins behind belong belongs below beside betas
better between beyond bf16 bias bilinear bindings birth bits bitsallocated bitsstored blacken blank blanked blanks
blocks blosc blur blurred bootstrap bootstraps border bottleneck bottom bound bounds bqml brackets breakdowns breaks
brier brightest brightfield brightness broke broken burned burnedinannotation bytes calibrate calibrated call
called callers
calls came cancel cannot card cards carries carry categories cell center centered centering centers cert certain
certificate chance chances change changed channel channels characteristics characters charset check checked checkpoint
checkpoints checks chmod choices choose choosing chose chosen citeas ckpt claim claims classification clean client
clinician clip clipped clock closed closes cluster cnts coarser code coded codes coding coherence coincidence collapse
colors come comes command comment comments common compare compared compares compile completed complex components
compress compression concurrency confidence confidentiality config configs configuration confirmed conformsto
confusion connection constant constrained constraint contain content contents contentsize contenturl context continue
continues contradict contributing contributors conv convert converted convolution coordinates copied copies copy corn
correct correctedimage correlation corruptions cosine costs could count counted counts coverage
create created creation creator
credentials criteria croissant crosses crossing crosswalk cubic cuda cumulative curation current curriculum curve
curves cutmix damaged dark dashes dataloader datatype date dates days debug decay decaycorrection decays declare
declared declares decoded decoder decompress decy defined definition definitions deflate deflated degrees
deidentification deidentificationmethod deidentificationmethodcodesequence deidentify delete demo dense depend depends
deprecated depth depths derivationimagesequence descr described description descriptor descriptors destination detail
deviation device devices diagnosis diagonal dice dicomweb dict died differ difference differences different differs
digest digits dimmed dimse dino dinov2 direction directions disable disk disks displayed distance distances distillation
distinct distinguish distribution distributions divided divides divisor doctype does done doubtful down downloaded
drawing drawings drawn draws drift drop dropout dtype dtypes duplicate duplicates duration earlier echoes effect
effective element elements elsewhere embed embedded embedding embeddings empty enabled encoded encoder encoding
encodingformat encrypted encryption ended endpoint endpoints ends engine entity entries entropy entry environment
epithelium epoch epochs epsilon equal equipment equivalentproperty erasing error errors evaluate evaluated evaluating
evenly event every exactly example examples excluded execution executor exist exists expansion expect expectations
expected expects experiment experiments explain explora exported expression extends extension extent extra extract eyepy
fabric factor facts failed failure failures fall fallback falls feature featurecollection features fetched fetches
fewer fibers figcaption figure figures fileobject fileproperty files fileset fill find finding finds finer finetune
fingerprint fingerprints finish finished finite firewall fits flag flagged flags flatter flex flipped float flop fluid
folders folds font foreground format fortran forward found fovea fp16 fragments framed framelaterality
frameofreferenceuid framereferencetime frames freeze frequencies frequent frozen fsdp functional further gamma gaps
gate gaussian gelu gems generated generation geojson geometry gflop give given gives goes grades gradients gram
grayscale grid grids ground grouping groups guard guardrail guardrails half handed harmonic hash hashes hashing have
hd95 header headers heads heat heatmap height help here hexadecimal hidden highbit highdicom higher highest hints hits
hold holds honest horizons hospital hosts hours however html http https identical identification identified identifier
identifies identify idle ignore ignored illumination imagelaterality imageorientationpatient imageorientationslide
imagepositionpatient imagetype immutable includes incomplete infinity inflated info information ingest ingested inputs
insecure inside install installed instances instead instruction int16 integer intelligence intended intensities
intensity intercept interleaved interpolated interpolation interrupted interval intervals into invent irregular
islivedataset isotonic item items iterations itself join joined jsonl jsonpath judge judged just kappa keep keeps kept
keys kind kinds know known knows koleo kwargs labeled labeling lacks language largest laterality layer layers
leaderboard leafspec leak leakage learn learned learning learns least leave leaves legacy lengths less letter level
levelname levels library licence license lies life lifecycle lightning like likelihood limits lineage lines link
listed listen listened lists lived load loaded loader local location locations lock logging logits look looked looks
lookup lora loss losses lowest lutdescriptor machine macro macular made magnification magnifications mail majority
make makes manufacturer many mapping mappings margin markdown masked masking masks match matched matches matrix matter
meaning meanings means meant measure measured measurements measures median mediastoragesopinstanceuid medical medvit
members memory merge merged message metadata method metric metrics micro microns microscope microscopy middle
millimeters minutes mirrored missed missing mixes mixing mixup mlartifacts mlcommons mlflow mlruns mm² modality models
modified moment momentum monai monitors monochrome2 morphologically mosaics most move much multilabel multipart
multiple multitask must name named names ndim near nearest necrosis need needed needs neighboring neighbors neither
network never next nhdr nifti nobody noise norm norm1 norm2 normalization normalize normalized note notebook notes
nothing nowrap nthreads nuclide null numbered numberofframes numberofimagesinmosaic numbers numeric numexpr object
objective objecttype offer offered official offset offsets often older once ones opacities opened opens operating
operation operations optic optim option options order orders ordinal organs orientation orientations origin others
outer outlines outputs outside overexposed overflow overlap overrides pack package pacs padded padding pairs palette
parameters parametric params parent parentfield parentrunid parents parm parquet parsed partial parts pass passes
password past patch patches path patience patientbirthdate patientid patientidentityremoved patientname
patientorientation patientsex patientstate patientweight pattern peft percentile percentiles perceptual
perframefunctionalgroupssequence perhaps permissions perpendicular phantoms philips phone photograph photographs
photometricinterpretation picture pictures pigment pipeline pipelines pixel pixeldata pixelrepresentation pixels
pixelspacing place places plan planarconfiguration planes planned point points polarity policies policy poll
polygon poor
port positions precision predict predicted predicting predictions predicts premedication prepared preprocess
preprocessing prerelease presentation pretrain pretrained pretraining pretrainings prevalence private probabilities
probability probable probe probes process processes progress proj project promises prompts properties proposals
proposed prose protect protected prototypes provider pseudonym pseudonyms public purl pydicom pyramid python pytorch
qform qnms quadratic quality quarantine queries query quiet radiographs radiology radiopharmaceuticalinformationsequence
radiotherapy raise ramp random rank rare rarest rates ratio rationale ratios reached read reader readers reading
readings reads reason reasons recall received recognized recognizes recompression record recorded recordset rectangle
refer referenced references referringphysicianname refers refresh refreshes refuse refused refuses regex region
regions register registers registry regresses regression regularizer rejected related reliability remove rename repeated
repeats repetition replace reports request requested required requires resample resampled resamples rescaleintercept
rescaleslope resized resnet resolved resource resources response restore resumable resume resumed retain retention
retired retries retrieve retry return returns reviewed rewards rise rising risky rollback root rougher round
rounds rules
runname
running runs safe safetensors salt sampled sampler samplesperpixel samplingrate save says scale scales scaling scanned
scanners scanning schedule scheduled scheduler schema scheme score scores scouts scratch script search searched second
seconds secret seed seeds seem seems seen segmented select self send sending sensitivities sensitivity sent sentence
separate separated separately separator serial serialized seriesinstanceuid seriesnumber serif server servers service
sets settled several severities severity sexes sform sha256 shaded shape shaped share shared sharpness shears shifts
shorter show shown shows side sideways siemens sigmoid signed silent simdinov2 simmim since sincos singular sinkhorn
sites size sizes skip skipped slicenormalvector slicethickness slide slides slope smaller smallest smoothing software
solarize solid some someone something sopclassuid sopinstanceuid sourceimagesequence spacingbetweenslices spacings
spans speaks specialneeds specificity specimen spectrum speed split splits spool spread sqlite sqrt square squared
stable stacks stage stages stain stand standardized stands start started starts state status stays steps still stop
stopped storage store stored straight strata strategy stream streamable strength strengths stretch strides structure
student studydate studyid studyinstanceuid studytime style subfield subgroups subsampled such superior supervised
supplemental support supported supports surfaces surrogateescape survival suvbw suvtype swap swiglu symlog syntax
system table tabular tags take taken takes taking target targets task tasks teacher teaches telemetry tell tells
temperature temperatures tensor tensors tenth terminal terms texts their theirs them then there they thickness things
third those though thousand threshold throughput tile tiled tiles timeout times timestamp tiny tissue title together
token tokens told tolerance tool torch totalpixelmatrixrows traceback tracker trained trainer transducer transfer
transfersyntaxuid transform transformer translation transmil transparent transport travel trilinear trust trusted
truth truths tuning turned turns twice ucum uids uint16 uint8 unable uncertainty unchanged undefined under
underexposed unencrypted unexpected unfinished uni4eye unit unite united units unlabeled unless unmatched unpack
unpacked unpacks unread unreadable unsupported untrusted update urfound usage used user username uses using usual
usually value values variable variables variance variant vary vectors verdict versions vertical viewport visit visits
vocab vocabulary voilutfunction voltage voxel voxels wanted wants warmup warn warning wasserstein ways webhooks weight
weights what whatever when where whether which while whose widen width windows windowwidth wished within words work
worker workers works workspace workspaces world worst would wrap write writes writing written wrong yaml years your
yourself zero zone zscore zstd
"""

OWN_WORDS = frozenset(_WRITTEN.split())
"""Words that medvit itself writes into its outputs, in lower case."""
OWN_TEXT = " ".join(sorted(OWN_WORDS | WORDS))
"""All words of outputs that name nobody, as one string, to find whether a text is part of one of them."""
