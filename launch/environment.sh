# The environment of the other scripts, which source this file: changes to the
# checkout, makes a virtual environment in it (once) and defines `install`.
#   PYTHON=python3.12 chooses the interpreter of a new environment.
# Not in a shell that someone types in: a failing command would end it.
[[ $- == *i* ]] || set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# An allocator that keeps freed memory: page faults take near a third of the time
# of a training step on a CPU, and half of that of reading latents. tcmalloc keeps
# the memory of all threads, glibc only that of the main one. A new environment
# gets the tcmalloc of Debian or Ubuntu; else the machine's is used, if any.
unpack_tcmalloc() (
  mkdir .venv/tcmalloc && cd .venv/tcmalloc
  for package in libtcmalloc-minimal4{,t64}; do
    timeout 30 apt-get download "$package" && dpkg-deb -x ./*.deb . && exit
  done
)

# Puts the checkout on Python's path, relative to the .pth file, so that
# `python -m ccl_jax.train` works in any folder, and `python ccl_jax/train.py`.
add_checkout_to_path() {
  local folder
  for folder in .venv/lib/python3*/site-packages; do
    [ ! -d "$folder" ] || echo ../../../.. >"$folder/ccl_jax.pth"
  done
}

if [ ! -x .venv/bin/python ]; then
  "${PYTHON:-python3}" -m venv .venv
  add_checkout_to_path
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

# Installs the packages of the named requirement files.
install() {
  local file arguments=()
  for file in "$@"; do arguments+=(-r "$file"); done
  pip install --quiet --disable-pip-version-check "${arguments[@]}"
}
