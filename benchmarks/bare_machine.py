"""Import this package where packages for reading media are not installed, for benchmarks that read none.

PyAV, Pillow, protobuf and prometheus_client are replaced by stand-ins, each only if it is missing. A stand-in can be
imported; using it raises an error, except that metrics of prometheus_client are not recorded.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

PROTO = "sentencepiece.sentencepiece_model_pb2"
"""Needs protobuf, and only exports tokenizers."""
MEDIA, METRICS = ("av", "PIL"), ("prometheus_client",)


class _Missing(type):
    """A class of a missing package. Its attributes are such classes, too."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _missing(f"{cls.__name__}.{name}")

    def __call__(cls, *_args: Any, **_kwargs: Any) -> Any:
        raise ModuleNotFoundError(f"{cls.__name__} was used, but its package is not installed.")


def _missing(name: str) -> Any:
    return _Missing(name, (Exception,), {})


class _Unrecorded:
    """A metric that does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_args: Any, **_kwargs: Any) -> _Unrecorded:
        return self


class _StandIn(ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unrecorded() if self.__name__.partition(".")[0] in METRICS else _missing(f"{self.__name__}.{name}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in self.packages:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def add_stand_ins() -> list[str]:
    """Make the missing packages importable and return their names."""
    missing = [name for name in (*MEDIA, *METRICS) if importlib.util.find_spec(name) is None]
    if missing:
        sys.meta_path.append(_Finder(missing))
    if importlib.util.find_spec("google") is None:
        sys.modules[PROTO] = _StandIn(PROTO)
        missing.append("protobuf")
    return missing
