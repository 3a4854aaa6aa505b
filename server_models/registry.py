"""Which models can be built, and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kappamask_stream.errors import UsageError
from server_models import csmask, kappamask, null_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kappamask_stream.contract import ModelContract


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model that can be built.

    Attributes
    ----------
    name : Triton model name.
    description : for people.
    needs_weights : True where a weights file must be given.
    make : writes the ONNX graph to a path, from a weights file (None where it comes with a package), and returns the
        contract.
    precision : ``f32``, ``bf16`` or ``fp16``.
    layout : gives the contract but for the weights' digest: bands, grid, classes; nothing is built.
    make_reference : writes the float32 graph that the model is checked against, where its own graph is not float32.
    """

    name: str
    description: str
    needs_weights: bool
    make: Callable[[Path, Path | None], ModelContract]
    layout: Callable[[], ModelContract]
    precision: str = "f32"
    make_reference: Callable[[Path, Path | None], object] | None = None

    def build(self, destination: Path, weights: Path | None) -> ModelContract:
        """Write the ONNX graph to `destination` and return the contract.

        Raises
        ------
        UsageError
            If weights are missing, or given where none are taken.
        InputError
            If the weights file is damaged or of another network.
        """
        if self.needs_weights and weights is None:
            raise UsageError(
                f"{self.name} needs KappaMask's weights: fetch them with `kappamask-stream models fetch {self.name}`, "
                "give a file that you have with --weights FILE, name a server that has them with --triton, or take "
                "--model csmask, whose weights come with the server's environment"
            )
        if weights is not None and not self.needs_weights:
            raise UsageError(f"{self.name} takes no weights file; its weights come with the server's environment")
        return self.make(destination, weights)


def known_models() -> dict[str, KnownModel]:
    """Return all models that can be built here, by name."""
    models = [
        KnownModel(
            name=f"csmask_{variant.lower()}",
            description=f"ukis-csmask (DLR) for {variant[:3]} at 20 m: clear, cloud, cloud shadow"
            + ("; reads 10 m files at half resolution" if variant.endswith("reduced") else ""),
            needs_weights=False,
            make=partial(_make_csmask, variant),
            layout=partial(csmask.contract, variant, ""),
        )
        for variant in csmask.VARIANTS
    ]
    models += [
        KnownModel(
            name=name,
            description="a threshold, for tests and benchmarks",
            needs_weights=False,
            make=partial(_make_null, name),
            layout=partial(null_model.contract, name),
        )
        for name in null_model.NAMES
    ]
    models += [
        KnownModel(
            name=name,
            description="KappaMask (KappaZeta) at 10 m: clear, cloud shadow, semi-transparent cloud, cloud",
            needs_weights=True,
            make=partial(_make_kappamask, name),
            layout=partial(kappamask.layout, name),
            precision=kappamask.precision_of(name),
            make_reference=partial(_make_kappamask, name.removesuffix("_fp16")) if name.endswith("_fp16") else None,
        )
        for name in kappamask.model_names()
    ]
    return {model.name: model for model in models}


def _make_csmask(variant: csmask.Variant, destination: Path, _: Path | None) -> ModelContract:
    return csmask.build(variant, destination)


def _make_null(name: str, destination: Path, _: Path | None) -> ModelContract:
    return null_model.build(name, destination)


def _make_kappamask(name: str, destination: Path, weights: Path | None) -> ModelContract:
    if weights is None:
        raise UsageError(f"{name} needs a weights file")
    return kappamask.build(name, weights, destination)


def find(name: str) -> KnownModel:
    """Return a model by name.

    Raises
    ------
    UsageError
        Listing the names there are.
    """
    models = known_models()
    if name not in models:
        raise UsageError(f"no model {name!r} can be built here; there are {', '.join(sorted(models))}")
    return models[name]
