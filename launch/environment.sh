# Sourced by the other scripts: goes to the checkout, makes a virtual
# environment in it (once) and installs the requirement files that are named.
#   PYTHON=python3.12 chooses the interpreter of a new environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A heap that keeps what is freed: faulting memory in anew costs a training step
# on a CPU near a third of its time, and reading latents half. tcmalloc keeps it
# for every thread, glibc only what the main one allocates. A new environment
# gets Debian's or Ubuntu's; without, the machine's is used, if it has one.
unpack_tcmalloc() (
  mkdir .venv/tcmalloc && cd .venv/tcmalloc
  for package in libtcmalloc-minimal4{,t64}; do
    timeout 30 apt-get download "$package" && dpkg-deb -x ./*.deb . && exit
  done
)

if [ ! -x .venv/bin/python ]; then
  "${PYTHON:-python3}" -m venv .venv
  unpack_tcmalloc &>/dev/null || true
fi
export PATH="$PWD/.venv/bin:$PATH"
GLIBC_TUNABLES=glibc.malloc.hugetlb=1
GLIBC_TUNABLES+=:glibc.malloc.mmap_threshold=268435456
GLIBC_TUNABLES+=:glibc.malloc.trim_threshold=1073741824
export GLIBC_TUNABLES
for heap in {"$PWD"/.venv/tcmalloc,}/usr/lib/*/libtcmalloc{_minimal,}.so.4; do
  if [ -e "$heap" ]; then export LD_PRELOAD="${LD_PRELOAD:-$heap}"; fi
done

install() {
  local file arguments=()
  for file in "$@"; do arguments+=(-r "$file"); done
  pip install --quiet --disable-pip-version-check "${arguments[@]}"
}
