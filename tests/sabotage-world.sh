#!/usr/bin/env bash
# Breaks the code in known ways and lets the simulated world look for each: prints the rows of docs/simulator.md's table, with
# the first seed whose world breaks a promise. A break that no world in SEEDS notices fails this script. Names of breaks as
# arguments: only those. All are built at once, into a copy of the working tree, each behind the environment's CARILLON_BREAK;
# JOBS of them are looked for side by side.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
seeds="${SEEDS:-5000}"
jobs="${JOBS:-2}"
place="$CARGO_TARGET_DIR/sabotage"
source="$place/source"
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
names=()
declare -A meant

# sabotage NAME MEANING FILE SED-EXPRESSION: in the expression BROKEN is true while this break is looked for.
sabotage() {
    local name="$1" file="$3"
    names+=("$name")
    meant["$name"]="$2"
    cp "$fresh/$file" "$fresh/before"
    sed -i "$4" "$fresh/$file"
    if cmp --silent "$fresh/before" "$fresh/$file"; then
        echo "sabotage: '$name' does not apply to $file any more: mend tests/sabotage-world.sh"
        exit 1
    fi
    sed -i "s/BROKEN/std::env::var_os(\"CARILLON_BREAK\").is_some_and(|name| name == \"$name\")/g" "$fresh/$file"
    rm "$fresh/before"
}

unsaved=$(git stash create)
git archive "${unsaved:-HEAD}" | tar -x -m -C "$fresh"

sabotage ack-without-commit 'a commit that conflicted is reported as one that came' \
    store/src/retry.rs '/fn settle(&mut self, ops/,/^    }/ s/CommitError::Conflict => {}/CommitError::Conflict if BROKEN => return Verdict::Committed(outcomes.unwrap_or_default()),\n&/'
sabotage fence-not-checked 'commits look neither whether their router is deposed nor who owns the slot' \
    store/src/ops.rs 's/if is_new && \(load_slot(self\.txn, slot)?.*\) {$/if is_new \&\& \1 \&\& !BROKEN {/; s/if !number(self\.txn, &router)?\.is_some_and(claim::is_live) {/if !number(self.txn, \&router)?.is_some_and(claim::is_live) \&\& !BROKEN {/'
sabotage dedupe-forgotten 'the row of the `client_msg_id` is not written' \
    store/src/ops/send.rs 's/^    attempt\.set(key(attempt\.generation).*$/    if !BROKEN {\n&\n    }/'
sabotage membership-not-checked 'anybody may send to any conversation' \
    store/src/ops/send.rs 's/\(let mut member = .*\)\.ok_or_else(forbidden)?;/\1.or_else(|| (BROKEN).then(Default::default)).ok_or_else(forbidden)?;/'
sabotage receipts-not-merged 'an older receipt takes a watermark back' \
    store/src/ops/receipt.rs 's/= before\.delivered_seq\.max(delivered_seq);/= if BROKEN { delivered_seq } else { before.delivered_seq.max(delivered_seq) };/'
sabotage marker-forgotten 'no durable promise to fan out comes with an event' \
    store/src/ops.rs 's/self\.mark(conversation, head\.seq)?;/if !BROKEN { & }/'
sabotage unknown-treated-as-failure 'what may have been committed is refused as definite' \
    router/src/shard/outcomes.rs 's/Code::UnknownOutcome,/if BROKEN { Code::Unavailable } else { Code::UnknownOutcome },/'
sabotage stale-notice-accepted 'a router passes on what a former owner has to tell' \
    router/src/shard/peers.rs 's/if epoch < self\.cluster\.table\.epoch(slot)/& \&\& !BROKEN/'
sabotage registered-before-all-know 'users register with a new owner of whom not all routers know' \
    router/src/cluster/table.rs 's/self\.accepts(slot) && self\.held(slot)\.is_known/self.accepts(slot) \&\& (self.held(slot).is_known || BROKEN)/'
sabotage notices-not-resent 'what was lost with a lane between routers is not said again' \
    router/src/cluster.rs 's/peer\.notices\.resend(lane, outbox);/if !BROKEN { & }/'
