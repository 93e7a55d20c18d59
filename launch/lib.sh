# Functions that the launchers share: flags, errors, dry runs, quoting, SIGTERM.
#
# A launcher declares its flags with their defaults:
#   declare -A flag=([name]="" [slices]=1 [spot]=no)
# A default of "no" makes a switch. `parse_flags "$@"` fills `flag`, `extra`
# (each --extra=...) and `training` (all arguments after --).
set -euo pipefail
script=$(realpath "$0")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extra=() training=()

# Prints the comment at the top of the script.
usage() { sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//p}' "$script"; }

say() { printf '%s: %s\n' "${script##*/}" "$*" >&2; }

fail() {
  say "error: $*"
  exit 2
}

parse_flags() {
  local argument name value
  while (($#)); do
    argument=$1 name=${1#--} value=${1#*=}
    name=${name%%=*}
    shift
    case $argument in
      --help) usage && exit 0 ;;
      --) training=("$@") && return ;;
      --?*) ;;
      *) fail "unexpected argument '$argument'; see --help" ;;
    esac
    if [[ ! $name =~ ^[a-z-]+$ || -z ${flag[$name]+known} ]]; then
      fail "unknown flag --$name; see --help (training flags follow --)"
    fi
    if [[ ${flag[$name]} =~ ^(yes|no)$ ]]; then
      [[ $argument != *=* ]] || fail "--$name takes no value"
      value=yes
    elif [[ $argument != *=* || -z $value ]]; then
      fail "--$name needs a value: --$name=VALUE"
    fi
    if [[ $name == extra ]]; then extra+=("$value"); fi
    flag["$name"]=$value
  done
}

# Fails unless every named flag has a value.
need() {
  local name
  for name in "$@"; do
    [[ -n ${flag[$name]} ]] || fail "--$name=VALUE is required; see --help"
  done
}

# Fails unless every named flag is an integer of at least 0.
need_number() {
  local name
  for name in "$@"; do
    [[ ${flag[$name]} =~ ^(0|[1-9][0-9]*)$ ]] ||
      fail "--$name=${flag[$name]}: expected an integer"
  done
}

# Fails unless every named flag is an integer of at least 1.
need_positive() {
  local name
  need_number "$@"
  for name in "$@"; do
    [[ ${flag[$name]} != 0 ]] || fail "--$name=0: expected 1 or more"
  done
}

# Fails unless the training flags name a workdir that begins with $1.
need_workdir() {
  local argument
  for argument in "${training[@]}"; do
    [[ $argument != --workdir="$1"?* ]] || return 0
  done
  fail "expected training flags after --, among them --workdir=${1}PATH:" \
    "all hosts share it, and a restart resumes from it"
}

# The arguments as one line that means the same to any shell.
quoted() {
  local word line=""
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+=" $word"
  done
  printf '%s' "${line:1}"
}

# Runs a command, or with --dry-run prints it.
run() {
  if [[ ${flag[dry-run]} == yes ]]; then
    quoted "$@" && echo
  else
    "$@"
  fi
}

# Runs a command and passes SIGTERM on to it. Returns its code, or 143 after a
# SIGTERM: the training program then saves and ends with 0, as if the run were
# complete.
supervise() {
  local child code=0 stopped=""
  trap 'stopped=yes; kill -TERM "$child" 2>/dev/null || true' TERM
  "$@" &
  child=$!
  wait "$child" || code=$?
  # A signal interrupts `wait`; the child is still saving.
  while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
  done
  trap - TERM
  [[ -z $stopped ]] || return 143
  return "$code"
}
