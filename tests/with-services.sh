#!/usr/bin/env bash
# Runs a command with a RabbitMQ and a memcached of its own, and takes both away again.
#
#   tests/with-services.sh cargo test
#
# Both listen on loopback only, on ports that are free now, and keep everything in a temporary directory. RabbitMQ has
# an epmd, a node name and a cookie of its own, so neither the distribution's service nor a second run is in the way. The
# command finds them by TREEHAUL_TEST_AMQP, TREEHAUL_TEST_AMQP_MANAGEMENT and TREEHAUL_TEST_MEMCACHED; its exit status
# is passed on.
#
# A reaper process waits until this script is gone, however it went (SIGKILL too), and then stops what it started by pid.
set -euo pipefail

RABBITMQ=/usr/lib/rabbitmq/bin/rabbitmq-server
# RabbitMQ needs 4 to 12 s on an idle machine; a busy one may take its time.
START_SECONDS=120

fail() {
    echo "with-services: $*" >&2
    exit 1
}

# Ends what $1/pids lists, process groups all, and removes $1. Runs as a process of its own.
reap() {
    local dir=$1 ignored pid
    trap '' INT TERM HUP
    read -r ignored || true # until the script's end of the pipe is closed
    while read -r pid; do
        kill -KILL -- "-$pid" 2>/dev/null || true
    done <"$dir/pids"
    # Somebody may still be writing for a moment.
    for _ in $(seq 50); do
        rm -rf -- "$dir" 2>/dev/null && return
        sleep 0.1
    done
    echo "with-services: $dir could not be removed" >&2
}

if [ "${1-}" = --reap ]; then
    reap "$2"
    exit
fi
[ $# -gt 0 ] || fail "usage: with-services.sh COMMAND [ARGUMENT...]"
for need in "$RABBITMQ" memcached epmd curl setpriv; do
    PATH=$PATH:/usr/sbin command -v "$need" >/dev/null || fail "$need is missing: run ops/install-test-deps.sh"
done
PATH=$PATH:/usr/sbin

dir=$(mktemp -d "${TMPDIR:-/tmp}/treehaul-services.XXXXXX")
: >"$dir/pids"
mkfifo "$dir/alive"
setsid "$0" --reap "$dir" <"$dir/alive" &
reaper=$!
exec 9>"$dir/alive"
stop() {
    trap '' INT TERM HUP
    exec 9>&-
    wait "$reaper" || true
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Neither service runs as root.
as_nobody=()
if [ "$(id -u)" = 0 ]; then
    as_nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
fi

is_open() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Below the range from which the kernel gives ports to clients, so that none takes it meanwhile.
taken=" "
free_port() {
    local candidate
    for _ in $(seq 200); do
        candidate=$((15000 + (RANDOM * 32768 + RANDOM) % 17000))
        if [[ $taken != *" $candidate "* ]] && ! is_open "$candidate"; then
            taken+="$candidate "
            port=$candidate
            return
        fi
    done
    fail "no free port found"
}

# start LOG COMMAND...: in a process group of its own, which the reaper knows before anything else happens.
start() {
    local log=$1
    shift
    setsid "$BASH" -c 'echo $$ >>"$0"; exec "$@"' "$dir/pids" "$@" >"$log" 2>&1 </dev/null 9>&- &
}

# wait_for WHAT LOG COMMAND...
wait_for() {
    local what=$1 log=$2 deadline=$((SECONDS + START_SECONDS))
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            tail -n 40 "$log" >&2 || true
            fail "$what does not answer after $START_SECONDS s"
        fi
        sleep 0.1
    done
}

free_port && epmd=$port
free_port && distribution=$port
free_port && amqp=$port
free_port && management=$port
free_port && memcached=$port

rabbit=$dir/rabbitmq
mkdir -p "$rabbit/home" "$rabbit/mnesia" "$rabbit/log"
# The command writes nothing here; nobody needs to pass through.
chmod 711 "$dir"
head -c 32 /dev/urandom | sha256sum | head -c 32 >"$rabbit/home/.erlang.cookie"
chmod 400 "$rabbit/home/.erlang.cookie"
cat >"$rabbit/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$amqp
management.tcp.ip = 127.0.0.1
management.tcp.port = $management
loopback_users.guest = true
log.console = false
CONF
echo '[rabbitmq_management].' >"$rabbit/enabled_plugins"
if [ "$(id -u)" = 0 ]; then
    chown -R 65534:65534 "$rabbit"
fi

start "$dir/epmd.out" "${as_nobody[@]}" epmd -port "$epmd" -address 127.0.0.1
start "$dir/rabbitmq.out" env -C "$rabbit" \
    HOME="$rabbit/home" \
    ERL_EPMD_PORT="$epmd" ERL_EPMD_ADDRESS=127.0.0.1 \
    RABBITMQ_NODENAME="treehaul$$@localhost" \
    RABBITMQ_DIST_PORT="$distribution" \
    RABBITMQ_CONF_ENV_FILE=/dev/null \
    RABBITMQ_CONFIG_FILE="$rabbit/rabbitmq.conf" \
    RABBITMQ_ADVANCED_CONFIG_FILE="$rabbit/advanced.config" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$rabbit/enabled_plugins" \
    RABBITMQ_MNESIA_BASE="$rabbit/mnesia" \
    RABBITMQ_LOG_BASE="$rabbit/log" \
    RABBITMQ_PID_FILE="$rabbit/pid" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}" \
    "${as_nobody[@]}" "$RABBITMQ"
start "$dir/memcached.out" "${as_nobody[@]}" memcached -l 127.0.0.1 -p "$memcached" -U 0 -m 64

memcached_answers() {
    exec 3<>"/dev/tcp/127.0.0.1/$memcached" && printf 'version\r\nquit\r\n' >&3 && grep -q ^VERSION <&3
}
wait_for memcached "$dir/memcached.out" eval '(memcached_answers)'
wait_for RabbitMQ "$dir/rabbitmq.out" is_open "$amqp"
wait_for "RabbitMQ's management" "$dir/rabbitmq.out" curl -fsu guest:guest "http://127.0.0.1:$management/api/overview"

export TREEHAUL_TEST_AMQP="amqp://guest:guest@127.0.0.1:$amqp/%2f"
export TREEHAUL_TEST_AMQP_MANAGEMENT="http://guest:guest@127.0.0.1:$management"
export TREEHAUL_TEST_MEMCACHED="127.0.0.1:$memcached"

# In the foreground it would keep signals from this script until it ends; in a group of its own it can be told to.
if [ -t 0 ]; then
    status=0
    "$@" 9>&- || status=$?
else
    set -m
    "$@" </dev/null 9>&- &
    command=$!
    set +m
    trap 'kill -INT -- "-$command" 2>/dev/null || true; exit 130' INT
    trap 'kill -TERM -- "-$command" 2>/dev/null || true; exit 143' TERM HUP
    status=0
    wait "$command" || status=$?
fi
exit "$status"
