"""What an attack gave: how many tries ended how. Every attack prints such tables.

An attack is a module of this folder with `attacks(folder, tries)`, which gives one table after
another, and `TRIES`, how many there are of what is random if nobody says.
`python -m tests.attack NAME [TRIES]` prints the tables; `pytest -m slow tests/attack` asserts that
nothing ended in a way that is not allowed, and a part of seconds is in every test run.
"""

import random
import signal
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Outcomes of one attack.

    Attributes:
        attack: what was tried.
        allowed: outcomes that may be.
        outcomes: outcome -> how often.
        examples: outcome -> the first tries that ended so, to look into.
    """

    attack: str
    allowed: Collection[str]
    outcomes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, outcome: str, example: str = "") -> None:
        """Count one try."""
        self.outcomes[outcome] += 1
        if example and len(shown := self.examples.setdefault(outcome, [])) < 5:
            shown.append(example)

    def bad(self) -> dict[str, list[str]]:
        """Outcomes that must not be, with examples."""
        names = (name for name in self.outcomes if name not in self.allowed)
        return {name: self.examples.get(name, []) for name in names}

    def render(self) -> str:
        """The table: one line an outcome; below it, examples of what must not be."""
        lines = [f"{self.attack}: {self.outcomes.total():,} tries"]
        lines += [f"  {count:>9,}  {name}" for name, count in self.outcomes.most_common()]
        lines += [f"  NOT ALLOWED: {name}: {'; '.join(of)}" for name, of in self.bad().items()]
        return "\n".join(lines)

    def check(self) -> None:
        """Assert that something was tried, and that nothing ended in a way that is not allowed."""
        assert self.outcomes.total(), self.attack
        assert not self.bad(), self.render()


class HangError(BaseException):
    """A try takes too long; not an `Exception`, which what is attacked may catch."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """What blocks for longer than that ends in a `HangError`."""

    def stop(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def damaged_somewhere(content: bytes, chance: random.Random) -> bytes:
    """Content with bits or a part changed, cut off, put in, left out, moved or repeated."""
    changed = bytearray(content)
    start, to = (chance.randrange(len(changed)) for _ in range(2))
    size = chance.choice((1, 8, 512, 4096))
    kind = chance.choice(("bits", "noise", "zeros", "cut", "insert", "remove", "move", "repeat"))
    if kind == "bits":
        for _ in range(chance.randint(1, 8)):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del changed[start:]
    elif kind == "insert":
        changed[start:start] = chance.randbytes(size)
    elif kind == "remove":
        del changed[start : start + size]
    elif kind == "repeat":
        changed[start:start] = changed[start : start + size]
    else:
        part = {"noise": chance.randbytes(size), "zeros": bytes(size)}
        moved = part.get(kind, changed[to : to + size])
        changed[start : start + size] = moved[: len(changed) - start]
    return bytes(changed)
