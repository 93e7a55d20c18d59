#!/usr/bin/env bash
# Checks format and lint, then runs the tests on the CPU.
#   bash launch/test.sh [--fast] [pytest arguments]
# --fast runs only the tests with the marker `fast`.
if [[ ${1-} == --help ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit
fi
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
selection=()
if [[ ${1-} == --fast ]]; then
  selection=(-m fast)
  shift
fi
install requirements.txt tests/requirements.txt
ruff format --check .
ruff check .
python -m pytest -n 2 --dist worksteal "${selection[@]}" "$@"
