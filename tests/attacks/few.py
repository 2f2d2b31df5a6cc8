"""A few trials of several attacks in one process, so that what they need is loaded and made once.

    python tests/attacks/few.py kills=3 together=1 damage=4 long=1 drift=3 --seed 0

Another seed begins with other commands, situations, files and changes. Prints one JSON object:
attack -> what -> outcome -> count.
"""

from __future__ import annotations

import argparse
import json
import sys

import damage
import drift
import kills
import long
import together
from common import table, workplace, wrong

ATTACKS = {
    "kills": (kills.GOOD, lambda count, seed: kills.run(count, seed, [*kills.COMMANDS], 0, None)),
    "together": (together.GOOD, lambda count, seed: together.run(count, seed, [*together.CASES], None)),
    "damage": (damage.GOOD, lambda count, seed: damage.run(count, seed, [*damage.VICTIMS], [*damage.KINDS], None)),
    "long": (long.GOOD, lambda count, seed: long.run(300 * count)),
    "drift": (drift.GOOD, lambda count, seed: drift.run(count, seed, [*drift.DRIFTS], None)),
}
APART = {"drift"}  # its teacher and caches have the names of those of the others


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", nargs="+", metavar="ATTACK=COUNT")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    counts = {name: int(count) for name, _, count in (text.partition("=") for text in asked.trials)}
    found = {}
    for names in ([name for name in counts if name not in APART], *([name] for name in counts if name in APART)):
        with workplace():
            found |= {name: ATTACKS[name][1](counts[name], asked.seed) for name in names}
    print(json.dumps({name: table(outcomes) for name, outcomes in found.items()}))
    return int(any(wrong(outcomes, ATTACKS[name][0]) for name, outcomes in found.items()))


if __name__ == "__main__":
    sys.exit(main())
