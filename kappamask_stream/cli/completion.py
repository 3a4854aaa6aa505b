"""What a shell offers for the values of options. Quick, and silent when something cannot be looked at."""

from __future__ import annotations

from contextlib import suppress

_CLASSES = ("CLEAR", "CLOUD_SHADOW", "SEMI_TRANSPARENT_CLOUD", "CLOUD")
_HALF_PRECISIONS = ("bf16", "fp16")


def complete_models(incomplete: str) -> list[str]:
    """Offer the two families and every model that can be served, known or in the local server's repository."""
    return _beginning(["kappamask", "csmask", *_served()], incomplete)


def complete_served(incomplete: str) -> list[str]:
    """Offer models by their full names."""
    return _beginning(_served(), incomplete)


def complete_published(incomplete: str) -> list[str]:
    """Offer the models that weights are published for."""
    from kappamask_stream.weights import PUBLISHED

    return _beginning([*PUBLISHED, "all"], incomplete)


def complete_sources(incomplete: str) -> list[str]:
    """Offer the archives that are known by name; a shell completes folders itself."""
    return _beginning(["aws", "cdse"], incomplete)


def complete_classes(incomplete: str) -> list[str]:
    """Offer the classes that can be grown."""
    return _beginning([f"{name}=" for name in _CLASSES], incomplete)


def _served() -> list[str]:
    from kappamask_stream.errors import KappaMaskError
    from kappamask_stream.server import ServerEnvironment
    from kappamask_stream.settings import load_settings
    from kappamask_stream.weights import PUBLISHED

    known = ["csmask_l1c", "csmask_l1c_reduced", "csmask_l2a", *PUBLISHED]
    known += [f"{name}_{precision}" for name in PUBLISHED for precision in _HALF_PRECISIONS]
    with suppress(OSError, KappaMaskError):  # a configuration that is wrong is a command's to report
        repository = ServerEnvironment.at(load_settings().server_env).repository
        known += sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    return list(dict.fromkeys(known))


def _beginning(values: list[str], incomplete: str) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]
