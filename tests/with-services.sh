#!/usr/bin/env bash
# Runs a command with a RabbitMQ and a memcached of its own, and takes both away again.
#
#   tests/with-services.sh cargo test
#
# Both listen on loopback only, on ports that are free now, and keep everything in a temporary directory. RabbitMQ has
# an epmd, a node name and a cookie of its own, so neither the distribution's service nor a second run is in the way. The
# command finds them by TREEHAUL_TEST_AMQP, TREEHAUL_TEST_AMQP_MANAGEMENT and TREEHAUL_TEST_MEMCACHED; its exit status
# is passed on. TREEHAUL_TEST_AMQPS lets in only who shows a certificate: TREEHAUL_TEST_TLS is a directory with ca.pem,
# client.pem, client.key (of the user treehaul-client), and other-ca.pem, which nobody should believe.
# TREEHAUL_TEST_RABBITMQCTL is this broker's rabbitmqctl.
#
# A reaper process waits until this script is gone, however it went (SIGKILL too), and then stops what it started: every
# process whose environment names the temporary directory, since Erlang's helpers leave their process group.
set -euo pipefail

RABBITMQ=/usr/lib/rabbitmq/bin/rabbitmq-server
# RabbitMQ needs 4 to 12 s on an idle machine; a busy one may take its time.
START_SECONDS=120

fail() {
    echo "with-services: $*" >&2
    exit 1
}