sabotage stale-owner-reads 'an owner whose lease is over answers from memory' \
    router/src/cluster.rs 's/lease\.answers(now, slot))/lease.answers(now, slot) || (BROKEN \&\& lease.accepts(slot)))/'
sabotage marker-cleared-early 'the durable marker does not wait for other routers' \
    router/src/fanout/log.rs 's/fold(handed_on, Seq::min)/fold(handed_on, |least, first| if BROKEN { least } else { least.min(first) })/'
sabotage cursor-off-by-one 'a resumption leaves out one event' \
    gateway/src/session/place.rs 's/let (next, fanned_out) = (cursor + 1, fanned_out_seq)/let (next, fanned_out) = (cursor + if BROKEN { 2 } else { 1 }, fanned_out_seq)/'
sabotage put-back-at-the-end 'what has to be asked again is asked behind what came after it' \
    gateway/src/session/submit.rs 's/^        asked\.attempts -= 1;$/&\n        if BROKEN {\n            let all = \&mut self.work.as_mut()?.asked;\n            let one = all.iter().position(|one| one.request == 0).and_then(|at| all.remove(at))?;\n            all.push_back(one);\n        }/'
sabotage replays-not-compared 'what a former owner handed on is handed on once more' \
    gateway/src/shard/crowd.rs 's/if frame\.replayed && tail/if !BROKEN \&\& frame.replayed \&\& tail/'
sabotage duplicate-at-the-splice 'what a page brought comes as a live event, too' \
    gateway/src/session/work.rs 's/^        seq <= paged$/& \&\& !BROKEN/'
sabotage nothing-heard-while-registering 'what comes before a session knows where it stands is lost' \
    gateway/src/session/place.rs '/pub(super) fn hear(/,/^    }/ s/        if let Some(standing) = self\.standings\.get_mut/        if BROKEN {\n            return true;\n        }\n&/'

for name in "$@"; do
    [ -n "${meant[$name]:-}" ] || { echo "sabotage: there is no '$name'"; exit 1; }
done
[ "$#" = 0 ] || names=("$@")

# Only what differs is written, so that only that is built.
mkdir -p "$source"
(cd "$source" && find . -type f -print0) | while IFS= read -r -d '' file; do
    [ -e "$fresh/$file" ] || rm "$source/$file"
done
(cd "$fresh" && find . -type f -print0) | while IFS= read -r -d '' file; do
    cmp --silent "$fresh/$file" "$source/$file" || { mkdir -p "$source/$(dirname "$file")"; cp "$fresh/$file" "$source/$file"; }
done
echo "sabotage: building" >&2
# Into a directory of its own: cargo takes what is built from one copy of a workspace for what another needs.
(cd "$source" && CARGO_TARGET_DIR="$place/target" cargo build --quiet --locked --release -p carillon-tests --bin world)
cp "$place/target/release/world" "$place/world"
echo "sabotage: built after $SECONDS s" >&2

# look NAME: its row, or nothing when no world noticed.
look() {
    local name="$1" output="$place/$1.output" begun="$SECONDS" seed
    rm -f "$place/$name.row"
    if CARILLON_BREAK="$name" "$place/world" --seeds "$seeds" --jobs 1 --failures 1 --no-shrink >"$output" 2>&1; then
        echo "sabotage: '$name' was NOT noticed in $seeds seeds, $((SECONDS - begun)) s" >&2
        return
    fi
    seed=$(grep -m1 -oE '^seed [0-9]+' "$output" | cut -d' ' -f2 || true)
    echo "sabotage: '$name', seed ${seed:-none}, $((SECONDS - begun)) s: $(grep -m1 -E '^  [A-Za-z0-9/]+: |panicked at' "$output" | cut -c1-100 || true)" >&2
    echo "| \`$name\`: ${meant[$name]} | ${seed:-none} |" >"$place/$name.row"
}

for name in "${names[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    look "$name" &
done
wait
survivors=0
for name in "${names[@]}"; do
    cat "$place/$name.row" 2>/dev/null || survivors=$((survivors + 1))
done
echo "sabotage: ${#names[@]} breaks, $survivors not noticed, $SECONDS s" >&2
[ "$survivors" = 0 ]
