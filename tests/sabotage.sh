#!/usr/bin/env bash
# Breaks the code in four known ways, one at a time, in a copy of what is committed, and runs the suites that stand guard. A
# break that no test notices fails this script. Uses the caller's CARGO_TARGET_DIR, so that dependencies are built once.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
survivors=0

# sabotage NAME FILE SED-EXPRESSION -- CARGO TEST ARGUMENTS
sabotage() {
    local name="$1" file="$2" expression="$3"
    shift 4
    rm -rf "${copy:?}"/*
    git archive HEAD | tar -x -C "$copy"
    sed -i "$expression" "$copy/$file"
    if git show "HEAD:$file" | cmp --silent - "$copy/$file"; then
        echo "sabotage: '$name' does not apply to $file any more: mend tests/sabotage.sh"
        exit 1
    fi
    # First it has to build: a break that does not compile proves nothing.
    (cd "$copy" && cargo test --quiet --locked "$@" --no-run) 2>/dev/null || {
        echo "sabotage: '$name' does not build"
        exit 1
    }
    if (cd "$copy" && timeout 300 cargo test --quiet --locked "$@") >"$copy/output" 2>&1; then
        echo "sabotage: '$name' was NOT noticed by: cargo test $*"
        survivors=$((survivors + 1))
    else
        echo "sabotage: '$name' was noticed: $(grep -m1 -E '^test .*FAILED|^    [a-z0-9_:]+$|panicked at' "$copy/output" || true)"
    fi
}

sabotage "an ack before the commit is durable" store/src/backend/embedded/log.rs \
    's/self\.segment\.file\.sync_data()?;//' -- -p carillon-store --test embedded crash
sabotage "no idempotency row" store/src/ops/send.rs \
    '/attempt\.set(key(attempt\.generation)/d' -- -p carillon-store --test verbs
sabotage "resume one too low" gateway/src/session/place.rs \
    's/(cursor + 1, fanned_out_seq)/(cursor.max(1), fanned_out_seq)/' -- -p carillon-gateway --lib --test session
sabotage "fan-out marker forgotten" store/src/ops.rs \
    '/self\.mark(conversation, head\.seq)?;/d' -- -p carillon-store --test verbs

[ "$survivors" = 0 ] || exit 1
echo "sabotage: all four were noticed"
