#!/usr/bin/env bash
# The workers of this node, without a service manager.
#
#   ops/run-workers.sh start [-n COUNT] [-- WORKER ARGUMENTS]   COUNT workers (1) in the background; those that run stay
#   ops/run-workers.sh stop [--now] [--wait SECONDS]            SIGTERM, and waits (60 s); --now: SIGKILL
#   ops/run-workers.sh status                                   which run, and since when
#   ops/run-workers.sh try_dir [-- WORKER ARGUMENTS]            in the foreground: one actor that lists directories,
#   ops/run-workers.sh try_file [-- WORKER ARGUMENTS]           one that works on files; both say everything they do
#
# Workers are called HOST, HOST-2, HOST-3 ...; HOST is TREEHAUL_NAME or the name of this node. A worker that is told to
# stop finishes what it has in hand; one that is killed loses nothing either, its tasks go to others.
#
# Settings of workers (TREEHAUL_BROKER and the like) come from the environment and, where that lacks them, from a file of
# NAME=VALUE lines, as systemd reads it too; see ops/worker.env.example. It is read, not run.
#
#   TREEHAUL_WORKER_ENV   that file (/etc/treehaul/worker.env)
#   TREEHAUL_RUN_DIR      pid files and logs (/run/treehaul, or $XDG_RUNTIME_DIR/treehaul for a normal user)
#   TREEHAUL_BIN          the program (treehaul, from the path)
#
# Exit status: 0 done, for status: all run; 1 something did not start, does not stop, or died; 2 usage; 3 for status:
# none runs.
set -euo pipefail

# A worker that cannot work says so and ends sooner; one that waits for something may need longer to say that it works.
START_SECONDS=10
STOP_SECONDS=60

say() {
    echo "run-workers: $*" >&2
}

fail() {
    say "$@"
    exit 1
}

