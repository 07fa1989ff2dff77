#!/usr/bin/env bash
# Usage: test/fuzz.sh [FUZZTIME]
# Finds every fuzz target of the module and runs each for FUZZTIME (20s).
# Finding none is a failure: the search is broken then, not the code perfect.
set -euo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# fuzz runs one target. A busy machine's go test sometimes reports the end of
# its own fuzz time as a failure; a real one comes with an input or a message.
fuzz() {
    go test -run '^$' -fuzz "^$2\$" -fuzztime "$3" "$1" </dev/null 2>&1 | tee "$log" && return
    grep -A1 '^--- FAIL: Fuzz' "$log" | grep -q '^ *context deadline exceeded$' &&
        ! grep -q -e 'Failing input written' -e 'panic:' "$log"
}

# go test -list prints the names of a package's targets, then "ok PACKAGE".
targets=$(go test -list '^Fuzz' ./... | awk '
    /^Fuzz/     { names[n++] = $1 }
    $1 == "ok"  { for (i = 0; i < n; i++) print $2, names[i] }
    $1 == "ok" || $1 == "?" { n = 0 }')
if [ -z "$targets" ]; then
    echo 'fuzz: no fuzz target found' >&2
    exit 1
fi

count=0
while read -r package name; do
    echo "== $package $name"
    fuzz "$package" "$name" "${1:-20s}"
    count=$((count + 1))
done <<<"$targets"
echo "fuzz: $count targets, no failure"
