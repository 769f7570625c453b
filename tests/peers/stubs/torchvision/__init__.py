"""Names that are imported and not called where only texts are served: any module, any name."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


class _AnyName(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class _Stub(metaclass=_AnyName):
    def __init__(self, *_, **__):
        raise NotImplementedError("pictures are not served here")


class _Finder:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.startswith("torchvision.") else None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        module.__path__ = []


class _Module(ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Stub


sys.meta_path.append(_Finder())
__version__ = "0.28.0"


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Stub
