"""The XML of a synthetic product: MTD_MSI*.xml, MTD_TL.xml. Element names and nesting follow ESA's (PSD-14)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kappamask_stream.synth.identity import (
    BASELINE,
    RELATIVE_ORBIT,
    RESOLUTIONS,
    SATELLITE,
    compact,
    utc,
)
from kappamask_stream.synth.scene import ATMOSPHERE_QUANTIFICATION, DN_SHIFT, QUANTIFICATION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kappamask_stream.synth.identity import Identity

#: Native resolution (m) and shortest, longest and central wavelength (nm) of Sentinel-2A's bands.
_BANDS = (
    ("B1", 60, 412, 456, 442.7),
    ("B2", 10, 456, 533, 492.7),
    ("B3", 10, 538, 583, 559.8),
    ("B4", 10, 646, 684, 664.6),
    ("B5", 20, 695, 714, 704.1),
    ("B6", 20, 731, 749, 740.5),
    ("B7", 20, 769, 797, 782.8),
    ("B8", 10, 760, 907, 832.8),
    ("B8A", 20, 837, 881, 864.7),
    ("B9", 60, 932, 958, 945.1),
    ("B10", 60, 1337, 1412, 1373.5),
    ("B11", 20, 1539, 1682, 1613.7),
    ("B12", 20, 2078, 2320, 2202.4),
)

#: Sen2Cor's classes: text in the product's metadata by value.
_SCL_NAMES = (
    "NODATA", "SATURATED_DEFECTIVE", "DARK_FEATURE_SHADOW", "CLOUD_SHADOW", "VEGETATION", "NOT_VEGETATED", "WATER",
    "UNCLASSIFIED", "CLOUD_MEDIUM_PROBA", "CLOUD_HIGH_PROBA", "THIN_CIRRUS", "SNOW_ICE",
)  # fmt: skip

#: Shares of the scene in the tile's metadata by SCL value, in percent of the pixels with data.
_SCL_SHARES = {
    2: "DARK_FEATURES_PERCENTAGE",
    3: "CLOUD_SHADOW_PERCENTAGE",
    4: "VEGETATION_PERCENTAGE",
    5: "NOT_VEGETATED_PERCENTAGE",
    6: "WATER_PERCENTAGE",
    7: "UNCLASSIFIED_PERCENTAGE",
    8: "MEDIUM_PROBA_CLOUDS_PERCENTAGE",
    9: "HIGH_PROBA_CLOUDS_PERCENTAGE",
    10: "THIN_CIRRUS_PERCENTAGE",
    11: "SNOW_ICE_PERCENTAGE",
}


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the pixels turned out to be.

    Attributes
    ----------
    nodata_share : of all pixels, 0 .. 1.
    cloud_share : cumulus and cirrus, of the pixels with data, 0 .. 1.
    scl_shares : SCL value -> share of the pixels with data; empty for L1C.
    """

    nodata_share: float
    cloud_share: float
    scl_shares: Mapping[int, float]


def notice(identity: Identity) -> str:
    """Return the XML comment that says what the product is."""
    return (
        "<!-- SYNTHETIC: made by `kappamask-stream synth`; no satellite saw this. "
        f"Level {identity.level}, size {identity.size} x {identity.size} at 10 m, seed {identity.seed}. -->"
    )


