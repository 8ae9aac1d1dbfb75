# What the check scripts of the compose examples share: to bring an example up, to look at it as a person would, and to
# take it down. Sourced, from the root of the repository, by a script that has set
#
#   COMPOSE_PROJECT_NAME   a project of its own, so that it runs beside an example that is up
#   compose_options        arguments of `docker compose` before the command, an array: --file, --profile
#
# and that says with `begin` what it is about to do. Needs Docker, curl and jq.

scratch=$(mktemp -d)
step='preparing'

# start FUNCTION: runs it, and removes everything when it ends, however it ends.
start() {
  trap finish EXIT
  trap 'exit 130' INT TERM
  find_compose
  "$1"
  step=''
}

finish() {
  local code=$?
  trap - EXIT
  if [[ -n $step && $code -ne 0 ]]; then
    echo "FAILED: $step"
    compose ps || true
    compose logs --no-color --tail=40 || true
  fi >&2
  compose down --volumes --remove-orphans --timeout 5 >"$scratch/down.log" 2>&1 || { cat "$scratch/down.log" >&2; code=1; }
  rm -rf "$scratch"
  [[ $code -ne 0 ]] || echo "$COMPOSE_PROJECT_NAME: all as expected"
  exit "$code"
}

# `docker compose` where it is, otherwise docker-compose 1.
find_compose() {
  compose_command=(docker compose)
  if ! docker compose version >/dev/null 2>&1; then
    compose_command=(docker-compose)
    docker-compose version >/dev/null
  fi
}

compose() { "${compose_command[@]}" "${compose_options[@]}" "$@"; }

# copy_mesh FOLDER: the sidecars watch a copy of it, $MESH_DIR, that the check can change.
copy_mesh() {
  export MESH_DIR=$scratch/mesh
  cp -r "$1" "$MESH_DIR"
  chmod -R a+rX "$scratch" # the sidecars read it as a user of their own
}

up() { limited 2400 up --build --detach 2>&1 | tail -n 30; }

# limited SECONDS ARGUMENT...: compose, stopped when it takes longer.
limited() { timeout --foreground "$1" "${compose_command[@]}" "${compose_options[@]}" "${@:2}"; }

# published SERVICE: where its port 8080 can be reached from here.
published() {
  local address
  address=$(compose port "$1" 8080)
  echo "http://127.0.0.1:${address##*:}"
}

begin() {
  step=$1
  printf '\n-- %s\n' "$step"
}

# holds JSON EXPRESSION: whether the jq expression is true of it.
holds() { [[ -n $1 ]] && jq --exit-status "$2" >/dev/null 2>&1 <<<"$1"; }

saw() { jq --compact-output '{name, ok, status, errno, error, client: .body.client?, micros}' <<<"$1" 2>/dev/null || echo "saw: ${1:-nothing}"; }

# One request as curl makes it with these arguments; the body, or nothing where there is no answer.
get() { curl --silent --max-time 15 "$@" || true; }

# expect_within SECONDS EXPRESSION CURL-ARGUMENT...: asks until the expression holds of the JSON that is answered.
expect_within() {
  local deadline=$((SECONDS + $1)) answer
  while answer=$(get "${@:3}"); ! holds "$answer" "$2"; do
    if ((SECONDS >= deadline)); then
      echo "expected within $1 s of ${*:3}: $2"
      saw "$answer"
      return 1
    fi
    sleep 0.2
  done
  saw "$answer"
}

# expect_now EXPRESSION CURL-ARGUMENT...: asks once.
expect_now() {
  local answer
  answer=$(get "${@:2}")
  saw "$answer"
  holds "$answer" "$1" || { echo "expected of ${*:2}: $1"; return 1; }
}

# What the proxy SERVICE counts.
metrics() { inside "$1" pillion probe http://127.0.0.1:15090/stats/prometheus; }

inside() { limited 30 exec -T "$@"; }

# expect_line TEXT NAME PART...: TEXT has a line that begins with NAME, has every PART and does not end in 0.
expect_line() {
  local found=$1 part
  found=$(grep "^$2{" <<<"$found" | grep -v ' 0$') || true
  for part in "${@:3}"; do found=$(grep --fixed-strings "$part" <<<"$found") || true; done
  if [[ -z $found ]]; then
    echo "expected a line $2 with ${*:3} in:"
    grep "^$2{" <<<"$1" || echo "(no such line)"
    return 1
  fi
  printf '%s\n' "$found"
}

# expect_logged SERVICE PATTERN: a line of its log matches; the last one is shown.
expect_logged() {
  local log
  log=$(compose logs --no-color "$1" 2>/dev/null)
  grep "$2" <<<"$log" | tail -n 1 | grep . || { echo "expected in the log of $1: $2"; return 1; }
}
