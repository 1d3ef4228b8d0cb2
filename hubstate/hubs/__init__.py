"""The hubs: which one answers to an address."""

from __future__ import annotations

from typing import Any

from hubstate.errors import UsageError
from hubstate.hubs.base import Hub
from hubstate.settings import Settings, for_hub

__all__ = ["open_hub"]


def open_hub(
    address: str,
    api_key: str | None,
    *,
    found: Settings | None = None,
    beside: bool = False,
    **options: Any,
) -> Hub:
    """The hub at `address`, by its scheme; `options` go to its class. No connection is opened yet.

    `found` and `beside` tell what of MLflow's variables holds for it, as in `settings.for_hub`: `beside` alone says that it
    is a hub which this user named. What a hub needs (`requests`, say) is imported here and not before. Raises `UsageError` for an address of a kind
    that is not known.
    """
    scheme = address.partition("://")[0].lower() if "://" in address else ""
    match scheme:
        case "http" | "https":
            from hubstate.hubs.hub_v1 import HubV1  # noqa: PLC0415 - loads requests

            return HubV1(address, api_key, **options)
        case "mlflow+http" | "mlflow+https":
            from hubstate.hubs.mlflow import MLflowHub  # noqa: PLC0415 - loads requests

            wanted = for_hub(address, found or Settings(), beside=beside).mlflow
            return MLflowHub(address, api_key, wanted=wanted, **options)
        case _:
            raise UsageError(
                f"no hub is known for the scheme {scheme!r}: an address must look like http://host:8765, "
                "https://host, or like mlflow+https://host"
            )