def product_metadata(identity: Identity, images: Iterable[str], content: Content) -> str:
    """Return MTD_MSIL1C.xml or MTD_MSIL2A.xml; `images` are paths inside the product without ``.jp2``."""
    level, digits = identity.level, identity.level[1:]
    files = _lines(f"            <IMAGE_FILE>{path}</IMAGE_FILE>" for path in images)
    corners = [*identity.footprint, identity.footprint[0]]
    positions = " ".join(f"{latitude:.9f} {longitude:.9f}" for latitude, longitude in corners)
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
{notice(identity)}
<n1:Level-{digits}_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-{digits}.xsd">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>{utc(identity.sensing)}</PRODUCT_START_TIME>
      <PRODUCT_STOP_TIME>{utc(identity.sensing)}</PRODUCT_STOP_TIME>
      <PRODUCT_URI>{identity.product}.SAFE</PRODUCT_URI>
      <PROCESSING_LEVEL>Level-{digits}</PROCESSING_LEVEL>
      <PRODUCT_TYPE>S2MSI{digits}</PRODUCT_TYPE>
      <PROCESSING_BASELINE>{BASELINE}</PROCESSING_BASELINE>
      <GENERATION_TIME>{utc(identity.created)}</GENERATION_TIME>
      <PREVIEW_IMAGE_URL>Not applicable</PREVIEW_IMAGE_URL>
      <PREVIEW_GEO_INFO>Not applicable</PREVIEW_GEO_INFO>
      <Datatake datatakeIdentifier="{_datatake(identity)}">
        <SPACECRAFT_NAME>Sentinel-{SATELLITE[1:]}</SPACECRAFT_NAME>
        <DATATAKE_TYPE>INS-NOBS</DATATAKE_TYPE>
        <DATATAKE_SENSING_START>{utc(identity.sensing)}</DATATAKE_SENSING_START>
        <SENSING_ORBIT_NUMBER>{RELATIVE_ORBIT}</SENSING_ORBIT_NUMBER>
        <SENSING_ORBIT_DIRECTION>DESCENDING</SENSING_ORBIT_DIRECTION>
      </Datatake>
      <Query_Options completeSingleTile="true">
        <PRODUCT_FORMAT>SAFE_COMPACT</PRODUCT_FORMAT>
      </Query_Options>
      <Product_Organisation>
        <Granule_List>
          <Granule datastripIdentifier="{_identifier(identity, level, "DS")}" \
granuleIdentifier="{_identifier(identity, level, "TL")}" imageFormat="JPEG2000">
{files}
          </Granule>
        </Granule_List>
      </Product_Organisation>
    </Product_Info>
    <Product_Image_Characteristics>
      <Special_Values>
        <SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT>
        <SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX>
      </Special_Values>
      <Special_Values>
        <SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT>
        <SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX>
      </Special_Values>
      <Image_Display_Order>
        <RED_CHANNEL>3</RED_CHANNEL>
        <GREEN_CHANNEL>2</GREEN_CHANNEL>
        <BLUE_CHANNEL>1</BLUE_CHANNEL>
      </Image_Display_Order>
{_radiometry(level)}
      <Spectral_Information_List>
{_lines(map(_spectral_information, range(len(_BANDS))))}
      </Spectral_Information_List>
{_scene_classification_list(level)}
    </Product_Image_Characteristics>
  </n1:General_Info>
  <n1:Geometric_Info>
    <Product_Footprint>
      <Product_Footprint>
        <Global_Footprint>
          <EXT_POS_LIST>{positions}</EXT_POS_LIST>
        </Global_Footprint>
      </Product_Footprint>
      <RASTER_CS_TYPE>POINT</RASTER_CS_TYPE>
      <PIXEL_ORIGIN>1</PIXEL_ORIGIN>
    </Product_Footprint>
    <Coordinate_Reference_System>
      <GEO_TABLES version="1">EPSG</GEO_TABLES>
      <HORIZONTAL_CS_TYPE>GEOGRAPHIC</HORIZONTAL_CS_TYPE>
    </Coordinate_Reference_System>
  </n1:Geometric_Info>
  <n1:Quality_Indicators_Info>
    <Cloud_Coverage_Assessment>{100 * content.cloud_share:.6f}</Cloud_Coverage_Assessment>
    <Technical_Quality_Assessment>
      <DEGRADED_ANC_DATA_PERCENTAGE>0.0</DEGRADED_ANC_DATA_PERCENTAGE>
      <DEGRADED_MSI_DATA_PERCENTAGE>0</DEGRADED_MSI_DATA_PERCENTAGE>
    </Technical_Quality_Assessment>
  </n1:Quality_Indicators_Info>
