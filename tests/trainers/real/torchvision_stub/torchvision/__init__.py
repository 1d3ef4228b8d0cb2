"""Stands in for torchvision, whose builds fit one build of torch each: Ultralytics' tests put this folder on PYTHONPATH.

Ultralytics wants the package to be installed, and takes one function of it, for its validation. What these tests show
is shown with this stand-in, and not with torchvision itself.
"""

from __future__ import annotations

from torchvision import ops

__all__ = ["ops"]

__version__ = "0.28.0"
