"""Prints the figures of one budgeted config as JSON.

python -m tests.budgets.measure NAME
"""

import json
import sys

from tests.budgets.refresh import measure

if __name__ == "__main__":
  print(json.dumps(measure(sys.argv[1])))
