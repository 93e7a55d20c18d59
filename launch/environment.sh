# Sourced by the other scripts: goes to the checkout, makes a virtual
# environment in it (once) and installs the requirement files that are named.
#   PYTHON=python3.12 chooses the interpreter of a new environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
export PATH="$PWD/.venv/bin:$PATH"
# Huge pages, and freed memory is kept: page faults cost a training step on a CPU
# a tenth of its time, and reading latents half.
GLIBC_TUNABLES=glibc.malloc.hugetlb=1
GLIBC_TUNABLES+=:glibc.malloc.mmap_threshold=268435456
GLIBC_TUNABLES+=:glibc.malloc.trim_threshold=1073741824
export GLIBC_TUNABLES

install() {
  local file arguments=()
  for file in "$@"; do arguments+=(-r "$file"); done
  pip install --quiet --disable-pip-version-check "${arguments[@]}"
}
