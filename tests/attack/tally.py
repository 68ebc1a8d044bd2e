"""What an attack gave: how many tries ended how. Every attack prints one such table.

An attack is a module of this folder: `python -m tests.attack.NAME [TRIES]` runs it and prints the
table, and its slow test, `pytest -m slow tests/attack/test_NAME.py`, asserts that nothing ended in
a way that is not allowed.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Outcomes of one attack.

    Attributes:
        attack: what was tried.
        outcomes: outcome -> how often.
        examples: outcome -> the first tries that ended so, to look into.
    """

    attack: str
    outcomes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, outcome: str, example: str = "") -> None:
        """Count one try."""
        self.outcomes[outcome] += 1
        if example and len(shown := self.examples.setdefault(outcome, [])) < 5:
            shown.append(example)

    def bad(self, allowed: Collection[str]) -> dict[str, list[str]]:
        """Outcomes that must not be, with examples."""
        return {name: self.examples.get(name, []) for name in self.outcomes if name not in allowed}

    def render(self) -> str:
        """The table: one line an outcome."""
        lines = [f"{self.attack}: {self.outcomes.total():,} tries"]
        lines += [f"  {count:>9,}  {name}" for name, count in self.outcomes.most_common()]
        return "\n".join(lines)
