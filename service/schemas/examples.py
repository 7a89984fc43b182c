"""Example values for the OpenAPI document; they work when sent to a service that runs the bundled model."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

# A rendered scene of the bundled world, as base64 WebP.
SAMPLE_IMAGE = (
    "UklGRmoBAABXRUJQVlA4IF4BAAAQCACdASogACAAPm0ukkakIqGhMBgIAIANiWwAw5SAc1sAB/pOoz59L2Vf2WfuyQB15M1H0MBu"
    "f4vP4jHJBCHf9i3ddGsCzbMgAP7/ZKD/RC377xKjDizGZKEJTokDx2io0sb5E898gGwm4ozWCG+oe0oCTf0bfofEGV6i0vAfBaiV"
    "LfvdlA5zP0qJs+drbi1WxIZxBx9KBFHnOPQqn32JkQt/rbrBJi3ngh632WDc5Lja+OnQemWSpgUkeodgjKRnPr4ziTCieile0O2H"
    "5FjakW2h4leBkOda7BHpd7V/EFRSWafSi4RFg/hz/2vd4doJEZPUQZGE9E5B8yIryGaCE8MZsL83h18+56ePzifKGe1suqK94Lne"
    "ypVKM9eZuMMov7MfTC/XoRFeg7bYG5XHYzrr6ayPOqLBLksCXtOzjHWQNnFHBTM9ZvCSNd82qroPTDtViVBNyF0LEAAAAA=="
)

VECTOR_ID = "01K9Z4T0XJ4V6W8M2Q5R7S9A1B"
_SHA256 = "4f5c1f7a9b0e2d3c6a8b7c9d0e1f2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b"
NAMED_EXAMPLE = {"id": VECTOR_ID, "name": "colour-codes", "version": 1, "sha256": _SHA256}


def examples(*values: dict[str, Any]) -> ConfigDict:
    """Return a `model_config` with these examples."""
    return ConfigDict(json_schema_extra={"examples": list(values)})