# The pids of what was started for the directory $1.
started_for() {
    local environment
    for environment in $(grep -lzsFx "TREEHAUL_SERVICES=$1" /proc/[0-9]*/environ); do
        environment=${environment#/proc/}
        echo "${environment%/environ}"
    done
}

# Ends what was started for the directory $1 and removes it. Runs as a process of its own.
reap() {
    local dir=$1 ignored pid quiet=0
    trap '' INT TERM HUP
    read -r ignored || true # until the script's end of the pipe is closed
    for _ in $(seq 100); do
        quiet=$((quiet + 1))
        for pid in $(started_for "$dir"); do
            kill -KILL "$pid" 2>/dev/null || true
            quiet=0
        done
        # What is just being started looks for the directory first, so twice nothing means nothing.
        rm -rf -- "$dir" 2>/dev/null && [ "$quiet" -ge 2 ] && return
        sleep 0.05
    done
    echo "with-services: $dir could not be removed, or these are still there: $(started_for "$dir")" >&2
}

# Also for what tests start for themselves (tests/it/brokers.rs).
if [ "${1-}" = --reap ]; then
    reap "$2"
    exit
fi
[ $# -gt 0 ] || fail "usage: with-services.sh COMMAND [ARGUMENT...]"
for need in "$RABBITMQ" memcached epmd curl setpriv openssl; do
    PATH=$PATH:/usr/sbin command -v "$need" >/dev/null || fail "$need is missing: run ops/install-test-deps.sh"
done
PATH=$PATH:/usr/sbin

dir=$(mktemp -d "${TMPDIR:-/tmp}/treehaul-services.XXXXXX")
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

# start LOG COMMAND...: out of reach of the terminal's signals, and only while there is a reaper.
start() {
    local log=$1
    shift
    TREEHAUL_SERVICES=$dir setsid "$BASH" -c '[ -p "$TREEHAUL_SERVICES/alive" ] && exec "$@"' start "$@" \
        >"$log" 2>&1 </dev/null 9>&- &
    started=$!
    disown
}

# wait_for WHAT PID LOG COMMAND...: until the command succeeds, while the process lives.
wait_for() {
    local what=$1 pid=$2 log=$3 deadline=$((SECONDS + START_SECONDS))
    shift 3
    until "$@" >/dev/null 2>&1; do
        if ! kill -0 "$pid" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
            tail -n 40 "$log" >&2 || true
            fail "$what does not answer"
        fi
        sleep 0.1
    done
}

free_port && epmd=$port
free_port && distribution=$port
free_port && amqp=$port
free_port && amqps=$port
free_port && management=$port
free_port && memcached=$port

rabbit=$dir/rabbitmq
mkdir -p "$rabbit/home" "$rabbit/mnesia" "$rabbit/log"
# The command writes nothing here; nobody needs to pass through.
chmod 711 "$dir"
head -c 32 /dev/urandom | sha256sum | head -c 32 >"$rabbit/home/.erlang.cookie"
chmod 400 "$rabbit/home/.erlang.cookie"

tls=$dir/tls
mkdir -m 700 "$tls"
mkdir "$rabbit/tls"
# certificate NAME SUBJECT OPTION...: of P-256, since RSA keys take seconds.
certificate() {
    local name=$1 subject=$2
    shift 2
    (umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -batch \
        -keyout "$name.key" -out "$name.pem" -subj "/CN=$subject" "$@" 2>"$dir/openssl.out") ||
        fail "openssl: $(cat "$dir/openssl.out")"
}
signed=(-CA "$tls/ca.pem" -CAkey "$tls/ca.key" -addext basicConstraints=critical,CA:FALSE)
certificate "$tls/ca" "a CA for tests"
certificate "$tls/other-ca" "another CA"
certificate "$tls/client" treehaul-client "${signed[@]}"
certificate "$rabbit/tls/server" localhost "${signed[@]}" -addext subjectAltName=IP:127.0.0.1,DNS:localhost
cp "$tls/ca.pem" "$rabbit/tls"

cat >"$rabbit/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$amqp
management.tcp.ip = 127.0.0.1
management.tcp.port = $management
listeners.ssl.1 = 127.0.0.1:$amqps
ssl_options.cacertfile = $rabbit/tls/ca.pem
ssl_options.certfile = $rabbit/tls/server.pem
ssl_options.keyfile = $rabbit/tls/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
ssl_cert_login_from = common_name
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = AMQPLAIN
auth_mechanisms.3 = EXTERNAL
loopback_users.guest = true
log.console = false
CONF
echo '[rabbitmq_management, rabbitmq_auth_mechanism_ssl].' >"$rabbit/enabled_plugins"
if [ "$(id -u)" = 0 ]; then
    chown -R 65534:65534 "$rabbit"
fi

start "$dir/epmd.out" "${as_nobody[@]}" epmd -port "$epmd" -address 127.0.0.1
node=(HOME="$rabbit/home" ERL_EPMD_PORT="$epmd" ERL_EPMD_ADDRESS=127.0.0.1
    RABBITMQ_USE_LONGNAME=true RABBITMQ_NODENAME="treehaul$$@127.0.0.1" RABBITMQ_CONF_ENV_FILE=/dev/null)
start "$dir/rabbitmq.out" env -C "$rabbit" "${node[@]}" \
    RABBITMQ_DIST_PORT="$distribution" \
    RABBITMQ_CONFIG_FILE="$rabbit/rabbitmq.conf" \
    RABBITMQ_ADVANCED_CONFIG_FILE="$rabbit/advanced.config" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$rabbit/enabled_plugins" \
    RABBITMQ_MNESIA_BASE="$rabbit/mnesia" \
    RABBITMQ_LOG_BASE="$rabbit/log" \
    RABBITMQ_PID_FILE="$rabbit/pid" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}" \
    "${as_nobody[@]}" "$RABBITMQ"
rabbitmq_pid=$started
start "$dir/memcached.out" "${as_nobody[@]}" memcached -l 127.0.0.1 -p "$memcached" -U 0 -m 64
memcached_pid=$started

{
    echo '#!/bin/sh'
    printf 'exec env -C %q' "$rabbit"
    printf ' %q' "${node[@]}" "${as_nobody[@]}" "${RABBITMQ%/*}/rabbitmqctl"
    echo ' "$@"'
} >"$dir/rabbitmqctl"
chmod 755 "$dir/rabbitmqctl"

memcached_answers() {
    exec 3<>"/dev/tcp/127.0.0.1/$memcached" && printf 'version\r\nquit\r\n' >&3 && grep -q ^VERSION <&3
}
wait_for memcached "$memcached_pid" "$dir/memcached.out" eval '(memcached_answers)'
wait_for RabbitMQ "$rabbitmq_pid" "$dir/rabbitmq.out" is_open "$amqp"
wait_for "RabbitMQ's management" "$rabbitmq_pid" "$dir/rabbitmq.out" \
    curl -fsu guest:guest "http://127.0.0.1:$management/api/overview"

export TREEHAUL_TEST_AMQP="amqp://guest:guest@127.0.0.1:$amqp/%2f"
export TREEHAUL_TEST_AMQP_MANAGEMENT="http://guest:guest@127.0.0.1:$management"
export TREEHAUL_TEST_AMQPS="amqps://127.0.0.1:$amqps/%2f"
export TREEHAUL_TEST_TLS="$tls"
export TREEHAUL_TEST_RABBITMQCTL="$dir/rabbitmqctl"
export TREEHAUL_TEST_MEMCACHED="127.0.0.1:$memcached"
# What runs here is remembered here, and not on the machine.
export TREEHAUL_STATE_DIR="$dir/state"
# Nor does the machine's own configuration count.
export TREEHAUL_CONFIG=

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