</n1:Level-{digits}_User_Product>
"""


def tile_metadata(identity: Identity, content: Content) -> str:
    """Return MTD_TL.xml: identifiers, grid, sun and viewing angles, what the tile shows."""
    digits = identity.level[1:]
    zenith, azimuth = identity.sun
    place = identity.place
    zone = f"{place.zone}{'N' if place.is_north else 'S'}"
    sizes = _lines(
        f"""      <Size resolution="{gsd}">
        <NROWS>{identity.size * 10 // gsd}</NROWS>
        <NCOLS>{identity.size * 10 // gsd}</NCOLS>
      </Size>"""
        for gsd in RESOLUTIONS
    )
    positions = _lines(
        f"""      <Geoposition resolution="{gsd}">
        <ULX>{place.ulx}</ULX>
        <ULY>{place.uly}</ULY>
        <XDIM>{gsd}</XDIM>
        <YDIM>-{gsd}</YDIM>
      </Geoposition>"""
        for gsd in RESOLUTIONS
    )
    viewing = _lines(
        f"""        <Mean_Viewing_Incidence_Angle bandId="{band}">
          <ZENITH_ANGLE unit="deg">0</ZENITH_ANGLE>
          <AZIMUTH_ANGLE unit="deg">0</AZIMUTH_ANGLE>
        </Mean_Viewing_Incidence_Angle>"""
        for band in range(len(_BANDS))
    )
    identifiers = [f'    <TILE_ID metadataLevel="Brief">{_identifier(identity, identity.level, "TL")}</TILE_ID>']
    if identity.level == "L2A":
        l1c = _identifier(identity, "L1C", "TL")
        identifiers.insert(0, f'    <L1C_TILE_ID metadataLevel="Brief">{l1c}</L1C_TILE_ID>')
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
{notice(identity)}
<n1:Level-{digits}_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/\
S2_PDI_Level-{digits}_Tile_Metadata.xsd">
  <n1:General_Info>
{_lines(identifiers)}
    <DATASTRIP_ID metadataLevel="Standard">{_identifier(identity, identity.level, "DS")}</DATASTRIP_ID>
    <DOWNLINK_PRIORITY metadataLevel="Standard">NOMINAL</DOWNLINK_PRIORITY>
    <SENSING_TIME metadataLevel="Standard">{utc(identity.sensing)}</SENSING_TIME>
    <Archiving_Info metadataLevel="Expertise">
      <ARCHIVING_CENTRE>SYNT</ARCHIVING_CENTRE>
      <ARCHIVING_TIME>{utc(identity.created)}</ARCHIVING_TIME>
    </Archiving_Info>
  </n1:General_Info>
  <n1:Geometric_Info>
    <Tile_Geocoding metadataLevel="Brief">
      <HORIZONTAL_CS_NAME>WGS84 / UTM zone {zone}</HORIZONTAL_CS_NAME>
      <HORIZONTAL_CS_CODE>EPSG:{place.epsg}</HORIZONTAL_CS_CODE>
{sizes}
{positions}
    </Tile_Geocoding>
    <Tile_Angles metadataLevel="Standard">
      <Mean_Sun_Angle>
        <ZENITH_ANGLE unit="deg">{zenith}</ZENITH_ANGLE>
        <AZIMUTH_ANGLE unit="deg">{azimuth}</AZIMUTH_ANGLE>
      </Mean_Sun_Angle>
      <Mean_Viewing_Incidence_Angle_List>
{viewing}
      </Mean_Viewing_Incidence_Angle_List>
    </Tile_Angles>
  </n1:Geometric_Info>
  <n1:Quality_Indicators_Info metadataLevel="Standard">
    <Image_Content_QI>
      <CLOUDY_PIXEL_PERCENTAGE>{100 * content.cloud_share:.6f}</CLOUDY_PIXEL_PERCENTAGE>
      <DEGRADED_MSI_DATA_PERCENTAGE>0</DEGRADED_MSI_DATA_PERCENTAGE>
{_image_content(identity.level, content)}
    </Image_Content_QI>
    <PVI_FILENAME>{identity.preview_path}.jp2</PVI_FILENAME>
  </n1:Quality_Indicators_Info>
</n1:Level-{digits}_Tile_ID>
"""


def _radiometry(level: str) -> str:
    offsets, scale = range(len(_BANDS)), f'<QUANTIFICATION_VALUE unit="none">{QUANTIFICATION}</QUANTIFICATION_VALUE>'
    if level == "L1C":
        listed = (f'        <RADIO_ADD_OFFSET band_id="{band}">-{DN_SHIFT}</RADIO_ADD_OFFSET>' for band in offsets)
        return f"""      {scale}
      <Radiometric_Offset_List>
{_lines(listed)}
      </Radiometric_Offset_List>"""
    listed = (f'        <BOA_ADD_OFFSET band_id="{band}">-{DN_SHIFT}</BOA_ADD_OFFSET>' for band in offsets)
    return f"""      <QUANTIFICATION_VALUES_LIST>
        <BOA_QUANTIFICATION_VALUE unit="none">{QUANTIFICATION}</BOA_QUANTIFICATION_VALUE>
        <AOT_QUANTIFICATION_VALUE unit="none">{ATMOSPHERE_QUANTIFICATION}.0</AOT_QUANTIFICATION_VALUE>
        <WVP_QUANTIFICATION_VALUE unit="cm">{ATMOSPHERE_QUANTIFICATION}.0</WVP_QUANTIFICATION_VALUE>
      </QUANTIFICATION_VALUES_LIST>
      <BOA_ADD_OFFSET_VALUES_LIST>
{_lines(listed)}
      </BOA_ADD_OFFSET_VALUES_LIST>"""


def _spectral_information(band: int) -> str:
    name, resolution, shortest, longest, central = _BANDS[band]
    return f"""        <Spectral_Information bandId="{band}" physicalBand="{name}">
          <RESOLUTION>{resolution}</RESOLUTION>
          <Wavelength>
            <MIN unit="nm">{shortest}</MIN>
            <MAX unit="nm">{longest}</MAX>
            <CENTRAL unit="nm">{central}</CENTRAL>
          </Wavelength>
        </Spectral_Information>"""


def _scene_classification_list(level: str) -> str:
    if level == "L1C":
        return ""
    entries = _lines(
        f"""        <Scene_Classification_ID>
          <SCENE_CLASSIFICATION_TEXT>SC_{name}</SCENE_CLASSIFICATION_TEXT>
          <SCENE_CLASSIFICATION_INDEX>{value}</SCENE_CLASSIFICATION_INDEX>
        </Scene_Classification_ID>"""
        for value, name in enumerate(_SCL_NAMES)
    )
    return f"      <Scene_Classification_List>\n{entries}\n      </Scene_Classification_List>"


def _image_content(level: str, content: Content) -> str:
    shares = {"NODATA_PIXEL_PERCENTAGE": content.nodata_share, "SATURATED_DEFECTIVE_PIXEL_PERCENTAGE": 0.0}
    if level == "L2A":
        shares |= {name: content.scl_shares.get(value, 0.0) for value, name in _SCL_SHARES.items()}
    return _lines(f"      <{name}>{100 * share:.6f}</{name}>" for name, share in shares.items())


def _identifier(identity: Identity, level: str, kind: str) -> str:
    """Return a datastrip's (DS) or tile's (TL) identifier; processing centre SYNT is none of ESA's."""
    stem = f"{SATELLITE}_OPER_MSI_{level}_{kind}_SYNT_{compact(identity.created)}"
    if kind == "DS":
        return f"{stem}_S{compact(identity.sensing)}_N{BASELINE}"
    return f"{stem}_A{identity.absolute_orbit:06d}_{identity.place.tile_id}_N{BASELINE}"


def _datatake(identity: Identity) -> str:
    return f"G{SATELLITE}_{compact(identity.sensing)}_{identity.absolute_orbit:06d}_N{BASELINE}"


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(parts)
