import ctypes

import pytest

from engine.heap import give_back_freed


def test_freed_memory_goes_back_to_the_system() -> None:
    give_back_freed()


@pytest.mark.parametrize("library", [object(), OSError("no such library")])
def test_without_the_call_nothing_is_done(library: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: object) -> object:
        if isinstance(library, OSError):
            raise library
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    give_back_freed()
