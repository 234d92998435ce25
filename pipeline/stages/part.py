"""Which of the shards one of several extractions writes that know nothing of one another."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.cache import ShardPlan
from pipeline.errors import ParamsError

_FORM = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True)
class Part:
    """Every ``count``-th shard of a split, from the ``number``-th on.

    Attributes
    ----------
    number : int
        From 1 to ``count``.
    count : int
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read ``"3/16"``, the third of sixteen parts.

        Raises
        ------
        ParamsError
            If it is not of this form, or there is no such part.
        """
        form = _FORM.fullmatch(text)
        number, count = (int(form[1]), int(form[2])) if form else (0, 0)
        if not 1 <= number <= count:
            raise ParamsError(
                f"no part '{text}'; give 3/16 for the third of sixteen, from 1/16 to 16/16"
            )
        return cls(number, count)

    @property
    def is_all(self) -> bool:
        """Whether it is everything there is."""
        return self.count == 1

    def holds(self, plan: ShardPlan) -> bool:
        """Tell whether a shard belongs to this part."""
        return plan.part % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass
class Plans:
    """What shards there shall be.

    Attributes
    ----------
    shards : dict of split to list of ShardPlan
        All of them. Only those that this run writes have the digests of their images' files.
    part : Part
        Which of them this run writes.
    bad_lines : dict of split to dict of str to str
        Lines of the split files that are left out.
    """

    shards: dict[str, list[ShardPlan]] = field(default_factory=dict)
    part: Part = Part()
    bad_lines: dict[str, dict[str, str]] = field(default_factory=dict)

    def own(self, split: str) -> list[ShardPlan]:
        """Give the shards of a split that this run writes."""
        return [plan for plan in self.shards[split] if self.part.holds(plan)]

    def moved_to(self, directory: Path) -> "Plans":
        """Give the same shards in another directory."""
        moved = {
            split: [replace(plan, directory=directory) for plan in plans]
            for split, plans in self.shards.items()
        }
        return replace(self, shards=moved)
