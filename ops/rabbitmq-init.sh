#!/usr/bin/env bash
# Prepares a RabbitMQ for a fleet. Run it again at any time: what is right is left alone.
#
#   ops/rabbitmq-init.sh [VHOST]        VHOST is treehaul, if none is given
#
# Run it as root on a node of the broker. It makes
#
#   - the virtual host;
#   - the users treehaul-worker, for `treehaul worker`, and treehaul-control, for whoever submits and follows jobs. They
#     have no tags, so they cannot use the management; and they can use nothing in the virtual host but what is named
#     treehaul.*;
#   - a password of each, if it is new, in /etc/treehaul/treehaul-worker.password and treehaul-control.password (0600): copy them
#     to where they are needed and name them there by --password-file. Where such a file exists, it says what the
#     password is. A user that exists without a file keeps its password;
#   - a policy that spreads the leaders of queues over a cluster.
#
# RabbitMQ lets everybody who may publish at all publish to every queue of a virtual host, by way of its default
# exchange. So nothing else should live in this one; and a fleet that spans machines needs a key: treehaul key new.
#
# RABBITMQCTL names another rabbitmqctl, TREEHAUL_PASSWORD_DIR another directory for the passwords.
set -euo pipefail

vhost=${1:-treehaul}
rabbitmqctl=${RABBITMQCTL:-rabbitmqctl}
passwords=${TREEHAUL_PASSWORD_DIR:-/etc/treehaul}

# Names of jobs, in queue names.
job='[0-9a-hj-km-np-tv-z]{13}'
# A worker declares and reads everything of the fleet: it leads jobs as well.
worker='treehaul\..+'
# Who submits a job makes its queues and listens to replies, but never to what is said to workers.
control="treehaul\.(jobs|control|workers|replies\..+|$job\..+)"

fail() {
    echo "rabbitmq-init: $*" >&2
    exit 1
}

ctl() {
    "$rabbitmqctl" --quiet "$@"
}

# in_first_column NAME: is it there?
in_first_column() {
    cut -f 1 | grep -qxF -- "$1"
}

if [ $# -gt 1 ] || [[ $vhost == -* ]]; then
    fail "usage: rabbitmq-init.sh [VHOST]"
fi
command -v "$rabbitmqctl" >/dev/null || fail "there is no $rabbitmqctl here: run this on a node of the broker"

vhosts=$(ctl list_vhosts --no-table-headers name) || fail "the broker does not answer: run this as root on a node of it"
if ! in_first_column "$vhost" <<<"$vhosts"; then
    ctl add_vhost "$vhost"
    echo "made the virtual host $vhost"
fi

# user NAME: makes it, or sees to its password.
user() {
    local name=$1 file=$passwords/$1.password users
    users=$(ctl list_users --no-table-headers)
    if in_first_column "$name" <<<"$users"; then
        # Passwords go by stdin: everybody can read arguments.
        if [ -e "$file" ]; then
            ctl change_password "$name" <"$file" >/dev/null
        else
            echo "the user $name exists; $file does not, so its password stays what it is"
        fi
    else
        if [ ! -e "$file" ]; then
            mkdir -p -- "$passwords"
            (umask 077 && set -o noclobber && head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$file")
            echo >>"$file"
            echo "made the user $name; its password is in $file"
        else
            echo "made the user $name; its password is that in $file"
        fi
        ctl add_user "$name" <"$file" >/dev/null
    fi
    ctl set_user_tags "$name"
}

# permit USER PATTERN: what it may configure, write and read. Everybody publishes by way of the default exchange.
permit() {
    ctl set_permissions --vhost "$vhost" "$1" "^$2\$" "^(amq\.default|$2)\$" "^$2\$"
}

user treehaul-worker
user treehaul-control
permit treehaul-worker "$worker"
permit treehaul-control "$control"
# Deliveries are counted by treehaul itself; its queues bring their own limit.
ctl set_policy --vhost "$vhost" --apply-to queues treehaul '^treehaul\.' '{"queue-leader-locator":"balanced"}'
echo "the virtual host $vhost is ready"
