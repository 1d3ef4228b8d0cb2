"""A trainer module loaded on top of a trainer that is made up: the module is the real one, and nothing is installed."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any
from unittest.mock import patch

import hubstate.trainers.quiet  # before the modules: what they share exists once

__all__ = ["load", "module"]


def module(name: str, **content: Any) -> ModuleType:
    """A module that holds just this."""
    made = ModuleType(name)
    vars(made).update(content)
    return made


def load(name: str, *made_up: ModuleType) -> ModuleType:
    """`hubstate.trainers.NAME`, to which the trainer consists of these modules. It is forgotten again by the import."""
    hidden = {f"hubstate.trainers.{name}": None, **{found.__name__: found for found in made_up}}
    with patch.dict(sys.modules, hidden):
        del sys.modules[f"hubstate.trainers.{name}"]
        found = import_module(f"hubstate.trainers.{name}")
    delattr(hubstate.trainers, name)
    return found
