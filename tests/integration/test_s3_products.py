"""Products on S3 in all layouts, found by URL or name: the same product as in the directory."""

import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kappamask_stream.errors import KappaMaskError, ProductError, StoreError, UsageError
from kappamask_stream.manifest import verify
from kappamask_stream.product import Product, open_product
from kappamask_stream.s3 import CDSE, S3Options, Stores
from kappamask_stream.sources import DirectorySource
from kappamask_stream.sources.aws import AwsBuckets
from kappamask_stream.sources.locate import open_source
from tests.integration.faulty_s3 import FaultyS3
from tests.integration.s3_servers import MotoStore
from tests.unit.safe_product import SafeProduct

pytestmark = pytest.mark.usefixtures("aws_environment")

TILE = "tiles/29/U/NU/2022/10/5/0"
BUCKETS = AwsBuckets(l1c="our-l1c", l2a="our-l2a")


@pytest.fixture
async def stores(moto_store: MotoStore) -> AsyncIterator[Stores]:
    async with Stores(S3Options(endpoint_url=moto_store.endpoint)) as running:
        yield running


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def aws_layout(made: SafeProduct, root: Path) -> dict[str, bytes]:
    """Lay a SAFE product out as AWS does; by hand, from its documentation, and with files that nobody needs."""
    product = f"products/2022/10/5/{made.name}"
    objects = {
        f"{product}/metadata.xml": (root / made.product_xml_name).read_bytes(),
        f"{product}/manifest.safe": (root / "manifest.safe").read_bytes(),
        f"{product}/inspire.xml": b"<x/>",
        f"{product}/datastrip/0/metadata.xml": b"<not the product's/>",
        f"{product}/productInfo.json": json.dumps(
            {"name": made.name, "path": product, "tiles": [{"path": TILE, "utmZone": 29}]}
        ).encode(),
        f"{TILE}/metadata.xml": (root / made.granule / "MTD_TL.xml").read_bytes(),
        f"{TILE}/tileInfo.json": json.dumps({"path": TILE, "productName": made.name, "productPath": product}).encode(),
        f"{TILE}/preview.jp2": b"preview",
        f"{TILE}/preview/B02.jp2": b"preview",
        f"{TILE}/qi/MSK_CLOUDS_B00.gml": b"<x/>",
        f"{TILE}/auxiliary/ECMWFT": b"grib",
    }
    for path in made.images:
        folder, _, stem = path.rpartition("/")
        band = stem.split("_")[2]
        resolution = f"{folder.rpartition('/')[2]}/" if made.level == "L2A" else ""
        objects[f"{TILE}/{resolution}{band}.jp2"] = (root / f"{path}.jp2").read_bytes()
    return objects


async def same(where: str, stores: Stores, root: Path, **rest: object) -> Product:
    """Check that a product is the one of a directory, by metadata and by the bytes of every band."""
    source = await open_source(where, stores=stores, **rest)  # type: ignore[arg-type]
    found, wanted = await open_product(source), await open_product(DirectorySource(root))
    for name in ("name", "level", "baseline", "tile_id", "sensing_time", "epsg", "ulx", "uly", "offsets"):
        assert getattr(found, name) == getattr(wanted, name), name
    assert found.metadata_sha256 == wanted.metadata_sha256
    assert found.files == wanted.files
    for band, gsd_m in wanted.files:
        path = found.band_path(band, gsd_m)
        assert await found.source.read_all(path, limit=1000) == (root / wanted.band_path(band, gsd_m)).read_bytes()
    assert not found.notes
    return found


@pytest.mark.parametrize("end", ["", "/", "/manifest.safe", "/MTD_MSIL2A.xml"])
async def test_a_safe_prefix(end: str, moto_store: MotoStore, stores: Stores, tmp_path: Path) -> None:
    root = SafeProduct().write(tmp_path)
    moto_store.fill("safe", {f"a/{root.name}/{path}": data for path, data in files_of(root).items()})
    await same(f"s3://safe/a/{root.name}{end}", stores, root)


@pytest.mark.parametrize("level", ["L1C", "L2A"])
@pytest.mark.parametrize("where", [TILE, f"{TILE}/", f"{TILE}/tileInfo.json", "product", "name"])
async def test_awss_layout(level: str, where: str, moto_store: MotoStore, stores: Stores, tmp_path: Path) -> None:
    made = SafeProduct(level=level)
    root = made.write(tmp_path)
    bucket = BUCKETS.of(level)
    moto_store.fill(bucket, aws_layout(made, root))
    if where == "name":
        found = await same(made.name, stores, root, source="aws", buckets=BUCKETS)
    else:
        key = f"products/2022/10/5/{made.name}/" if where == "product" else where
        found = await same(f"s3://{bucket}/{key}", stores, root)
    assert (await verify(found.source)).remarks  # remarks on what AWS does not keep; what it keeps is right


