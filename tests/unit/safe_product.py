"""A small SAFE product for tests: names, XML and manifest as ESA writes them, band files of a few bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

L1C_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
L2A_FILES = (
    *(f"R10m/{{}}_{band}_10m" for band in ("AOT", "B02", "B03", "B04", "B08", "TCI", "WVP")),
    *(f"R20m/{{}}_{band}_20m" for band in ("B02", "B05", "B06", "B07", "B8A", "B11", "B12", "SCL")),
    *(f"R60m/{{}}_{band}_60m" for band in ("B01", "B02", "B09")),
)


@dataclass(kw_only=True)
class SafeProduct:
    """What is written; change a field, or replace text of an XML file, before `write`."""

    level: str = "L2A"
    tile_id: str = "T29UNU"
    sensing_time: str = "20221005T115411"
    baseline: str = "04.00"
    offset: int | None = -1000
    replace: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return (
            f"S2A_MSI{self.level}_{self.sensing_time}_N{self.baseline.replace('.', '')}_R023_{self.tile_id}"
            "_20221005T164454"
        )

    @property
    def granule(self) -> str:
        return f"GRANULE/{self.level}_{self.tile_id}_A038058_20221005T115407"

    @property
    def images(self) -> list[str]:
        stem = f"{self.tile_id}_{self.sensing_time}"
        files = L2A_FILES if self.level == "L2A" else tuple(f"{{}}_{band}" for band in (*L1C_BANDS, "TCI"))
        return [f"{self.granule}/IMG_DATA/{file.format(stem)}" for file in files]

    @property
    def product_xml_name(self) -> str:
        return f"MTD_MSI{self.level}.xml"

    def product_xml(self) -> str:
        container, offset = {
            "L1C": ("Radiometric_Offset_List", "RADIO_ADD_OFFSET"),
            "L2A": ("BOA_ADD_OFFSET_VALUES_LIST", "BOA_ADD_OFFSET"),
        }[self.level]
        offsets = "".join(f'<{offset} band_id="{i}">{self.offset}</{offset}>' for i in range(13))
        quantification = {
            "L1C": '<QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE>',
            "L2A": '<QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>'
            '<AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE>'
            '<WVP_QUANTIFICATION_VALUE unit="cm">1000.0</WVP_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>',
        }[self.level]
        psd = f"https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-{self.level[1:]}.xsd"
        return self._replaced(f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-{self.level[1:]}_User_Product xmlns:n1="{psd}">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_URI>{self.name}.SAFE</PRODUCT_URI>
      <PROCESSING_LEVEL>Level-{self.level[1:]}</PROCESSING_LEVEL>
      <PROCESSING_BASELINE>{self.baseline}</PROCESSING_BASELINE>
      <GENERATION_TIME>2022-10-05T16:44:54.000000Z</GENERATION_TIME>
      <Datatake><SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
        <DATATAKE_SENSING_START>2022-10-05T11:54:11.024Z</DATATAKE_SENSING_START></Datatake>
      <Granule_List><Granule>{"".join(f"<IMAGE_FILE>{path}</IMAGE_FILE>" for path in self.images)}</Granule></Granule_List>
    </Product_Info>
    <Product_Image_Characteristics>
      {quantification}
      {f"<{container}>{offsets}</{container}>" if self.offset is not None else ""}
    </Product_Image_Characteristics>
  </n1:General_Info>
</n1:Level-{self.level[1:]}_User_Product>
""")

    def tile_xml(self) -> str:
        sizes = "".join(
            f'<Size resolution="{gsd}"><NROWS>{1200 // gsd}</NROWS><NCOLS>{2400 // gsd}</NCOLS></Size>'
            for gsd in (10, 20, 60)
        )
        places = "".join(
            f'<Geoposition resolution="{gsd}"><ULX>499980</ULX><ULY>5900040</ULY><XDIM>{gsd}</XDIM><YDIM>-{gsd}</YDIM>'
            "</Geoposition>"
            for gsd in (10, 20, 60)
        )
        psd = f"https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Level-{self.level[1:]}_Tile_Metadata.xsd"
        return self._replaced(f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-{self.level[1:]}_Tile_ID xmlns:n1="{psd}">
  <n1:General_Info>
    <TILE_ID>S2A_OPER_MSI_{self.level}_TL_ATOS_20221005T164454_A038058_{self.tile_id}_N{self.baseline}</TILE_ID>
    <SENSING_TIME>2022-10-05T11:56:49.581767Z</SENSING_TIME>
  </n1:General_Info>
  <n1:Geometric_Info>
    <Tile_Geocoding><HORIZONTAL_CS_CODE>EPSG:326{self.tile_id[1:3]}</HORIZONTAL_CS_CODE>{sizes}{places}</Tile_Geocoding>
    <Tile_Angles><Mean_Sun_Angle><ZENITH_ANGLE unit="deg">57.8</ZENITH_ANGLE>
      <AZIMUTH_ANGLE unit="deg">172.8</AZIMUTH_ANGLE></Mean_Sun_Angle></Tile_Angles>
  </n1:Geometric_Info>
</n1:Level-{self.level[1:]}_Tile_ID>
""")

    def write(self, folder: Path, *, checksum: str = "SHA3-256") -> Path:
        """Write the product into `folder` and return its directory."""
        root = folder / f"{self.name}.SAFE"
        files = {
            self.product_xml_name: self.product_xml().encode(),
            f"{self.granule}/MTD_TL.xml": self.tile_xml().encode(),
            "HTML/UserProduct_index.html": b"<html></html>",
            **{f"{path}.jp2": f"pixels of {path}".encode() for path in self.images},
        }
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        (root / "manifest.safe").write_text(manifest_xml(files, checksum))
        return root

    def _replaced(self, text: str) -> str:
        for old, new in self.replace.items():
            text = text.replace(old, new)
        return text


def manifest_xml(files: dict[str, bytes], checksum: str = "SHA3-256") -> str:
    """Write a manifest in ESA's layout."""
    algorithm = checksum.lower().replace("sha3-", "sha3_").replace("sha-", "sha")
    entries = "".join(
        f'<dataObject><byteStream mimeType="octet" size="{len(data)}"><fileLocation href="./{path}" locatorType="URL"/>'
        f'<checksum checksumName="{checksum}">{hashlib.new(algorithm, data).hexdigest().upper()}</checksum>'
        "</byteStream></dataObject>"
        for path, data in files.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1"><dataObjectSection>'
        f"{entries}</dataObjectSection></xfdu:XFDU>"
    )
