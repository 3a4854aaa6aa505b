"""Small STAC Items for tests, with the fields that the catalogues publish; written here, not copied from them.

Fields and keys are those of
- Earth Search v1, collection ``sentinel-2-l2a``, e.g. ``S2A_39QTA_20230628_0_L2A``: colours as keys, ``-jp2`` beside
  them on ``s3://sentinel-s2-l2a``, ``grid:code`` without the zone's leading zero (``MGRS-9VWK``), ``proj:epsg``, ``proj:shape``, ``proj:transform`` of six numbers, ``raster:bands``
  with ``offset: -0.1`` even where ``earthsearch:boa_offset_applied`` is true, AOT, WVP and SCL at 20 m only,
  ``granule_metadata``, the product's name in ``s2:product_uri`` with ``.SAFE``;
- Copernicus Data Space (STAC 1.1), ``sentinel-2-l2a``, e.g. ``S2B_MSIL2A_20250302T095029_N0511_R079_T33UXP_...``: the
  product's name as id, keys ``B02_10m``, JPEG 2000 on ``s3://eodata``, ``file:size``, ``raster:scale`` and
  ``raster:offset`` of the asset, ``proj:code``, ``processing:version``, ``product_metadata`` and ``granule_metadata``;
- Planetary Computer, ``sentinel-2-l2a``, e.g. ``S2B_MSIL2A_20230524T084609_R107_T48XVR_20230524T120352``: the name
  without baseline as id, keys ``B02``, COG, ``product-metadata``, no raster extension, ``s2:mgrs_tile``;
- stactools-sentinel2, e.g. ``S2A_T34LBQ_20220401T090142_L2A`` (also what AWS's buckets carry): keys ``red`` and
  ``red_20m``, links relative to the Item such as ``./R10m/B04.jp2``.
"""

from __future__ import annotations

from typing import Any

NAME = "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454"
BAND_KEYS = {
    "coastal": ("B01", 60), "blue": ("B02", 10), "green": ("B03", 10), "red": ("B04", 10), "rededge1": ("B05", 20),
    "rededge2": ("B06", 20), "rededge3": ("B07", 20), "nir": ("B08", 10), "nir08": ("B8A", 20), "nir09": ("B09", 60),
    "swir16": ("B11", 20), "swir22": ("B12", 20), "aot": ("AOT", 20), "wvp": ("WVP", 20), "scl": ("SCL", 20),
}  # fmt: skip
ULX, ULY = 499980, 5900040


