# Sourced by the other scripts: goes to the checkout, makes a virtual
# environment in it (once) and installs the requirement files that are named.
#   PYTHON=python3.12 chooses the interpreter of a new environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
export PATH="$PWD/.venv/bin:$PATH"
# Huge pages: less page faulting in a training step on a CPU.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1

install() {
  local file arguments=()
  for file in "$@"; do arguments+=(-r "$file"); done
  pip install --quiet --disable-pip-version-check "${arguments[@]}"
}
