"""A few trials of each attack; docs/promises.md says what came of many."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ATTACKS = Path(__file__).parent / "attacks"
SHORT = {"kills": 8, "damage": 18, "drift": 16, "together": 5}
LONG = {"kills": 200, "damage": 2000, "drift": 200, "together": 100}
TRIALS = [*SHORT.items(), *(pytest.param(name, count, marks=pytest.mark.slow) for name, count in LONG.items())]


@pytest.mark.parametrize(("name", "count"), TRIALS)
def test_nothing_goes_wrong(name, count):
    command = [sys.executable, ATTACKS / f"{name}.py", "--count", str(count), "--seed", str(count), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert sum(sum(outcomes.values()) for outcomes in json.loads(done.stdout).values()) == count


@pytest.mark.slow
def test_every_flipped_bit_of_a_cache_is_found():
    command = [sys.executable, ATTACKS / "damage.py", "--victims", "cache", "--kinds", "flip,move", "--count", "1000"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert sum(outcomes["refused"] for outcomes in found.values()) == 1000
