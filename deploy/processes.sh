# What `up` of each deployment needs (POSIX sh): starts processes of Carillon on this machine, waits until they are ready, and
# ends them all. Sourced with $here set to the directory of the deployment's TOML files.
#
# From the environment:
#   CARILLON  the binary; else target/release/carillon of this checkout
#   STATE     where data, logs and ready lines go; else ./carillon-NAME, after the deployment
#   ADDRESS   the address of this machine to listen on, instead of 127.0.0.1; a loopback one (development keys are refused
#             elsewhere)

carillon=${CARILLON:-$here/../../target/release/carillon}
state=${STATE:-carillon-$(basename "$here")}
address=${ADDRESS:-127.0.0.1}
ready_s_max=60

if [ ! -x "$carillon" ]; then
    echo "$carillon is not there: build it, or set CARILLON to where it is" >&2
    exit 2
fi
mkdir -p "$state"

# Jobs get process groups of their own, so that Ctrl-C is heard here only and they are ended in order. Without a terminal
# there is no Ctrl-C, and a shell that then refuses this may.
set -m 2>/dev/null || true

# The processes that run, those that were started last in front.
running=

# start NAME TIER: a process with the settings of NAME.toml.
start() {
    sed "s/127\.0\.0\.1/$address/g" "$here/$1.toml" >"$state/$1.toml"
    "$carillon" "$2" --config "$state/$1.toml" --data-dir "$state/data" \
        </dev/null >"$state/$1.ready" 2>>"$state/$1.log" &
    running="$1:$! $running"
    # On standard output is one line, when everything is bound.
    seconds=0
    until [ -s "$state/$1.ready" ] && is_ready "$1"; do
        if ! kill -0 $! 2>/dev/null || [ $seconds -ge $ready_s_max ]; then
            echo "$1 does not start; the end of $state/$1.log:" >&2
            tail -n 5 "$state/$1.log" >&2
            exit 1
        fi
        sleep 1
        seconds=$((seconds + 1))
    done
    echo "$1 is ready (process $!)"
}

# bound NAME DOOR: the address that a process has bound: gateway, router or admin.
bound() {
    sed -n "s/.*\"$2\":\"\([^\"]*\)\".*/\1/p" "$state/$1.ready"
}

# is_ready NAME: what a load balancer asks. Without a program that asks, the ready line has to do.
is_ready() {
    if command -v curl >/dev/null; then
        curl -fsS -o "$state/$1.readyz" "http://$(bound "$1" admin)/readyz" 2>/dev/null
    elif command -v wget >/dev/null; then
        wget -q -O "$state/$1.readyz" "http://$(bound "$1" admin)/readyz"
    fi
}

# Gateways end before routers, as they were started after them: so clients are told to reconnect, and nothing is cut off.
stop() {
    trap '' HUP INT TERM
    for process in $running; do
        kill "${process#*:}" 2>/dev/null || true
        wait "${process#*:}" 2>/dev/null || true
        echo "${process%:*} has ended"
    done
}
trap stop EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# how_to_log_in GATEWAY...: what to type next.
how_to_log_in() {
    echo
    echo "Look at it: be alice in one tab and bob in the other."
    for gateway in "$@"; do
        echo "  http://$(bound "$gateway" gateway)/"
    done
    echo
    echo "A client identifies with a token of the development key, at any of them, as on http://$(bound "$1" gateway)/v1/ws:"
    echo "  $carillon token --data-dir $state/data --user 1 --name alice"
    echo
    echo "Logs are in $state. Ctrl-C ends everything."
}
