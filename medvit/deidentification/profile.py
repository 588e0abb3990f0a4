"""Actions for each DICOM element, from the Basic Application Level Confidentiality Profile and its options (PS3.15 E).

The actions of Table E.1-1 are read from the copy of the table in dicom-anonymizer (edition 2026c). The implementations
of these actions in dicom-anonymizer, dicognito and deid are not used: dicom-anonymizer draws UIDs at random in each
process, dicognito hashes with MD5 and covers only a part of the table, and deid uses recipes instead of the table. The
columns of the table for the options are written out in this module.

Elements outside the table are restricted too. Text is kept if it is a code or a property of the device, and is reduced
to common words if not. Binary values are kept only if they are pixels or lookup tables. Unknown elements are removed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Literal

from medvit.errors import ConfigError

Option = Literal["dates", "device", "characteristics", "descriptors", "uids"]

STANDARD_ROOT = "1.2.840.10008."
"""Root of the UIDs that the standard itself defines."""
EDITION = "dicomfields_2026c"

CODES: Mapping[str, tuple[str, str]] = {
    "profile": ("113100", "Basic Application Confidentiality Profile"),
    "dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "characteristics": ("113108", "Retain Patient Characteristics Option"),
    "descriptors": ("113105", "Clean Descriptors Option"),
    "uids": ("113110", "Retain UIDs Option"),
    "private": ("113111", "Retain Safe Private Option"),
}
"""Code and meaning of the de-identification method of the basic profile and of each option (PS3.16 CID 7050)."""


class Action(Enum):
    """Action for an element, named as in the standard."""

    KEEP = "keep"
    REMOVE = "remove"
    EMPTY = "empty"
    DUMMY = "dummy"
    PSEUDONYM = "pseudonym"
    UID = "uid"
    SHIFT = "shift"
    CLEAN = "clean"
    """Keep only the common words of the value."""
    CODE = "code"
    """Keep the value unless it contains an identifying word."""
    ENTER = "enter"
    """De-identify the items of a sequence one by one."""


_DEVICE = """
CassetteID DetectorID DeviceDescription DeviceLabel DeviceSerialNumber GantryID GeneratorID LensMake LensModel
LensSerialNumber LensSpecification ManufacturerDeviceIdentifier ModifyingDeviceID ModifyingSystem
PerformedStationGeographicLocationCodeSequence PerformedStationName PerformedStationNameCodeSequence PlateID
ScheduledProcedureStepLocation ScheduledStationGeographicLocationCodeSequence ScheduledStationName
ScheduledStationNameCodeSequence ScheduledStudyLocation SourceManufacturer SourceSerialNumber StationName
TransducerIdentificationSequence TreatmentMachineName UDISequence UniqueDeviceIdentifier XRayDetectorID
XRayDetectorLabel XRaySourceID
"""
_CHARACTERISTICS = """
EthnicGroup EthnicGroupCodeSequence EthnicGroups PatientAge PatientSex PatientSexNeutered PatientSize PatientWeight
PregnancyStatus SmokingStatus
"""
_CLEANED_CHARACTERISTICS = "Allergies PatientState PreMedication SpecialNeeds"
_DESCRIPTORS = """
AcquisitionComments AcquisitionDeviceProcessingDescription AcquisitionFieldOfViewLabel AcquisitionProtocolDescription
ClinicalTrialSeriesDescription ClinicalTrialTimePointDescription CommentsOnRadiationDose
CommentsOnThePerformedProcedureStep ContainerDescription ContrastBolusAgent ContributionDescription
DecompositionDescription DerivationDescription DeviceSettingDescription FilterLookupTableDescription FrameComments
ImageComments ImagingServiceRequestComments LongDeviceDescription MultienergyAcquisitionDescription
PerformedProcedureStepDescription ProtocolName PyramidDescription PyramidLabel ReasonForStudy
ReasonForTheRequestedProcedure RequestedContrastAgent RequestedProcedureComments RequestedProcedureDescription
RequestedSeriesDescription RespiratoryMotionCompensationTechniqueDescription ROIDescription ROIGenerationDescription
ROIName ROIObservationDescription ROIObservationLabel ScheduledProcedureStepDescription SeriesDescription
SpecimenDetailedDescription SpecimenShortDescription StudyComments StudyDescription TreatmentSite TreatmentSites
WaveformFilterDescription
"""
_CODES_AND_DEVICES = """
AcquisitionType AnatomicStructureSpaceOrRegionSequence BlockID CodeMeaning CodeValue CodingSchemeDesignator
CodingSchemeName CodingSchemeVersion CollimatorGridName ConvolutionKernel ConvolutionKernelGroup DetectorDescription
DetectorManufacturerModelName DetectorManufacturerName DigitalImageFormatAcquired DimensionDescriptionLabel
ExposureModulationType FilterMaterial FilterType FocalSpots FrameTypeDescription GridAbsorbingMaterial
GridSpacingMaterial ImagingFrequencyName LUTExplanation LensFilterType LightPathFilterTypeStack ContrastBolusRoute
LongCodeValue MIMETypeOfEncapsulatedDocument Manufacturer ManufacturerModelName ModalityLUTType NuclideCode
PixelDataProviderURL PulseSequenceName QuantityDefinitionSequence Radiopharmaceutical ReceiveCoilManufacturerName
ReceiveCoilName RadiopharmaceuticalRoute RescaleType SecondaryCaptureDeviceManufacturer
SecondaryCaptureDeviceManufacturerModelName SecondaryCaptureDeviceSoftwareVersions SegmentAlgorithmName SegmentLabel
SequenceName SoftwareVersions SpectrallySelectedSuppression StackID TransducerType TransmitCoilManufacturerName
TransmitCoilName VideoImageFormatAcquired WindowCenterWidthExplanation ImagedNucleus ResonantNucleus
MappingResourceName TypeOfFilters DetectorMode PlateType PhosphorType AcquisitionMode DoseModeName ProcessingFunction
ImageFilter AttenuationCorrectionMethod ReconstructionMethod ScatterCorrectionMethod DetectorLinesOfResponseUsed
EnergyWindowName AlgorithmName AlgorithmVersion OpticalPathIdentifier TransducerData CardiacFramingType LUTLabel
DimensionIndexPrivateCreator FunctionalGroupPrivateCreator ApplicationName ApplicationVersion ApplicationManufacturer
PaddleDescription MultiCoilElementName MultiCoilConfiguration ManufacturerRelatedModelGroup TriggerSourceOrType
PVCRejection
"""
_PIXELS = """
PixelData FloatPixelData DoubleFloatPixelData ICCProfile LUTData RedPaletteColorLookupTableData
GreenPaletteColorLookupTableData BluePaletteColorLookupTableData AlphaPaletteColorLookupTableData
SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData
SegmentedBluePaletteColorLookupTableData SegmentedAlphaPaletteColorLookupTableData ExtendedOffsetTable
ExtendedOffsetTableLengths PixelPaddingValue PixelPaddingRangeLimit VectorGridData
"""
_ENTERED = """
AcquisitionContextSequence ContentSequence GraphicAnnotationSequence ReferencedImageSequence
ReferencedPerformedProcedureStepSequence SourceImageSequence VerifyingObserverSequence WaveformAnnotationSequence
"""
_KINDS = """
AvailableTransferSyntaxUID CodingSchemeUID ContextUID MappingResourceUID MediaStorageSOPClassUID
OriginalSpecializedSOPClassUID ReferencedRelatedGeneralSOPClassUIDInFile ReferencedSOPClassUID
ReferencedSOPClassUIDInFile RelatedGeneralSOPClassUID SOPClassUID SOPClassesInStudy TransferSyntaxUID
"""

RETAINED: Mapping[Option, frozenset[str]] = {
    "device": frozenset(_DEVICE.split()),
    "characteristics": frozenset(_CHARACTERISTICS.split()),
}
"""Keywords of the elements that an option keeps (columns Rtn. Dev. Id. and Rtn. Pat. Chars. of Table E.1-1)."""
CLEANED: Mapping[Option, frozenset[str]] = {
    "descriptors": frozenset(_DESCRIPTORS.split()),
    "characteristics": frozenset(_CLEANED_CHARACTERISTICS.split()),
}
"""Keywords of the elements that an option cleans. For other elements that the option would clean according to Table
E.1-1, the stricter action of the basic profile applies.
"""
CODED = frozenset(_CODES_AND_DEVICES.split())
"""Keywords of text elements outside the table that contain codes, terms or properties of a device."""
BINARY = frozenset(_PIXELS.split())
KINDS = frozenset(_KINDS.split())
"""Keywords of elements with UIDs of classes, which are kept, unlike UIDs of instances."""

SAFE_PRIVATE = (
    "SIEMENS MR HEADER:0019,0A",
    "SIEMENS MR HEADER:0019,0C",
    "SIEMENS MR HEADER:0019,0D",
    "SIEMENS MR HEADER:0019,0E",
    "SIEMENS MR HEADER:0019,27",
    "GEMS_PARM_01:0043,39",
    "GEMS_ACQU_01:0019,BB",
    "GEMS_ACQU_01:0019,BC",
    "GEMS_ACQU_01:0019,BD",
    "Philips Imaging DD 001:2001,03",
    "Philips PET Private Group:7053,00",
    "Philips PET Private Group:7053,09",
)
"""Private elements with numbers that diffusion and PET require (PS3.15 Table E.3.10-1). The first, the number of
slices in a mosaic, is not in the table: without it other tools read empty tiles as slices.
"""

TEXT = frozenset(("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
NUMBERS = frozenset(("AT", "DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"))
DATES = frozenset(("DA", "DT", "TM"))


@dataclass(frozen=True)
class Profile:
    """Basic profile with options; `private` are the private elements to keep, in the form `CREATOR:gggg,ee`."""

    options: frozenset[Option]
    private: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    """Words, in lower case, that a site allows in descriptors in addition to imaging terms."""

    def action(self, tag: int, vr: str) -> Action:
        """Return the action for a standard element."""
        return _action(self, tag, vr)

    def _decide(self, tag: int, vr: str) -> Action:
        from pydicom.datadict import keyword_for_tag

        keyword = keyword_for_tag(tag)
        if not keyword or _is_annotation_group(tag) or tag >> 16 < 8:
            return Action.REMOVE
        for option in self.options:
            if keyword in RETAINED.get(option, ()):
                return Action.ENTER if vr == "SQ" else _retained(vr)
            if keyword in CLEANED.get(option, ()):
                return Action.CLEAN
        return self._listed(keyword, vr, _table()[tag]) if tag in _table() else self._unlisted(keyword, vr)

    def keeps_private(self, creator: str, tag: int) -> bool:
        """Return whether a private element of a creator is kept."""
        return f"{creator.strip()}:{tag >> 16:04X},{tag & 0xFF:02X}".casefold() in _folded(self.private)

    def _listed(self, keyword: str, vr: str, listed: str) -> Action:
        if keyword in ("PatientName", "PatientID"):
            return Action.PSEUDONYM
        if listed == "U":
            return Action.KEEP if "uids" in self.options else Action.UID
        if "dates" in self.options and (vr in DATES or keyword == "TimezoneOffsetFromUTC"):
            return _birth(keyword) or Action.SHIFT
        if vr == "SQ":
            return Action.ENTER if keyword in _ENTERED.split() else Action.REMOVE if "X" in listed else Action.EMPTY
        return {"X": Action.REMOVE, "Z": Action.EMPTY, "X/Z": Action.EMPTY}.get(listed, Action.DUMMY)

    def _unlisted(self, keyword: str, vr: str) -> Action:
        if vr == "SQ":
            return Action.ENTER
        if vr == "UI":
            is_kept = keyword in KINDS or "uids" in self.options
            return Action.KEEP if is_kept else Action.UID
        if vr in DATES:
            return Action.SHIFT if "dates" in self.options else Action.EMPTY
        if vr in NUMBERS or keyword in BINARY:
            return Action.KEEP
        if vr == "CS" or keyword in CODED:
            return Action.CODE
        return Action.DUMMY if vr in ("AE", "PN", "UR") else Action.CLEAN if vr in TEXT else Action.REMOVE


def parse_private(entries: tuple[str, ...]) -> frozenset[str]:
    """Return the entries of a list of private elements to keep, after checking their form.

    Raises:
        ConfigError: If an entry does not have the form `CREATOR:gggg,ee`.
    """
    for entry in entries:
        if not re.fullmatch(r".+:[0-9A-Fa-f]{3}[13579BDFbdf],[0-9A-Fa-f]{2}", entry):
            raise ConfigError(
                f"deidentify.private: found {entry!r}; expected CREATOR:gggg,ee with an odd group and the last two "
                "digits of the element, as in 'SIEMENS MR HEADER:0019,0C'"
            )
    return frozenset(entries)


@cache
def _action(profile: Profile, tag: int, vr: str) -> Action:
    return profile._decide(tag, vr)


def _retained(vr: str) -> Action:
    return Action.CODE if vr in TEXT or vr == "CS" else Action.KEEP


def _birth(keyword: str) -> Action | None:
    """Return the action for the date or time of birth; None for other elements.

    Even the option `dates` does not keep them.
    """
    return {"PatientBirthDate": Action.EMPTY, "PatientBirthTime": Action.REMOVE}.get(keyword)


def _is_annotation_group(tag: int) -> bool:
    """Return whether a group contains curves (50xx) or overlays (60xx), which may show text, or signatures (0400)."""
    group = tag >> 16
    return group & 0xFF00 in (0x5000, 0x6000) or group == 0x0400 or tag == 0xFFFCFFFC


@cache
def _folded(entries: frozenset[str]) -> frozenset[str]:
    return frozenset(entry.casefold() for entry in entries)


@cache
def _table() -> Mapping[int, str]:
    """Return the actions of the basic profile by tag, as in Table E.1-1."""
    from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector

    found: dict[int, str] = {}
    for name, tags in dicom_anonymization_database_selector(EDITION).items():
        if name != "ALL_TAGS":
            action = name.removesuffix("_TAGS").replace("_STAR", "").replace("_", "/")
            found.update({tag[0] << 16 | tag[1]: action for tag in tags if len(tag) == 2})
    return found
