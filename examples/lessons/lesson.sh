# What the scripts of all lessons share: a mesh around them, and words to show what happens and to assert it.
# Sourced by `run` of a lesson, which stands beside its lab.yaml. Needs `pillion` in PATH, or built in this repository.
#
#   say TEXT…              what is going to be seen
#   show COMMAND           prints the command, runs it and shows its output; $seen and $status hold what came of it
#   expect TEXT…           each stands in what was seen last
#   expect_not TEXT…       none of them does
#   expect_status N        how the command ended; `not 0` for any failure
#   within SECONDS COMMAND runs it again and again until it succeeds, silently
#   background COMMAND     prints the command and leaves it running until the lesson ends
#   hear NAME HOST PORT    begins to listen in on the wire at a host (or `switch`, which joins all)
#   heard NAME             ends that; $WORK/NAME.pcap then holds what passed

set -euo pipefail
lesson=$(cd "$(dirname "$0")" && pwd)

# Everything runs inside `pillion lab`, which builds the mesh before and takes it down afterwards.
if [[ -z ${LAB:-} ]]; then
  if ! command -v pillion >/dev/null; then
    for build in release debug; do
      if [[ -x $lesson/../../../target/$build/pillion ]]; then PATH=$lesson/../../../target/$build:$PATH; break; fi
    done
  fi
  command -v pillion >/dev/null || { echo 'expected pillion in PATH; install it, or build it: cargo build --release' >&2; exit 125; }
  limit=()
  # A learner who looks around is not hurried; a machine is.
  [[ -n ${LESSON_STEP:-} ]] || limit=(timeout --foreground --kill-after=20 90)
  exec "${limit[@]}" pillion lab "$lesson/lab.yaml" -- "$0" "$@"
fi

cd "$lesson"
WORK=$LAB/work
export WORK
seen='' status=0
step=0

# needs PROGRAM PACKAGE
needs() {
  command -v "$1" >/dev/null || { echo "this lesson needs $1; install it, on Debian: apt-get install $2" >&2; exit 125; }
}

say() {
  step=$((step + 1))
  if [[ -n ${LESSON_STEP:-} ]]; then read -r -p $'\n-- Enter goes on ' </dev/tty; fi
  printf '\n%d  %s\n' "$step" "$1"
  if [[ $# -gt 1 ]]; then printf '   %s\n' "${@:2}"; fi
}

show() {
  printf '\n   $ %s\n' "$1"
  status=0
  seen=$(eval "$1" 2>&1 </dev/null) || status=$?
  [[ -z $seen ]] || sed 's/^/   | /' <<<"$seen"
}

background() {
  printf '\n   $ %s &\n' "$1"
  eval "$1" >>"$WORK/background.log" 2>&1 </dev/null &
}

expect() {
  local text
  for text; do
    grep --quiet --fixed-strings -- "$text" <<<"$seen" || fail "expected: $text"
  done
  printf ' √ %s\n' "$(join "$@")"
}

expect_not() {
  local text
  for text; do
    if grep --quiet --fixed-strings -- "$text" <<<"$seen"; then fail "expected not: $text"; fi
  done
  printf ' √ not: %s\n' "$(join "$@")"
}

expect_status() {
  if [[ $1 == not ]]; then
    [[ $status -ne $2 ]] || fail "expected another exit code than $2"
  else
    [[ $status -eq $1 ]] || fail "expected exit code $1, got $status"
  fi
  printf ' √ exit code %s\n' "$status"
}

join() { local IFS=$'\t'; sed 's/\t/, /g' <<<"$*"; }

fail() {
  printf ' × %s\n' "$1"
  printf '\nThe lesson did not go as it says.\n'
  exit 1
} >&2

within() {
  local deadline=$((SECONDS + $1))
  until eval "$2" >/dev/null 2>&1 </dev/null; do
    ((SECONDS < deadline)) || fail "waited $1 s in vain for: $2"
    sleep 0.1
  done
}

declare -A listening=()

hear() {
  on "$2" pillion tap --port "$3" --out "$WORK/$1.pcap" >"$WORK/$1.txt" 2>&1 </dev/null &
  listening[$1]=$!
  # It stands there once packets are heard.
  within 5 "test -e $WORK/$1.pcap"
}

heard() {
  kill -INT "${listening[$1]}"
  wait "${listening[$1]}" || fail "the tap $1 failed: $(cat "$WORK/$1.txt")"
  unset "listening[$1]"
}

finish() {
  local code=$?
  # What a lesson has started and forgotten; what runs on the hosts ends with them.
  jobs -p | xargs --no-run-if-empty kill 2>/dev/null || true
  [[ $code -ne 0 ]] || printf '\nAll as the lesson says. README.md has experiments: break it yourself.\n'
  exit "$code"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
