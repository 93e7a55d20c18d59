# Sourced by the other scripts: goes to the checkout, makes a virtual
# environment in it (once) and installs the requirement files that are named.
#   PYTHON=python3.12 chooses the interpreter of a new environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
export PATH="$PWD/.venv/bin:$PATH"
# A heap that keeps what is freed: faulting memory in anew costs a training step
# on a CPU near a third of its time, and reading latents half. tcmalloc keeps it
# for every thread, glibc only what the main one allocates.
GLIBC_TUNABLES=glibc.malloc.hugetlb=1
GLIBC_TUNABLES+=:glibc.malloc.mmap_threshold=268435456
GLIBC_TUNABLES+=:glibc.malloc.trim_threshold=1073741824
export GLIBC_TUNABLES
for heap in /usr/lib/*/libtcmalloc{,_minimal}.so.4; do
  if [ -e "$heap" ]; then export LD_PRELOAD="${LD_PRELOAD:-$heap}"; fi
done

install() {
  local file arguments=()
  for file in "$@"; do arguments+=(-r "$file"); done
  pip install --quiet --disable-pip-version-check "${arguments[@]}"
}
