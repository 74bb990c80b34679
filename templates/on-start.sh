#!/usr/bin/env bash
# Brings an instance up: Stoker in an environment of its own, then its launcher, which takes over.
# To be run at each boot of a rented machine, or as the entry point of a container; running it again
# changes nothing. `on-start.sh install` ends after the installation.
#
# Who this worker is, as `stoker attach ENDPOINT` prints it; never in a log nor in a command line:
#   CONTAINER_ID, MASTER_TOKEN, REPORT_ADDR, STOKER_TICKETS
# Where clients reach it:
#   PUBLIC_IPADDR, WORKER_PORT (3000), VAST_TCP_PORT_<WORKER_PORT>, USE_SSL
# What it serves:
#   BACKEND         name of a backend: `stoker backends` lists them
#   OPTIONS         its options, a JSON object; an image may have others in STOKER_DEFAULT_OPTIONS
# How:
#   STOKER_PACKAGE  what is installed: a version (0.1.0), a wheel, a directory or git+https://...;
#                   not needed where STOKER_VENV has Stoker
#   STOKER_VENV     environment (STOKER_DIR/venv)
#   STOKER_DIR      place of the instance (~/stoker); its owner alone may read it
#   STOKER_LOG      log (STOKER_DIR/instance/launcher.log, which the launcher keeps from growing);
#                   -: standard error, for a container or a service
#   PYTHON          an interpreter, 3.11 or newer (the newest that is found)
set -euo pipefail
umask 077

MISTAKE=2     # exit code: a setting is missing or wrong
LOG_BYTES=$((4 * 1024 * 1024))
child=""
told_elsewhere="" # set: standard error is the log, and the former one is descriptor 3

say() { printf 'on-start: %s\n' "$*" >&2; }

# The last words, also to who started us where the log is a file.
fail() {
    say "error: $*"
    if [[ -n $told_elsewhere ]]; then printf 'on-start: error: %s\n' "$*" >&3; fi
    exit "$MISTAKE"
}

# A command that a signal ends: bash itself would wait until it is done.
run() {
    local code=0
    "$@" &
    child=$!
    wait "$child" || code=$?
    child=""
    return "$code"
}

stop() {
    trap '' TERM INT HUP
    if [[ -n $child ]]; then
        kill -TERM "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    say "told to stop"
    exit 143
}

begin_log() {
    local log=${STOKER_LOG:-$STOKER_DIR/instance/launcher.log}
    if [[ $log == - ]]; then return; fi
    mkdir -p "$(dirname "$log")"
    if [[ -f $log ]] && (($(stat -c %s "$log") > LOG_BYTES)); then mv -f "$log" "$log.1"; fi
    exec 3>&2
    told_elsewhere=yes
    exec >>"$log" 2>&1
}

check_settings() {
    local name missing=()
    for name in CONTAINER_ID MASTER_TOKEN REPORT_ADDR BACKEND; do
        if [[ -z ${!name:-} ]]; then missing+=("$name"); fi
    done
    if ((${#missing[@]})); then
        fail "${missing[*]} must be set: \`stoker attach ENDPOINT\` prints a worker's identity," \
            "and BACKEND is what it serves"
    fi
}

# What pip is to install. A secret in it would be in pip's command line, for all to read.
requirement() {
    local package=${STOKER_PACKAGE:-}
    case $package in
        "") fail "STOKER_PACKAGE must be set: a version, a wheel, a directory or git+https://..." ;;
        *://*:*@* | git+https://*@*) fail "STOKER_PACKAGE must hold no user and no password" ;;
        [0-9]*) printf 'stoker==%s' "$package" ;;
        git+* | /* | ./*) printf '%s' "$package" ;;
        *) fail "STOKER_PACKAGE must be a version, a path that begins with / or ./, or git+https://..." ;;
    esac
}

is_root() { ((EUID == 0)); }

apt_install() {
    if ! is_root || ! command -v apt-get >/dev/null; then return 1; fi
    say "apt-get install $*"
    run env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
        run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=""
find_python() {
    local name
    for name in ${PYTHON:+"$PYTHON"} python3.14 python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && new_enough "$name"; then
            python=$(command -v "$name")
            return
        fi
    done
    return 1
}

make_venv() {
    local venv=$1
    if ! find_python; then
        apt_install python3.12 python3.12-venv || apt_install python3.11 python3.11-venv || true
        find_python || fail "Stoker needs Python 3.11 or newer: install it, or set PYTHON"
    fi
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        apt_install "$(basename "$python")-venv" || apt_install python3-venv || true
        "$python" -c 'import ensurepip' 2>/dev/null ||
            fail "$python cannot make environments: install python3-venv"
    fi
    say "making $venv with $python"
    run "$python" -m venv --clear "$venv"
}

# The note is written last: an installation that was cut short is done again.
install() {
    local venv=$1 wanted note
    note=$venv/.stoker-package
    if [[ -z ${STOKER_PACKAGE:-} && -x $venv/bin/stoker ]]; then return; fi
    wanted=$(requirement)
    if [[ -x $venv/bin/stoker && -f $note && $(<"$note") == "$wanted" ]]; then return; fi
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then make_venv "$venv"; fi
    rm -f "$note"
    say "installing $wanted"
    run "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wanted" ||
        fail "$wanted cannot be installed; the lines above say why"
    printf '%s' "$wanted" >"$note"
}

# What the image sets, with what its user sets in its place.
merge_options() {
    "$1" -c '
import json, os, sys
merged = {}
for name in ("STOKER_DEFAULT_OPTIONS", "OPTIONS"):
    try:
        given = json.loads(os.environ.get(name) or "{}")
    except ValueError as error:
        sys.exit(f"on-start: error: {name} is not valid JSON: {error}")
    if not isinstance(given, dict):
        sys.exit(f"on-start: error: {name} must be a JSON object")
    merged |= given
print(json.dumps(merged))
'
}

main() {
    trap stop TERM INT HUP
    : "${HOME:?must be set}"
    export STOKER_DIR=${STOKER_DIR:-$HOME/stoker}
    export WORKER_PORT=${WORKER_PORT:-3000}
    local venv=${STOKER_VENV:-$STOKER_DIR/venv} instance=$STOKER_DIR/instance

    mkdir -p "$instance"
    if [[ ${1:-} != install ]]; then
        check_settings
        begin_log
    fi
    # Held by whoever this process becomes, so for as long as the instance is up.
    exec 9>>"$STOKER_DIR/.on-start.lock"
    if command -v flock >/dev/null && ! flock -n 9; then
        say "is running already"
        exit 0
    fi
    install "$venv"
    if [[ ${1:-} == install ]]; then return; fi

    STOKER_BACKEND_OPTIONS=$(merge_options "$venv/bin/python") || exit "$MISTAKE"
    export STOKER_BACKEND_OPTIONS
    say "launching the backend $BACKEND in $instance"
    exec 3>&-
    cd "$instance"
    exec "$venv/bin/stoker" launch --backend "$BACKEND" "$instance"
}

main "$@"