async def test_awss_l1c_is_paid_for_and_l2a_is_not(tmp_path: Path) -> None:
    for level, payer in (("L1C", "requester"), ("L2A", None)):
        made = SafeProduct(level=level)
        objects = aws_layout(made, made.write(tmp_path / level))
        with FaultyS3({f"{BUCKETS.of(level)}/{key}": data for key, data in objects.items()}) as store:
            async with Stores(S3Options(endpoint_url=store.endpoint)) as stores:
                await open_product(await open_source(made.name, stores=stores, source="aws", buckets=BUCKETS))
            assert {request.headers.get("x-amz-request-payer") for request in store.requests} == {payer}


@pytest.mark.parametrize(
    ("key", "content", "message"),
    [
        (f"{TILE}/tileInfo.json", b"{", r"tileInfo\.json is no JSON"),
        (f"{TILE}/tileInfo.json", b"[]", r"holds no JSON object"),
        (f"{TILE}/tileInfo.json", b"{}", r"names no product \(productName, productPath\)"),
        (f"{TILE}/tileInfo.json", b'{"productName": "S2A_OPER_PRD_MSIL1C_PDMC_20160103T220500_R021_V20160103", "productPath": "x"}', r"before December 2016"),
        (f"{TILE}/tileInfo.json", b'{"productName": "S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454", "productPath": "../x"}', r"productPath is '\.\./x'"),
        (f"{TILE}/metadata.xml", None, r"no tile in the layout of AWS"),
        ("product", None, r"it has the offsets"),
    ],
)  # fmt: skip
async def test_damaged_awss_layouts_are_named(key: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    made = SafeProduct()
    objects = aws_layout(made, made.write(tmp_path))
    key = f"products/2022/10/5/{made.name}/metadata.xml" if key == "product" else key
    del objects[key]
    objects |= {} if content is None else {key: content}
    with FaultyS3({f"bucket/{name}": data for name, data in objects.items()}) as store:
        async with Stores(S3Options(endpoint_url=store.endpoint)) as stores:
            source = await open_source(f"s3://bucket/{TILE}", stores=stores)
            with pytest.raises(ProductError, match=message):
                await source.files()


@pytest.mark.parametrize("folder", ["L2A", "L2A_N0500"])
async def test_cdse_by_name(folder: str, moto_store: MotoStore, stores: Stores, tmp_path: Path) -> None:
    made = SafeProduct(tile_id="T30UNU" if folder == "L2A" else "T31UNU")
    root = made.write(tmp_path)
    prefix = f"Sentinel-2/MSI/{folder}/2022/10/05/{made.name}.SAFE"
    moto_store.fill("eodata", {f"{prefix}/{path}": data for path, data in files_of(root).items()})
    found = await same(made.name, stores, root, source="cdse")
    assert found.source.label == f"s3://eodata/{prefix}"


async def test_cdses_quota_holds_for_all_its_products() -> None:
    async with Stores(S3Options(profile="mine")) as stores:
        one, other = await stores.client(CDSE), await stores.client(CDSE)
        assert one is other
        limits = one._session.limits
        assert (limits.connections, limits.requests_per_minute) == (4, 2000)
        assert (one.options.endpoint_url, one.options.profile) == (CDSE.endpoint_url, "mine")
        paying = await stores.client(S3Options(requester_pays=True))
        assert paying is not await stores.client()
        assert paying._session.limits is (await stores.client())._session.limits
        assert paying._session.limits is not limits
    async with Stores(S3Options(endpoint_url=f"{CDSE.endpoint_url}/", max_connections=2)) as stores:
        limits = (await stores.client())._session.limits
        assert (limits.connections, limits.requests_per_minute) == (2, 2000)


@pytest.mark.parametrize("said_in", ["variable", "variable of S3", "profile", "services"])
async def test_cdses_quota_holds_wherever_its_endpoint_is_said(
    said_in: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    line = f"endpoint_url = {CDSE.endpoint_url}/\n"
    config.write_text({
        "profile": f"[default]\n{line}",
        "services": f"[default]\nservices = esa\n[services esa]\ns3 =\n  {line}",
    }.get(said_in, ""))  # fmt: skip
    if said_in.startswith("variable"):
        monkeypatch.setenv("AWS_ENDPOINT_URL" + ("_S3" if "S3" in said_in else ""), CDSE.endpoint_url or "")
    async with Stores() as stores:
        client = await stores.client()
        limits = client._session.limits
        assert (limits.connections, limits.requests_per_minute) == (4, 2000)
        assert limits is (await stores.client(CDSE))._session.limits
        assert client.options.region == "default"


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("https://user:hunter2@x.example/X.zip?X-Amz-Signature=hunter2", None),
        ("ftp://user:hunter2@x.example/item.json", None),
        ("https://user:hunter2@[bad/item.json?sig=hunter2", None),
        ("https://user:hunter2@127.0.0.1:99999/item.json?sig=hunter2", None),
        ("s3://user:hunter2@bucket/X.zip", None),
        (SafeProduct().name, "https://user:hunter2@x.example/products?sig=hunter2"),
    ],
)
async def test_passwords_are_not_repeated(where: str, source: str | None) -> None:
    async with Stores() as stores:
        with pytest.raises(KappaMaskError) as caught:
            await open_source(where, stores=stores, source=source)
    assert "hunter2" not in str(caught.value)