def earth_search(
    href: str = "https://cogs.example/29/U/NU/{band}.tif",
    *,
    name: str = NAME,
    side_10m: int = 10980,
    corner: tuple[float, float] = (ULX, ULY),
    epsg: int = 32629,
    properties: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return an Item as Earth Search publishes them; `properties` replaces some, None leaves them out."""
    assets: dict[str, Any] = {}
    for key, (band, gsd_m) in BAND_KEYS.items():
        raster = {"nodata": 0, "data_type": "uint16", "bits_per_sample": 15, "spatial_resolution": gsd_m}
        if band != "SCL":
            is_band = band.startswith("B")
            raster |= {"scale": 0.0001 if is_band else 0.001, "offset": -0.1 if is_band else 0}
        common = {
            "proj:shape": [side_10m * 10 // gsd_m] * 2,
            "proj:transform": [gsd_m, 0, corner[0], 0, -gsd_m, corner[1]],
            "raster:bands": [raster],
            "roles": ["data", "reflectance"],
        }
        assets[key] = {
            "href": href.format(band=band, gsd=gsd_m),
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            **common,
        }
        folder = f"s3://sentinel-s2-l2a/tiles/29/U/NU/2022/10/5/0/R{gsd_m}m"
        assets[f"{key}-jp2"] = {"href": f"{folder}/{band}.jp2", "type": "image/jp2", **common}
    assets["thumbnail"] = {"href": "https://cogs.example/29/U/NU/preview.jpg", "type": "image/jpeg"}
    assets["visual"] = {"href": "https://cogs.example/29/U/NU/TCI.tif", "type": "image/tiff", "proj:shape": [1, 1]}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "S2A_29UNU_20221005_0_L2A",
        "properties": {
            "datetime": "2022-10-05T11:56:49.581000Z",
            "platform": "sentinel-2a",
            "proj:epsg": epsg,
            "grid:code": f"MGRS-{name.split('_')[5][1:].lstrip('0')}",
            "s2:product_uri": f"{name}.SAFE",
            "s2:processing_baseline": f"{name.split('_')[3][1:3]}.{name.split('_')[3][3:]}",
            "earthsearch:boa_offset_applied": True,
            **(properties or {}),
        },
        "links": [{"rel": "self", "href": "https://stac.example/v1/collections/sentinel-2-l2a/items/S2A_29UNU"}],
        "assets": assets,
    }


def data_space(name: str = NAME, **properties: Any) -> dict[str, Any]:
    """Return an Item as the Copernicus Data Space publishes them."""
    safe = f"s3://eodata/Sentinel-2/MSI/L2A/2022/10/05/{name}.SAFE"
    images = f"{safe}/GRANULE/L2A_T29UNU_A038058_20221005T115407/IMG_DATA"
    assets: dict[str, Any] = {
        f"{band}_{gsd_m}m": {
            "href": f"{images}/R{gsd_m}m/T29UNU_20221005T115411_{band}_{gsd_m}m.jp2",
            "type": "image/jp2",
            "gsd": gsd_m,
            "file:size": 1000 + gsd_m,
            "nodata": 0,
            "data_type": "uint16",
            "proj:code": "EPSG:32629",
            "proj:shape": [109800 // gsd_m] * 2,
            "proj:transform": [gsd_m, 0, ULX, 0, -gsd_m, ULY, 0, 0, 1],
            "raster:scale": 0.0001 if band.startswith("B") else 0.001,
            "raster:offset": -0.1 if band.startswith("B") else 0,
        }
        for band, gsd_m in [("B02", 10), ("B02", 20), ("AOT", 10), ("WVP", 10), ("B05", 20), ("B01", 60)]
    }
    assets["product_metadata"] = {"href": f"{safe}/MTD_MSIL2A.xml", "type": "application/xml"}
    assets["granule_metadata"] = {"href": f"{safe}/GRANULE/x/MTD_TL.xml", "type": "application/xml"}
    assets["Product"] = {"href": "https://download.example/odata/v1/Products(1)/$value", "type": "application/zip"}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "properties": {"grid:code": "MGRS-29UNU", "processing:version": "04.00", **properties},
        "assets": assets,
    }


def planetary_computer() -> dict[str, Any]:
    """Return an Item as Planetary Computer publishes them, signed."""
    name = "S2A_MSIL2A_20221005T115411_R023_T29UNU_20221006T010203"
    root = f"https://blobs.example/sentinel2-l2/29/U/NU/2022/10/05/{name}.SAFE"
    assets: dict[str, Any] = {
        band: {
            "href": f"{root}/GRANULE/x/IMG_DATA/R{gsd_m}m/T29UNU_20221005T115411_{band}_{gsd_m}m.tif?sig=S%2Bx&se=1",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "gsd": gsd_m,
            "proj:bbox": [ULX, ULY - 109800, ULX + 109800, ULY],
            "proj:shape": [109800 // gsd_m] * 2,
            "proj:transform": [gsd_m, 0, ULX, 0, -gsd_m, ULY],
        }
        for band, gsd_m in [("B02", 10), ("AOT", 10), ("B8A", 20), ("B09", 60)]
    }
    assets["product-metadata"] = {"href": f"{root}/MTD_MSIL2A.xml?sig=S%2Bx", "type": "application/xml"}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "properties": {"proj:epsg": 32629, "s2:mgrs_tile": "29UNU", "s2:processing_baseline": "04.00"},
        "assets": assets,
    }


def stactools() -> dict[str, Any]:
    """Return an Item as stactools-sentinel2 makes them, beside its files."""
    raster = {"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}
    assets: dict[str, Any] = {
        key: {
            "href": f"./R{gsd_m}m/{band}.jp2",
            "type": "image/jp2",
            "proj:bbox": [ULX, ULY - 109800, ULX + 109800, ULY],
            "proj:shape": [109800 // gsd_m] * 2,
            "raster:bands": [{**raster, "spatial_resolution": gsd_m}],
        }
        for key, band, gsd_m in [("red", "B04", 10), ("red_20m", "B04", 20), ("aot_10m", "AOT", 10), ("wvp", "WVP", 20)]
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "S2A_T29UNU_20221005T115411_L2A",
        "properties": {
            "proj:epsg": 32629,
            "mgrs:utm_zone": 29,
            "s2:product_uri": f"{NAME}.SAFE",
            "s2:processing_baseline": "04.00",
        },
        "assets": assets,
    }
