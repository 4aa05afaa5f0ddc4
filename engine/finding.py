"""One line of the doctor's report."""

from dataclasses import dataclass
from typing import Literal

State = Literal["fine", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """``advice`` says what to do unless all is fine."""

    what: str
    state: State
    found: str
    advice: str = ""
