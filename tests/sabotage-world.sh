#!/usr/bin/env bash
# Breaks the code in known ways, one at a time, in a copy of what is committed, and lets the simulated world look for it: how
# many seeds that takes is printed. A break that no world in SEEDS notices fails this script. Names of breaks as arguments:
# only those. PROFILE=dev builds faster, release finds faster. IN_PLACE=1: break a clean checkout itself, which is built
# already, and put everything back.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
profile="${PROFILE:-release}"
seeds="${SEEDS:-2000}"
survivors=0
chosen=("$@")

if [ -n "${IN_PLACE:-}" ]; then
    git diff --quiet HEAD || { echo "sabotage: the checkout is not clean"; exit 1; }
    copy="$PWD"
    output=$(mktemp)
    trap 'git checkout --quiet HEAD -- .; rm -f "$output"' EXIT
else
    copy=$(mktemp -d)
    output="$copy/output"
    trap 'rm -rf "$copy"' EXIT
    git archive HEAD | tar -x -C "$copy"
fi

# sabotage NAME FILE SED-EXPRESSION
sabotage() {
    local name="$1" file="$2" expression="$3"
    if [ "${#chosen[@]}" -gt 0 ] && [[ ! " ${chosen[*]} " == *" $name "* ]]; then
        return
    fi
    sed -i "$expression" "$copy/$file"
    if git show "HEAD:$file" | cmp --silent - "$copy/$file"; then
        echo "sabotage: '$name' does not apply to $file any more: mend tests/sabotage-world.sh"
        exit 1
    fi
    local command=(cargo run --quiet --locked --profile "$profile" -p carillon-tests --bin world --)
    if ! (cd "$copy" && cargo build --quiet --locked --profile "$profile" -p carillon-tests --bin world) 2>"$output"; then
        echo "sabotage: '$name' does not build"
        exit 1
    fi
    if (cd "$copy" && "${command[@]}" --seeds "$seeds" --jobs 1 --failures 1 --no-shrink) >"$output" 2>&1; then
        echo "sabotage: '$name' was NOT noticed in $seeds seeds"
        survivors=$((survivors + 1))
    else
        local seed
        seed=$(grep -m1 -oE '^seed [0-9]+' "$output" | cut -d' ' -f2 || true)
        echo "sabotage: '$name' was noticed by seed ${seed:-none}: $(grep -m1 -E '^  [A-Za-z0-9/]+: |panicked at' "$output" | cut -c1-100 || true)"
    fi
    # With a time of now: what is built next is built from what is committed.
    git show "HEAD:$file" >"$copy/$file"
}

sabotage ack-without-commit store/src/retry.rs \
    '/fn settle(&mut self, ops/,/^    }/ s/CommitError::Conflict => {}/CommitError::Conflict => return Verdict::Committed(outcomes.unwrap_or_default()),/'
sabotage fence-not-checked store/src/ops.rs \
    's/load_slot(self\.txn, slot)?\.0 != self\.context\.incarnation\.0/load_slot(self.txn, slot)?.0 == u64::MAX/'
sabotage dedupe-forgotten store/src/ops/send.rs '/attempt\.set(key(attempt\.generation)/d'
sabotage membership-not-checked store/src/ops/send.rs 's/\.ok_or_else(forbidden)?;/.unwrap_or_default();/'
sabotage receipts-not-merged store/src/ops/receipt.rs \
    's/before\.delivered_seq\.max(delivered_seq)/delivered_seq/'
sabotage marker-forgotten store/src/ops.rs '/self\.mark(conversation, head\.seq)?;/d'
sabotage unknown-treated-as-failure router/src/shard/outcomes.rs 's/Code::UnknownOutcome,/Code::Unavailable,/'
sabotage stale-notice-accepted router/src/shard/peers.rs 's/if epoch < self\.cluster\.table\.epoch(slot)/if epoch == u64::MAX/'
sabotage registered-before-all-know router/src/cluster/table.rs \
    's/self\.accepts(slot) && self\.held(slot)\.is_known/self.accepts(slot)/'
sabotage notices-not-resent router/src/cluster.rs '/peer\.notices\.resend(lane, outbox);/d'
sabotage peek-answered-to-anybody router/src/shard/peers.rs \
    's/if !are_ours || self\.cluster\.owner_of(user) != Owner::Other(from)/if !are_ours/'
sabotage stale-owner-reads router/src/cluster.rs \
    's/lease\.answers(now, slot))/now < Time(u64::MAX) \&\& lease.accepts(slot))/'
sabotage marker-cleared-early router/src/fanout/log.rs \
    's/fold(handed_on, Seq::min)/fold(handed_on, |handed_on, _| handed_on)/'
sabotage cursor-off-by-one gateway/src/session/place.rs \
    's/let (next, fanned_out) = (cursor + 1, fanned_out_seq)/let (next, fanned_out) = (cursor + 2, fanned_out_seq)/'
sabotage put-back-at-the-end gateway/src/session/submit.rs \
    's/^        asked\.attempts -= 1;$/&\n        let all = \&mut self.work.as_mut()?.asked;\n        let one = all.iter().position(|one| one.request == 0).and_then(|at| all.remove(at))?;\n        all.push_back(one);/'
sabotage replays-not-compared gateway/src/shard/crowd.rs 's/if frame\.replayed && tail/if false \&\& tail/'
sabotage duplicate-at-the-splice gateway/src/session/work.rs 's/^        seq <= paged$/        seq <= paged \&\& false/'
sabotage nothing-heard-while-registering gateway/src/session/place.rs \
    '/pub(super) fn hear(/,/^    }/ s/        if let Some(standing) = self\.standings\.get_mut/        if seq > 0 { return true; }\n&/'

[ "$survivors" = 0 ] || exit 1
echo "sabotage: all were noticed"