async def test_a_profile_that_is_none_is_said_at_the_first_request() -> None:
    async with Stores(S3Options(profile="none")) as stores:
        client = await stores.client()
        with pytest.raises(StoreError, match="none"):
            await client.head("bucket", "key")


async def test_a_name_is_looked_for_in_a_prefix_and_in_a_folder(
    moto_store: MotoStore, stores: Stores, tmp_path: Path
) -> None:
    made = SafeProduct()
    root = made.write(tmp_path)
    moto_store.fill("named", {f"in/{root.name}/{path}": data for path, data in files_of(root).items()})
    moto_store.fill("named", {"other/x": b"x"})
    for name in (made.name, f"{made.name}.SAFE", made.name.lower()):
        await same(name, stores, root, source="s3://named/in/")
        await same(name, stores, root, source=str(tmp_path))
    with pytest.raises(ProductError, match=rf"s3://named/other/ holds no {made.name}: looked for {made.name}\.SAFE, "):
        await open_source(made.name, stores=stores, source="s3://named/other")


#: Of no product that another test writes.
NAME = SafeProduct(tile_id="T32UNU").name


@pytest.mark.parametrize(
    ("where", "source", "kind", "message"),
    [
        (NAME, None, UsageError, r"is a product's name: say where it is with --source aws, --source cdse or"),
        (NAME, "ftp://host/x", UsageError, r"--source is 'ftp://host/x': aws, cdse, a folder or s3://"),
        (NAME, "no-such-folder", UsageError, r"--source no-such-folder is no folder"),
        (NAME, ".", ProductError, rf"\. holds no {NAME}: looked for {NAME}\.SAFE"),
        (NAME, "aws", ProductError, rf"s3://our-l2a has no {NAME}: there is no products/2022/10/5/{NAME}/productInfo"),
        (NAME, "cdse", ProductError, rf"CDSE has no {NAME}: nothing lies under s3://eodata/Sentinel-2/MSI/L2A/2022/10/05/"),
        ("s3://bucket", None, UsageError, r"names a whole bucket"),
        ("s3://", None, UsageError, r"is no S3 URL"),
        ("gs://bucket/x", None, UsageError, r"gs:// is not read"),
        ("https://host/x.zip", None, UsageError, r"archives are read from this machine and from s3://"),
    ],
)  # fmt: skip
async def test_what_is_nowhere_is_said(
    where: str,
    source: str | None,
    kind: type[KappaMaskError],
    message: str,
    moto_store: MotoStore,
    stores: Stores,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for bucket in ("our-l2a", "eodata"):
        moto_store.fill(bucket, {"there": b"x"})
    with pytest.raises(kind, match=message):
        await open_source(where, stores=stores, source=source, buckets=BUCKETS)


@pytest.mark.parametrize(
    ("where", "kind", "message"),
    [
        ("no/such/X.SAFE", ProductError, r"X\.SAFE does not exist"),
        ("s3://there/no/X.SAFE/", ProductError, r"s3://there/no/X\.SAFE/ does not exist: nothing lies under this prefix"),
        ("s3://absent-bucket/X.SAFE/", StoreError, r"there is no bucket absent-bucket"),
        ("s3://there/file/", ProductError, r"s3://there/file is no Sentinel-2 product"),
    ],
)  # fmt: skip
async def test_places_that_hold_no_product(
    where: str, kind: type[KappaMaskError], message: str, moto_store: MotoStore, stores: Stores
) -> None:
    moto_store.fill("there", {"file/x.txt": b"x"})
    source = await open_source(where, stores=stores)
    with pytest.raises(kind, match=message):
        await open_product(source)


@pytest.mark.parametrize("place", ["local", "s3", "name in a folder", "name in a prefix"])
@pytest.mark.parametrize("ending", [".zip", ".SAFE.zip"])
async def test_archives(place: str, ending: str, moto_store: MotoStore, stores: Stores, tmp_path: Path) -> None:
    made = SafeProduct()
    root = made.write(tmp_path / "unpacked")
    files = {f"{root.name}/{path}": data for path, data in files_of(root).items()}
    file = tmp_path / f"{made.name}{ending}"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    bucket = f"zips{ending.count('.')}"
    moto_store.fill(bucket, {f"in/{file.name}": file.read_bytes()})
    where, source = {
        "local": (str(file), None),
        "s3": (f"s3://{bucket}/in/{file.name}", None),
        "name in a folder": (made.name, str(tmp_path)),
        "name in a prefix": (made.name, f"s3://{bucket}/in"),
    }[place]
    await same(where, stores, root, source=source)


async def test_json_is_read_as_a_stac_item(stores: Stores, tmp_path: Path, moto_store: MotoStore) -> None:
    (tmp_path / "x.json").write_text('{"type": "FeatureCollection"}')
    moto_store.fill("items", {"x.json": b'{"type": "FeatureCollection"}'})
    for where in (str(tmp_path / "x.json"), "s3://items/x.json"):
        with pytest.raises(ProductError, match=r"x\.json.*FeatureCollection"):
            await open_source(where, stores=stores)
