#!/usr/bin/env bash
# Formats and lints nothing away: checks, then runs every test on the CPU.
#   bash launch/test.sh [pytest arguments]
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install requirements.txt tests/requirements.txt
ruff format --check .
ruff check .
python -m pytest -n 2 "$@"
