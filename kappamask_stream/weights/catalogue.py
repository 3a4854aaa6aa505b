"""The weights that KappaZeta publishes: one Keras HDF5 file per level and network, for all precisions."""

from __future__ import annotations

from dataclasses import dataclass

#: Said wherever the files are fetched.
LICENCE = (
    "KappaZeta's weights: no licence is stated for them beyond the Apache-2.0 of the km_predict repository; "
    "kappamask-stream ships none of them"
)

_PRECISIONS = ("_bf16", "_fp16", "_f32")


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """One published file.

    Attributes
    ----------
    model : name of the float32 model that is built from it.
    file_name : in the publisher's folder and in the cache.
    earlier_sha256 : of an earlier revision, from the project's own records (FACTS.md section 1); None where unknown.
        The publisher gives no checksums and may have changed the file since, so a difference is worth a warning only.
    """

    model: str
    file_name: str
    earlier_sha256: str | None = None


#: All published files by model name.
PUBLISHED = {
    published.model: published
    for published in (
        PublishedWeights(
            model="kappamask_l1c_deeplabv3plus",
            file_name="l1c_deeplabv3plus.hdf5",
            earlier_sha256="c3105a569ed0d8ee0213db3a04dcf129ae27dac53b6c6381758a12dfa78f1a99",
        ),
        PublishedWeights(
            model="kappamask_l1c_unet",
            file_name="l1c_unet.hdf5",
            earlier_sha256="7455fdcb1587f0b65b28e9e6d39ab4af3168fd17824941cef2778ffa208c8409",
        ),
        PublishedWeights(model="kappamask_l2a_deeplabv3plus", file_name="l2a_deeplabv3plus.hdf5"),
        PublishedWeights(
            model="kappamask_l2a_unet",
            file_name="l2a_unet.hdf5",
            earlier_sha256="e932edfc8b0886c63baba30597cb04001748c930e4ea4893ea52a5f7728598e4",
        ),
    )
}


def of_model(name: str) -> PublishedWeights | None:
    """Return the file that a model of this name, of whatever precision, is built from; None where there is none."""
    for suffix in _PRECISIONS:
        name = name.removesuffix(suffix)
    return PUBLISHED.get(name)
