"""manifest.safe: every file of the product with its size and checksum, as ESA's XFDU manifests have them."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from kappamask_stream.synth.identity import BASELINE, SATELLITE, utc
from kappamask_stream.synth.metadata import notice

if TYPE_CHECKING:
    from pathlib import Path

    from kappamask_stream.synth.identity import Identity

_CHUNK = 1 << 20


def manifest(identity: Identity, product: Path) -> str:
    """Return manifest.safe for the files that lie under `product`."""
    files = sorted(path for path in product.rglob("*") if path.is_file())
    relative = {path.relative_to(product).as_posix(): path for path in files}
    units = "\n".join(_content_unit(name) for name in relative)
    objects = "\n".join(_data_object(name, path) for name, path in relative.items())
    level, digits = identity.level.lower(), identity.level[1:]
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
{notice(identity)}
<xfdu:XFDU xmlns:xfdu="urn:ccsds:schema:xfdu:1" xmlns:safe="http://www.esa.int/safe/sentinel/1.1" \
version="esa/safe/sentinel/1.1/sentinel-2/msi/archive_{level}_user_product">
  <informationPackageMap>
    <xfdu:contentUnit dmdID="acquisitionPeriod platform" pdiID="processing" \
textInfo="SYNTHETIC SENTINEL-2 MSI Level-{digits} User Product" unitType="Product_Level-{digits}">
{units}
    </xfdu:contentUnit>
  </informationPackageMap>
  <metadataSection>
    <metadataObject ID="acquisitionPeriod" category="DMD" classification="DESCRIPTION">
      <metadataWrap mimeType="text/xml" textInfo="Acquisition Period" vocabularyName="SAFE">
        <xmlData>
          <safe:acquisitionPeriod>
            <safe:startTime>{utc(identity.sensing)}</safe:startTime>
          </safe:acquisitionPeriod>
        </xmlData>
      </metadataWrap>
    </metadataObject>
    <metadataObject ID="platform" category="DMD" classification="DESCRIPTION">
      <metadataWrap mimeType="text/xml" textInfo="Platform Description" vocabularyName="SAFE">
        <xmlData>
          <safe:platform>
            <safe:familyName>SENTINEL</safe:familyName>
            <safe:number>{SATELLITE[1:]}</safe:number>
          </safe:platform>
        </xmlData>
      </metadataWrap>
    </metadataObject>
    <metadataObject ID="processing" category="PDI" classification="PROVENANCE">
      <metadataWrap mimeType="text/xml" textInfo="Processing" vocabularyName="SAFE">
        <xmlData>
          <safe:processing name="Synthetic Level-{digits}" start="{utc(identity.created)}">
            <safe:facility name="synthetic">
              <safe:software name="kappamask-stream synth" version="{BASELINE}"/>
            </safe:facility>
          </safe:processing>
        </xmlData>
      </metadataWrap>
    </metadataObject>
  </metadataSection>
  <dataObjectSection>
{objects}
  </dataObjectSection>
</xfdu:XFDU>
"""


def _content_unit(name: str) -> str:
    unit = "Metadata Unit" if name.endswith(".xml") else "Measurement Data Unit"
    return f"""      <xfdu:contentUnit ID="{_identifier(name)}_Unit" unitType="{unit}">
        <dataObjectPointer dataObjectID="{_identifier(name)}"/>
      </xfdu:contentUnit>"""


def _data_object(name: str, path: Path) -> str:
    mime = "text/xml" if name.endswith(".xml") else "application/octet-stream"
    return f"""    <dataObject ID="{_identifier(name)}">
      <byteStream mimeType="{mime}" size="{path.stat().st_size}">
        <fileLocation href="./{name}" locatorType="URL"/>
        <checksum checksumName="SHA3-256">{_sha3_256(path)}</checksum>
      </byteStream>
    </dataObject>"""


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name.rsplit("/", 1)[-1].rsplit(".", 1)[0]) + "_Data"


def _sha3_256(path: Path) -> str:
    digest = hashlib.sha3_256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
