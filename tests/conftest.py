"""What all tests share: no deadline for generated examples, since two test processes share two cores."""

from __future__ import annotations

from hypothesis import settings

from tests.support import torchvision_shim

torchvision_shim.activate()

settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")