usage() {
    [ $# -eq 0 ] || say "$@"
    sed -n '/^#   ops/s/^#   //p' "$0" >&2
    exit 2
}

is_count() {
    [[ $1 =~ ^[1-9][0-9]{0,3}$ ]]
}

# NAME=VALUE lines: blank lines and those that begin with # or ; are left out, one pair of quotes around a value goes.
# Nothing is expanded, and what the environment has already stays.
read_settings() {
    local file=$1 line name value
    [ -e "$file" ] || return 0
    [ -r "$file" ] || fail "$file cannot be read"
    if [ -n "$(find -L "$file" -maxdepth 0 -perm /044)" ] && grep -q '^TREEHAUL_AMQP_PASSWORD=' "$file"; then
        say "$file holds a password and can be read by others: chmod 600 $file"
    fi
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line#"${line%%[![:space:]]*}"}
        line=${line%"${line##*[![:space:]]}"}
        case $line in '' | '#'* | ';'*) continue ;; esac
        name=${line%%=*} value=${line#*=}
        [[ $line == *=* && $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || fail "$file: no NAME=VALUE: ${name@Q}"
        case $value in
            \"*\") value=${value#\"} value=${value%\"} ;;
            \'*\') value=${value#\'} value=${value%\'} ;;
        esac
        [ -n "${!name+set}" ] || export "$name=$value"
    done <"$file"
}

# When a process began, in ticks since the machine did: with its number, this names a process for good.
born() {
    local stat
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    # The command's name is in parentheses and may hold anything.
    read -ra stat <<<"${stat##*) }"
    [ "${stat[0]}" != Z ] && echo "${stat[19]}"
}

# The pid of the worker whose pid file is $1, if it runs.
pid_of() {
    local pid ticks
    { read -r pid ticks <"$1"; } 2>/dev/null || return 1
    [ -n "$ticks" ] && [ "$(born "$pid")" = "$ticks" ] && echo "$pid"
}

pid_files() {
    find "$run_dir" -maxdepth 1 -name '*.pid' 2>/dev/null | sort -V
}

name_of() {
    basename "$1" .pid
}

# start_one NAME ARGUMENTS...
start_one() {
    local name=$1 log=$run_dir/$1.log pid_file=$run_dir/$1.pid pid
    shift
    if pid=$(pid_of "$pid_file"); then
        echo "$name runs already, pid $pid"
        return
    fi
    [ ! -e "$log" ] || mv -f -- "$log" "$log.1"
    setsid "$program" worker --name "$name" "$@" >"$log" 2>&1 </dev/null 9>&- &
    pid=$!
    disown
    # Written aside: whoever looks finds a whole one.
    echo "$pid $(born "$pid" || true)" >"$pid_file.new"
    mv -f -- "$pid_file.new" "$pid_file"
    began "$name" "$pid_file" "$log"
}

# Waits until a worker says that it works, or ends.
began() {
    local name=$1 pid_file=$2 log=$3 pid deadline=$((SECONDS + START_SECONDS))
    while pid=$(pid_of "$pid_file"); do
        if grep -q -e ' working' -e '"message":"working"' "$log"; then
            echo "$name works, pid $pid"
            return
        fi
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "$name has been started, pid $pid, and has not said that it works: see $log"
            return
        fi
        sleep 0.1
    done
    rm -f -- "$pid_file"
    say "$name ended:"
    tail -n 5 -- "$log" >&2
    return 1
}

start() {
    local count=1 status=0 i
    while [ $# -gt 0 ]; do
        case $1 in
            -n) { [ $# -ge 2 ] && is_count "$2"; } || usage "-n needs a number from 1 to 9999"; count=$2; shift 2 ;;
            --) shift; break ;;
            *) usage "'$1' is not understood" ;;
        esac
    done
    command -v "$program" >/dev/null || fail "there is no '$program': install it, or set TREEHAUL_BIN"
    for i in $(seq "$count"); do
        if [ "$i" = 1 ]; then i=; else i=-$i; fi
        start_one "$host$i" "$@" || status=1
    done
    return $status
}

stop() {
    local signal=TERM seconds=$STOP_SECONDS file pid left=()
    while [ $# -gt 0 ]; do
        case $1 in
            --now) signal=KILL; shift ;;
            --wait) { [ $# -ge 2 ] && [[ $2 =~ ^[0-9]{1,6}$ ]]; } || usage "--wait needs seconds"; seconds=$2; shift 2 ;;
            *) usage "'$1' is not understood" ;;
        esac
    done
    while read -r file; do
        if pid=$(pid_of "$file"); then
            kill "-$signal" "$pid" 2>/dev/null || true
            left+=("$file")
        else
            rm -f -- "$file"
        fi
    done < <(pid_files)
    [ ${#left[@]} -gt 0 ] || { echo "no worker runs"; return; }
    await_end "$seconds" "${left[@]}"
}

# await_end SECONDS PID_FILE...
await_end() {
    local deadline=$((SECONDS + $1)) file pid left
    shift
    while :; do
        left=()
        for file; do
            if pid=$(pid_of "$file"); then
                left+=("$file")
            else
                rm -f -- "$file"
                echo "$(name_of "$file") has stopped"
            fi
        done
        [ ${#left[@]} -gt 0 ] || return 0
        set -- "${left[@]}"
        [ "$SECONDS" -lt "$deadline" ] || break
        sleep 0.1
    done
    for file; do
        say "$(name_of "$file") still runs, pid $(pid_of "$file" || echo none): wait for it, or use stop --now"
    done
    return 1
}

status() {
    local file pid runs=0 dead=0
    [ $# -eq 0 ] || usage "'$1' is not understood"
    while read -r file; do
        if pid=$(pid_of "$file"); then
            runs=$((runs + 1))
            echo "$(name_of "$file") runs, pid $pid, since $(ps -o lstart= -p "$pid" || echo 'a moment ago')"
        else
            dead=$((dead + 1))
            echo "$(name_of "$file") died; its log is ${file%.pid}.log"
        fi
    done < <(pid_files)
    [ "$runs" -gt 0 ] || { [ "$dead" -gt 0 ] || echo "no worker runs"; return 3; }
    [ "$dead" -eq 0 ]
}

# try_one QUEUES ARGUMENTS...
try_one() {
    local queues=$1
    shift
    case ${1-} in
        --) shift ;;
        '') ;;
        *) usage "'$1' is not understood" ;;
    esac
    exec "$program" worker -v --name "$host-try-$queues" --queues "$queues" --dir-actors 1 --file-actors 1 "$@"
}

# So that only one of these changes what runs.
lock() {
    umask 077
    mkdir -p -- "$run_dir"
    [ -O "$run_dir" ] || fail "$run_dir is somebody else's"
    exec 9>"$run_dir/lock"
    flock 9
}

read_settings "${TREEHAUL_WORKER_ENV-/etc/treehaul/worker.env}"
program=${TREEHAUL_BIN:-treehaul}
host=${TREEHAUL_NAME:-$(uname -n)}
[[ $host =~ ^[A-Za-z0-9_][A-Za-z0-9._-]*$ ]] || fail "${host@Q} is no name for a worker: set TREEHAUL_NAME"
if [ "$(id -u)" = 0 ]; then
    run_dir=${TREEHAUL_RUN_DIR:-/run/treehaul}
else
    # A directory that anybody could have made first is no default.
    run_dir=${TREEHAUL_RUN_DIR:-${XDG_RUNTIME_DIR:+$XDG_RUNTIME_DIR/treehaul}}
    [ -n "$run_dir" ] || fail "neither TREEHAUL_RUN_DIR nor XDG_RUNTIME_DIR is set"
fi

verb=${1-}
[ $# -eq 0 ] || shift
case $verb in
    start | stop) lock && "$verb" "$@" ;;
    status) status "$@" ;;
    try_dir) try_one dirs "$@" ;;
    try_file) try_one files "$@" ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" ;;
    *) usage ;;
esac
