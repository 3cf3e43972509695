"""What the packages offer: each name is there, and once."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import pytest

import rtx

PACKAGES = ["rtx"] + [
    f"rtx.{found.name}" for found in pkgutil.iter_modules(rtx.__path__) if found.ispkg
]


@pytest.mark.parametrize("name", PACKAGES)
def test_all_that_is_exported_is_there_and_once(name: str) -> None:
    package = importlib.import_module(name)
    exported = getattr(package, "__all__", [])
    assert len(exported) == len(set(exported))
    assert [one for one in exported if not hasattr(package, one)] == []


def test_rtx_offers_no_name_that_it_does_not_export() -> None:
    public = {
        name
        for name, value in vars(rtx).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public | {"errors"} == set(rtx.__all__)
