#!/usr/bin/env bash
# Runs treehaul between two directories of a real Lustre, or of two.
#
#   LUSTRE_SRC=/mnt/a/dir LUSTRE_DST=/mnt/b/dir tests/lustre/run.sh [--list] [PATTERN...]
#
# Everything happens in a directory treehaul-test-PID of each, which is gone at the end; KEEP=1 leaves it. A PATTERN
# chooses tests by a part of their name. TREEHAUL names the program [default: target/release/treehaul, built if it is
# not there]. As root.
#
# A test is a function test_NAME. It is printed as ok, as FAILED with the reason, or as NOT RUN with what this
# filesystem lacks for it. Exit status: 0 if nothing failed, 1 if something did, 2 if nothing could be tried.
set -Eeuo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=${here%/tests/lustre}
# What ends a test that this filesystem cannot carry.
CANNOT=77
# Somebody else's work, such as a copytool's, may take so long.
PATIENCE_SECONDS=${PATIENCE_SECONDS:-60}
# A Lustre's own attributes, by the names that it lists.
OWN_XATTRS='lustre.*,trusted.lov,trusted.lma,trusted.link,trusted.version,trusted.dmv,trusted.lmv,trusted.som,trusted.hsm,trusted.fid,trusted.projid,trusted.dataver,trusted.pin'

stop() {
    echo "tests/lustre: $*" >&2
    exit 2
}

# --- What tests are made of ---------------------------------------------------------------------------------------

# Each ends the test.
fail() {
    echo "$*" >"$work/why"
    exit 1
}
cannot() {
    echo "$*" >"$work/why"
    exit "$CANNOT"
}

# Everything that an earlier line of a job or a machine's settings would say is left out.
haul() {
    "${alone[@]}" "$TREEHAUL" "$@"
}

# hauls STATUS COMMAND [ARGUMENT...]: runs one of treehaul's commands; its JSON is in $work/json then, and what it
# said in $work/stderr.
hauls() {
    local want=$1 command=$2 got=0
    shift 2
    haul "$command" --json "$@" >"$work/json" 2>"$work/stderr" </dev/null || got=$?
    [ "$got" = "$want" ] || fail "treehaul $command ended with $got and not $want: $(tail -n 3 "$work/stderr" | tr '\n' ' ')"
}

copies() { hauls 0 copy "$@" "$src" "$dst"; }

# The value at KEY... of the last JSON; "none" if there is none.
said() {
    python3 - "$work/json" "$@" <<'PY'
import json, sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2:]:
    value = value.get(key) if isinstance(value, dict) else None
print("none" if value is None else json.dumps(value) if isinstance(value, (dict, list)) else value)
PY
}

is() {
    [ "$1" = "$2" ] || fail "$3: '$1', and not '$2'"
}

# totals KEY VALUE [KEY VALUE...]: of the last command.
totals() {
    while [ $# -gt 0 ]; do
        is "$(said totals "$1")" "$2" "$1 of the summary"
        shift 2
    done
}

compare() {
    python3 "$repository/tests/treecmp.py" --granularity 1 --ignore sparse --ignore-xattrs "$OWN_XATTRS" "$@" \
        >"$work/differences" 2>&1
}

# same [OPTION...] SOURCE TARGET: judged by a program that has nothing of treehaul.
same() {
    compare "$@" || fail "the trees differ: $(head -n 5 "$work/differences" | tr '\n' ' ')"
}

# Nothing of treehaul's own may be left behind.
no_leftovers() {
    local left
    left=$(find "$1" -name '.treehaul*' -print -quit)
    [ -z "$left" ] || fail "left behind: $left"
}

# Once more, and nothing is to be done any more.
copies_nothing() {
    copies "$@"
    totals copied 0 updated 0 failed 0
}

mdt_of() { lfs getstripe -m "$1"; }
shape() { python3 "$here/layout.py" shape "$1"; }

# mdts DIRECTORY, osts DIRECTORY: indices of the active ones.
mdts() { lfs mdts "$1" | sed -n 's/^\([0-9][0-9]*\): .* ACTIVE *$/\1/p'; }
osts() { lfs osts "$1" | sed -n 's/^\([0-9][0-9]*\): .* ACTIVE *$/\1/p'; }

fsname_of() { lfs mdts "$1" | sed -n 's/^[0-9][0-9]*: \(.*\)-MDT[0-9a-f]*_UUID .*/\1/p' | head -n 1; }

# needs_mdts N DIRECTORY: sets mdts to the indices.
needs_mdts() {
    mapfile -t mdts < <(mdts "$2")
    [ "${#mdts[@]}" -ge "$1" ] || cannot "$2 has ${#mdts[@]} active MDT, and this takes $1"
}
needs_osts() {
    mapfile -t osts < <(osts "$2")
    [ "${#osts[@]}" -ge "$1" ] || cannot "$2 has ${#osts[@]} active OST, and this takes $1"
}

# The MDTs of directories, in the order of their names, in one line.
placed() {
    local dir all=()
    for dir in "$1"/*/; do
        all+=("$(mdt_of "$dir")")
    done
    echo "${all[*]}"
}

# around N INDEX...: the first N of going round.
around() {
    local n=$1 i all=()
    shift
    local indices=("$@")
    for ((i = 0; i < n; i++)); do
        all+=("${indices[i % ${#indices[@]}]}")
    done
    echo "${all[*]}"
}

# six DIRECTORY: as many directories in it, a file in each. All lie on one MDT, so that a copy which does nothing about
# it shows.
six() {
    local name
    for name in a b c d e f; do
        lfs mkdir -i "$(mdt_of "$1")" "$1/$name"
        echo "$name" >"$1/$name/file"
    done
}

# laid_out BYTES PATH ARGUMENT...: a file as `lfs setstripe ARGUMENT...` makes it.
laid_out() {
    local size=$1 path=$2
    shift 2
    lfs setstripe "$@" "$path" 2>"$work/setstripe" || cannot "lfs setstripe $*: $(head -n 1 "$work/setstripe")"
    head -c "$size" /dev/urandom >>"$path"
}

# until_true SECONDS COMMAND...: what others do is waited for.
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

# --- Where directories go -----------------------------------------------------------------------------------------

test_directories_of_the_first_level_alternate_over_the_mdts() {
    needs_mdts 2 "$dst_base"
    six "$src"
    copies
    same "$src" "$dst"
    is "$(placed "$dst")" "$(around 6 "${mdts[@]}")" "MDTs of the directories"
    totals misplaced 0
}

test_the_summary_tells_how_many_directories_lie_on_each_mdt() {
    needs_mdts 2 "$dst_base"
    six "$src"
    copies --mdt-policy "list:${mdts[1]},${mdts[0]},${mdts[1]}"
    is "$(said directories_by_mdt "${mdts[0]}")" 2 "directories on MDT ${mdts[0]}"
    is "$(said directories_by_mdt "${mdts[1]}")" 4 "directories on MDT ${mdts[1]}"
}

test_a_list_of_mdts_is_gone_through_in_its_order() {
    needs_mdts 2 "$dst_base"
    six "$src"
    copies --mdt-policy "list:${mdts[1]},${mdts[1]},${mdts[0]}"
    is "$(placed "$dst")" "$(around 6 "${mdts[1]}" "${mdts[1]}" "${mdts[0]}")" "MDTs of the directories"
}

test_an_mdt_that_is_not_there_is_passed_over() {
    needs_mdts 2 "$dst_base"
    six "$src"
    copies --mdt-policy "list:${mdts[1]},9999"
    same "$src" "$dst"
    is "$(placed "$dst")" "$(around 6 "${mdts[1]}")" "MDTs of the directories"
    grep -q 'MDT 9999 is not active' "$work/json" "$work/stderr" || fail "nothing is said of the MDT that is not there"
}

test_weighted_uses_every_mdt_that_has_room() {
    needs_mdts 2 "$dst_base"
    local n
    for n in $(seq 10 29); do mkdir "$src/$n"; done
    copies --mdt-policy weighted
    same "$src" "$dst"
    [ "$(placed "$dst" | tr ' ' '\n' | sort -u | wc -l)" -ge 2 ] || fail "all on one MDT: $(placed "$dst")"
}

test_inherit_stays_on_the_mdt_of_the_directory_above() {
    needs_mdts 2 "$dst_base"
    six "$src"
    lfs mkdir -i "${mdts[1]}" "$dst"
    copies --mdt-policy inherit
    is "$(placed "$dst")" "$(around 6 "${mdts[1]}")" "MDTs of the directories"
}

test_off_leaves_it_to_the_target() {
    needs_mdts 2 "$dst_base"
    six "$src"
    mkdir "$dst"
    lfs setdirstripe -D -i "${mdts[1]}" "$dst" || cannot "no default for directories can be set"
    copies --mdt-policy off
    same "$src" "$dst"
    is "$(placed "$dst")" "$(around 6 "${mdts[1]}")" "MDTs of the directories"
}

test_the_second_level_is_placed_if_asked_and_the_third_follows() {
    needs_mdts 2 "$dst_base"
    mkdir -p "$src"/{a,b}/{1,2,3,4}/below
    copies --mdt-depth 2
    same "$src" "$dst"
    is "$(placed "$dst")" "$(around 2 "${mdts[@]}")" "MDTs of the first level"
    local first second
    for first in a b; do
        is "$(placed "$dst/$first" | tr ' ' '\n' | sort -u | wc -l)" "$((${#mdts[@]} < 4 ? ${#mdts[@]} : 4))" "MDTs of $first's directories"
    done
    copies_nothing --mdt-depth 2
    rm -rf "$dst"
    copies
    for first in a b; do
        for second in 1 2 3 4; do
            is "$(mdt_of "$dst/$first/$second")" "$(mdt_of "$dst/$first")" "MDT of $first/$second"
        done
    done
}

test_a_directory_that_is_there_stays_on_its_mdt() {
    needs_mdts 2 "$dst_base"
    six "$src"
    copies --mdt-policy "list:${mdts[1]}"
    copies_nothing
    is "$(placed "$dst")" "$(around 6 "${mdts[1]}")" "MDTs of the directories"
}

# --- How files are striped ----------------------------------------------------------------------------------------

# keeps_shape NAME: the copy of a file is laid out as the file is.
keeps_shape() {
    copies
    same "$src" "$dst"
    is "$(shape "$dst/$1")" "$(shape "$src/$1")" "layout of $1"
    totals lost_layouts 0 lost_pools 0
    copies_nothing --relayout
}

test_a_plain_layout_is_kept() {
    needs_osts 2 "$dst_base"
    laid_out 3000000 "$src/two" -c 2 -S 2M
    laid_out 10 "$src/one" -c 1 -S 64K
    keeps_shape two
    is "$(shape "$dst/one")" "$(shape "$src/one")" "layout of one"
}

test_a_progressive_layout_is_kept() {
    needs_osts 2 "$dst_base"
    laid_out 3000000 "$src/file" -E 1M -c 1 -S 256K -E 64M -c 1 -S 1M -E -1 -c 2 -S 2M
    keeps_shape file
}

test_data_on_the_mdt_stay_on_the_mdt() {
    laid_out 5000 "$src/small" -E 64K -L mdt -E -1 -c 1 -S 1M
    laid_out 500000 "$src/large" -E 64K -L mdt -E -1 -c 1 -S 1M
    keeps_shape small
    is "$(shape "$dst/large")" "$(shape "$src/large")" "layout of large"
}

test_more_stripes_than_osts_are_kept() {
    needs_osts 1 "$dst_base"
    [ "${#osts[@]}" -le 100 ] || cannot "more than 100 OSTs"
    laid_out 3000000 "$src/file" -C $((2 * ${#osts[@]})) -S 64K
    keeps_shape file
}

test_a_self_extending_layout_is_kept() {
    laid_out 1000000 "$src/file" -E 256M -z 64M -c 1 -E -1 -z 128M -c 1
    keeps_shape file
}

mirrored() {
    lfs mirror create -N -c 1 -S 1M -N -c 1 -S 4M "$src/file" 2>"$work/mirror" ||
        cannot "lfs mirror create: $(head -n 1 "$work/mirror")"
    head -c 3000000 /dev/urandom >>"$src/file"
}

test_a_mirrored_file_becomes_its_first_mirror() {
    needs_osts 2 "$src_base"
    mirrored
    copies
    same "$src" "$dst"
    is "$(python3 "$here/layout.py" first "$dst/file")" "$(python3 "$here/layout.py" first "$src/file")" "layout of the copy"
    is "$(lfs getstripe --mirror-count "$dst/file")" 1 "mirrors of the copy"
    copies_nothing --relayout
}

test_mirrors_are_kept_if_asked() {
    needs_osts 2 "$src_base"
    needs_osts 2 "$dst_base"
    mirrored
    lfs mirror resync "$src/file" || cannot "mirrors cannot be made alike here"
    copies --keep-mirrors
    same "$src" "$dst"
    is "$(lfs getstripe --mirror-count "$dst/file")" 2 "mirrors of the copy"
    lfs mirror resync "$dst/file"
    is "$(lfs mirror verify "$dst/file" >/dev/null 2>&1 && echo alike)" alike "mirrors after a resync"
    same "$src" "$dst"
}

# The pools that a test makes; they are gone at the end of it.
remove_pools() {
    local pool ost
    for pool in "${made_pools[@]}"; do
        for ost in $(lctl pool_list "$pool" 2>/dev/null | sed -n 's/_UUID$//p'); do
            lctl pool_remove "$pool" "$ost" >/dev/null 2>&1 || true
        done
        lctl pool_destroy "$pool" >/dev/null 2>&1 || true
    done
}

has_pool() { lfs pool_list "$1" 2>/dev/null | grep -q OST; }

# pool FSNAME.NAME: with the first OST of it in. Takes the MGS on this node.
pool() {
    lctl pool_new "$1" >"$work/pool" 2>&1 || cannot "lctl pool_new (only an MGS can): $(head -n 1 "$work/pool")"
    made_pools+=("$1")
    lctl pool_add "$1" "${1%.*}-OST[0]" >"$work/pool" 2>&1 || cannot "lctl pool_add: $(head -n 1 "$work/pool")"
    until_true "$PATIENCE_SECONDS" has_pool "$1" || cannot "a new pool is not seen here"
}

with_pools() {
    made_pools=()
    trap remove_pools EXIT
    from=$(fsname_of "$src_base") to=$(fsname_of "$dst_base")
    [ "$from" != "$to" ] || cannot "both are one filesystem, which has one set of pools"
}

test_a_pool_that_the_target_lacks_is_dropped_and_counted() {
    with_pools
    pool "$from.thtest1"
    laid_out 100000 "$src/file" -c 1 -S 1M -p thtest1
    copies
    same "$src" "$dst"
    totals lost_pools 1 lost_layouts 0
    is "$(shape "$dst/file")" "$(shape "$src/file" | sed 's/ pool=thtest1//')" "layout of the copy"
    copies_nothing --relayout
}

test_a_pool_gets_the_name_that_it_has_in_the_target() {
    with_pools
    pool "$from.thtest2"
    pool "$to.thtest3"
    laid_out 100000 "$src/file" -c 1 -S 1M -p thtest2
    copies --pool-map thtest2=thtest3
    totals lost_pools 0 lost_layouts 0
    is "$(shape "$dst/file")" "$(shape "$src/file" | sed 's/thtest2/thtest3/')" "layout of the copy"
    copies --pool-map thtest2=thtest3 --pool thtest2
    totals copied 0 failed 0
}

test_only_files_of_a_pool_are_copied_if_asked() {
    with_pools
    pool "$from.thtest4"
    laid_out 1000 "$src/in" -c 1 -p thtest4
    laid_out 1000 "$src/out" -c 1
    copies --pool thtest4
    is "$(cd "$dst" && find . -type f | sort | tr '\n' ' ')" "$(cd "$src" && lfs find . --pool thtest4 -type f | sort | tr '\n' ' ')" \
        "files in the pool"
}

test_default_layouts_of_directories_are_kept() {
    needs_osts 2 "$dst_base"
    mkdir -p "$src/striped" "$src/plain"
    lfs setstripe -E 1M -c 1 -S 256K -E -1 -c 2 -S 1M "$src/striped"
    touch "$src/striped/file"
    copies
    same "$src" "$dst"
    is "$(shape "$dst/striped")" "$(shape "$src/striped")" "default layout"
    is "$(shape "$dst/plain")" "$(shape "$dst")" "default layout of a directory that has none of its own"
    copies_nothing
    lfs setstripe -d "$src/striped"
    copies
    is "$(shape "$dst/striped")" "$(shape "$dst/plain")" "default layout after it was removed"
    copies_nothing
}

test_a_layout_for_all_files_is_used() {
    needs_osts 2 "$dst_base"
    laid_out 100000 "$src/file" -E 1M -c 1 -E -1 -c 2
    copies --layout stripe:count=2,size=512K
    same "$src" "$dst"
    is "$(shape "$dst/file")" "0-end raid0 count=2 size=524288" "layout of the copy"
}

test_the_targets_own_layout_is_used_if_asked() {
    laid_out 100000 "$src/file" -c 1 -S 4M
    mkdir "$dst"
    lfs setstripe -c 1 -S 256K "$dst"
    copies --layout default
    is "$(shape "$dst/file")" "0-end raid0 count=1 size=262144" "layout of the copy"
}

test_a_policy_file_chooses_by_size_and_name() {
    needs_osts 2 "$dst_base"
    laid_out 1000000 "$src/large" -c 1 -S 256K
    laid_out 1000 "$src/small" -c 1 -S 256K
    laid_out 1000000 "$src/large.keep" -c 1 -S 256K
    cat >"$work/policy.toml" <<'TOML'
[[rule]]
name = "*.keep"
layout = "preserve"

[[rule]]
min-size = "500K"
layout = "stripe:count=2,size=1M"
TOML
    copies --layout "policy:$work/policy.toml"
    same "$src" "$dst"
    is "$(shape "$dst/large")" "0-end raid0 count=2 size=1048576" "layout of a large file"
    is "$(shape "$dst/small")" "$(shape "$src/small")" "layout of a small file"
    is "$(shape "$dst/large.keep")" "$(shape "$src/large.keep")" "layout of a file by its name"
}

test_an_existing_file_gets_another_layout_only_if_asked() {
    laid_out 100000 "$src/file" -c 1 -S 1M
    copies --layout stripe:count=1,size=256K
    local before
    before=$(shape "$dst/file")
    copies_nothing
    is "$(shape "$dst/file")" "$before" "layout without --relayout"
    copies --relayout
    totals copied 1 failed 0
    is "$(shape "$dst/file")" "$(shape "$src/file")" "layout after --relayout"
    same "$src" "$dst"
    copies_nothing --relayout
}

test_files_do_not_gather_on_the_osts_that_they_had() {
    needs_osts 2 "$src_base"
    needs_osts 2 "$dst_base"
    local n first
    first=$(osts "$src_base" | head -n 1)
    for n in $(seq 16); do
        laid_out 1000 "$src/$n" -c 1 -i "$first"
    done
    is "$(python3 "$here/layout.py" osts "$src"/*)" "$first" "OSTs of the source's files"
    copies
    [ "$(python3 "$here/layout.py" osts "$dst"/* | wc -w)" -ge 2 ] || fail "all on OST $(python3 "$here/layout.py" osts "$dst"/*)"
}

# --- What is kept -------------------------------------------------------------------------------------------------

# The strangest tree there is, with directories on all MDTs.
ugly() {
    local index
    for index in $(mdts "$src_base"); do
        lfs mkdir -i "$index" "$src/on-mdt-$index"
    done
    python3 "$here/tree.py" "$src"
}

test_everything_is_kept_and_a_second_run_copies_nothing() {
    ugly
    copies
    totals failed 0 lost_xattrs 0 lost_acls 0 lost_hard_links 0 lost_owner 0 lost_mode 0 lost_times 0
    same "$src" "$dst"
    copies_nothing
    same "$src" "$dst"
    no_leftovers "$dst"
}

test_verify_finds_equal_trees_equal_and_others_not() {
    ugly
    copies
    hauls 0 verify --content "$src" "$dst"
    totals different 0
    printf y >>"$dst/kinds/odd-size"
    hauls 1 verify --content "$src" "$dst"
    totals different 1
}

takes_room() { [ "$(stat -c %b "$1")" -gt 0 ]; }

test_holes_stay_holes() {
    dd if=/dev/zero of="$src/file" bs=1 count=1 seek=$((1 << 30)) conv=notrunc status=none
    dd if=/dev/urandom of="$src/file" bs=64K count=1 seek=4096 conv=notrunc,fsync status=none
    copies
    same "$src" "$dst"
    # A Lustre knows what a file takes only when its OSTs have written it out.
    python3 -c 'import os, sys; os.fsync(os.open(sys.argv[1], os.O_RDONLY))' "$dst/file"
    until_true "$PATIENCE_SECONDS" takes_room "$dst/file" || fail "the data take no room at all"
    [ "$(stat -c %b "$dst/file")" -lt $((64 << 11)) ] || fail "1 GiB with 64 KiB of data takes $(stat -c %b "$dst/file") blocks"
}

test_access_times_of_the_source_are_left_alone() {
    laid_out 1000 "$src/file" -c 1
    touch -d '2001-02-03 04:05:06' "$src/file"
    copies
    is "$(stat -c %x "$src/file")" "$(stat -c %y "$src/file")" "access time of the source"
}

test_a_file_that_changed_is_replaced_and_its_other_names_with_it() {
    mkdir "$src/d"
    echo one >"$src/file"
    ln "$src/file" "$src/d/name"
    copies
    echo two, longer >"$src/file"
    mkdir "$src/e"
    rm -r "$src/d"
    echo instead >"$src/d"
    hauls 0 sync --delete "$src" "$dst"
    same "$src" "$dst"
    no_leftovers "$dst"
}

test_what_only_the_target_has_is_deleted_by_sync() {
    needs_mdts 1 "$dst_base"
    six "$src"
    copies
    lfs mkdir -i "${mdts[-1]}" "$dst/c/extra"
    touch "$dst/c/extra/file"
    rm -r "$src/b"
    hauls 0 sync --delete "$src" "$dst"
    same "$src" "$dst"
}

is_begun_or_dead() {
    [ "$(find "$dst" -type f 2>/dev/null | wc -l)" -ge 20 ] || ! kill -0 "$1" 2>/dev/null
}

test_a_killed_copy_goes_on_where_it_stopped() {
    needs_mdts 1 "$dst_base"
    local n pid status=0
    six "$src"
    for n in $(seq 200); do
        head -c 3000 /dev/urandom >"$src/c/$n"
    done
    # No function: the signal is for the program itself.
    "${alone[@]}" "$TREEHAUL" copy -q --ops-limit 300 "$src" "$dst" >"$work/killed" 2>&1 </dev/null &
    pid=$!
    until_true "$PATIENCE_SECONDS" is_begun_or_dead "$pid"
    kill -9 "$pid" 2>/dev/null || true
    wait "$pid" || status=$?
    is "$status" 137 "exit status of the killed copy"
    [ "$(find "$dst" -type f | wc -l)" -lt 206 ] || fail "it was over before it was killed"
    copies
    same "$src" "$dst"
    [ "${#mdts[@]}" -lt 2 ] || is "$(placed "$dst")" "$(around 6 "${mdts[@]}")" "MDTs of the directories"
    no_leftovers "$dst"
    copies_nothing
}

test_a_large_file_is_copied_in_chunks_and_keeps_its_layout() {
    needs_osts 2 "$dst_base"
    laid_out 30000000 "$src/file" -c 2 -S 4M
    laid_out 20000000 "$src/odd" -c 2 -S 3M
    copies --chunk-from 8M --chunk-size 4M
    same "$src" "$dst"
    is "$(shape "$dst/file")" "$(shape "$src/file")" "layout of the copy"
    is "$(shape "$dst/odd")" "$(shape "$src/odd")" "layout of the copy"
    no_leftovers "$dst"
    copies_nothing --chunk-from 8M --chunk-size 4M
}

test_data_are_on_stable_storage_if_asked() {
    six "$src"
    laid_out 10000000 "$src/large" -c 1
    copies --fsync files --chunk-from 8M --chunk-size 4M
    totals failed 0
    same "$src" "$dst"
    no_leftovers "$dst"
    copies_nothing --fsync files
}

# The number and the flag alone.
project_of() { lfs project -d "$1" | awk '{ print $1, $2 }'; }

test_quota_projects_and_their_inheritance_are_kept() {
    mkdir "$src/d"
    echo x >"$src/other"
    lfs project -p 1234 -s "$src/d" 2>"$work/project" || cannot "lfs project: $(head -n 1 "$work/project")"
    echo x >"$src/d/inherits"
    mkdir "$src/d/below"
    lfs project -p 77 "$src/other"
    [ "$(project_of "$src/d")" = "1234 P" ] || cannot "no projects are kept here: $(project_of "$src/d")"
    copies
    totals lost_projects 0
    local path
    for path in . d d/below; do
        is "$(project_of "$dst/$path")" "$(project_of "$src/$path")" "project of $path"
    done
    for path in d/inherits other; do
        is "$(lfs project "$dst/$path" | awk '{ print $1, $2 }')" "$(lfs project "$src/$path" | awk '{ print $1, $2 }')" "project of $path"
    done
    copies_nothing
    lfs project -p 4321 "$src/other"
    copies
    totals copied 0 updated 1
    is "$(lfs project "$dst/other" | awk '{ print $1 }')" 4321 "project after a change"
}

test_a_tree_goes_to_a_local_filesystem_and_back() {
    local away=$work/away back=$dst
    ugly
    mkdir "$away"
    setfattr -n user.treehaul -v 1 "$away" 2>/dev/null || cannot "$work keeps no user.* attributes: set TMPDIR"
    setfattr -x user.treehaul "$away"
    hauls 0 copy "$src" "$away"
    totals failed 0
    same "$src" "$away"
    hauls 0 copy "$src" "$away"
    totals copied 0 updated 0
    hauls 0 copy "$away" "$back"
    totals failed 0
    same "$away" "$back"
    same "$src" "$back"
    hauls 0 copy "$away" "$back"
    totals copied 0 updated 0
}

# --- Archived files -----------------------------------------------------------------------------------------------

# The path comes first, and may have the word in it.
is_state() { lfs hsm_state "$1" | sed 's/^.*: (0x//' | grep -qw "$2"; }
is_released() { is_state "$1" released; }

# released NAME: a file whose data are only in an archive.
released() {
    head -c 200000 /dev/urandom >"$src/$1"
    sha256sum <"$src/$1" >"$work/$1.sum"
    sync -f "$src/$1"
    lfs hsm_archive "$src/$1" 2>"$work/hsm" || cannot "lfs hsm_archive: $(head -n 1 "$work/hsm")"
    until_true "$PATIENCE_SECONDS" is_state "$src/$1" archived || cannot "nothing is archived: no copytool is at work"
    lfs hsm_release "$src/$1"
    is_released "$src/$1" || fail "$1 is not released"
}

test_a_released_file_fails_and_is_listed_and_nothing_is_recalled() {
    released gone
    echo x >"$src/other"
    hauls 3 copy "$src" "$dst"
    totals failed 1
    said failures | grep -q '"gone"' || fail "the file is not listed: $(said failures)"
    [ -f "$dst/other" ] || fail "the other file is not there"
    [ ! -e "$dst/gone" ] || fail "the released file is there"
    is_released "$src/gone" || fail "the file was recalled"
}

test_a_released_file_is_left_out_if_asked() {
    released gone
    echo x >"$src/other"
    copies --hsm skip
    totals failed 0 released 1
    [ -f "$dst/other" ] || fail "the other file is not there"
    [ ! -e "$dst/gone" ] || fail "the released file is there"
    is_released "$src/gone" || fail "the file was recalled"
}

test_a_released_file_is_recalled_and_copied_if_asked() {
    released gone
    copies --hsm copy
    totals failed 0
    is "$(sha256sum <"$dst/gone")" "$(cat "$work/gone.sum")" "contents of the copy"
    is_released "$src/gone" && fail "the file is still released"
    same "$src" "$dst"
}

test_a_released_file_that_is_copied_already_is_not_recalled() {
    echo x >"$src/other"
    head -c 200000 /dev/urandom >"$src/gone"
    copies
    sync -f "$src/gone"
    lfs hsm_archive "$src/gone" 2>"$work/hsm" || cannot "lfs hsm_archive: $(head -n 1 "$work/hsm")"
    until_true "$PATIENCE_SECONDS" is_state "$src/gone" archived || cannot "nothing is archived: no copytool is at work"
    lfs hsm_release "$src/gone"
    copies_nothing
    hauls 0 verify "$src" "$dst"
    is_released "$src/gone" || fail "the file was recalled"
}

# --- What takes part ----------------------------------------------------------------------------------------------

files_below() { (cd "$1" && find . "${@:2}" | LC_ALL=C sort | tr '\n' ' '); }
found_below() { (cd "$1" && lfs find . "${@:2}" | LC_ALL=C sort | tr '\n' ' '); }

test_only_files_on_an_ost_are_copied_if_asked() {
    needs_osts 2 "$src_base"
    mkdir "$src/d"
    laid_out 1000 "$src/first" -c 1 -i "${osts[0]}"
    laid_out 1000 "$src/d/second" -c 1 -i "${osts[1]}"
    laid_out 3000000 "$src/both" -c 2 -S 1M
    laid_out 1000 "$src/d/part" -E 1M -c 1 -i "${osts[0]}" -E -1 -c 1
    ln -s first "$src/symlink"
    copies --on-ost "${osts[0]}"
    is "$(files_below "$dst" -type f)" "$(found_below "$src" --ost "${osts[0]}" -type f)" "files on OST ${osts[0]}"
    rm -rf "$dst"
    copies --on-ost "${osts[0]}" --on-ost "${osts[1]}"
    is "$(files_below "$dst" -type f)" "$(files_below "$src" -type f)" "files on both"
}

test_only_what_lies_on_an_mdt_is_copied_if_asked() {
    needs_mdts 2 "$src_base"
    local index
    for index in "${mdts[@]:0:2}"; do
        lfs mkdir -i "$index" "$src/on-$index"
        echo x >"$src/on-$index/file"
        ln -s file "$src/on-$index/symlink"
    done
    copies --on-mdt "${mdts[1]}"
    is "$(files_below "$dst" ! -type d)" "./on-${mdts[1]}/file ./on-${mdts[1]}/symlink " "what lies on MDT ${mdts[1]}"
    is "$(files_below "$dst" -type f)" "$(found_below "$src" -m "${mdts[1]}" -type f)" "files on MDT ${mdts[1]}"
}

test_filters_by_place_are_refused_where_nothing_has_one() {
    mkdir "$work/local"
    haul copy --on-ost 0 "$work/local" "$dst" >"$work/out" 2>&1 </dev/null && fail "it was accepted"
    grep -q -- --on-ost "$work/out" || fail "the option is not named: $(head -n 1 "$work/out")"
}

# --- What is told -------------------------------------------------------------------------------------------------

test_doctor_names_servers_and_layouts() {
    local status=0 index topic
    mkdir "$dst"
    haul doctor --json "$src" "$dst" >"$work/json" 2>"$work/stderr" </dev/null || status=$?
    # Times are cut down to seconds on both sides; whatever else is lost is the mount's.
    [ "$status" = 0 ] || [ "$status" = 1 ] || fail "doctor ended with $status: $(tail -n 3 "$work/stderr" | tr '\n' ' ')"
    topics=$(python3 -c 'import json, sys
for row in json.load(open(sys.argv[1]))["rows"]:
    print(row["about"], row["topic"], row["verdict"], sep="|")' "$work/json")
    for index in $(mdts "$src_base"); do
        grep -qx "source|MDT $index|.*" <<<"$topics" || fail "MDT $index of the source is not named"
    done
    for index in $(osts "$dst_base"); do
        grep -qx "target|OST $index|.*" <<<"$topics" || fail "OST $index of the target is not named"
    done
    for topic in 'Lustre filesystem' 'Lustre client' 'default layout' 'mount: flock' HSM 'changelog users'; do
        grep -q "^target|$topic|" <<<"$topics" || fail "nothing is said of: $topic"
    done
    no_leftovers "$dst"
    haul doctor "$src" "$dst" >"$work/out" 2>&1 </dev/null || true
    grep -q "MDT $(mdts "$dst_base" | head -n 1) " "$work/out" || fail "no MDT is named for people"
    haul doctor --json / "$work" 2>/dev/null </dev/null | grep -q '"MDTs"' && fail "MDTs are named where none are"
    true
}

# --- The run ------------------------------------------------------------------------------------------------------

all_tests() { declare -F | sed -n 's/^declare -f test_//p'; }

# In the order of this file.
in_order() { sed -n 's/^test_\([a-z0-9_]*\)() {$/\1/p' "${BASH_SOURCE[0]}"; }

check_surroundings() {
    local what command
    for what in LUSTRE_SRC LUSTRE_DST; do
        [ -n "${!what-}" ] || stop "$what is not set: LUSTRE_SRC=/mnt/a/dir LUSTRE_DST=/mnt/b/dir make test-lustre"
    done
    [ "$(id -u)" = 0 ] || stop "run it as root"
    for command in lfs python3 setfattr; do
        command -v "$command" >/dev/null || stop "$command is missing"
    done
    for what in LUSTRE_SRC LUSTRE_DST; do
        [ -d "${!what}" ] || stop "$what=${!what} is no directory"
        is_lustre "${!what}" || stop "$what=${!what} is not on a Lustre"
    done
    [ -x "$TREEHAUL" ] || (cd "$repository" && cargo build --release --locked) || stop "there is no $TREEHAUL"
}

# 0x0bd00bd0
is_lustre() { [ "$(stat -f -c %t "$1")" = bd00bd0 ]; }

clean() {
    [ -n "${KEEP-}" ] || rm -rf -- "$src_base" "$dst_base" "$work"
}

# run NAME: prints how it went.
run() {
    local name=$1 status=0 began=$SECONDS why
    src=$src_base/$name/src dst=$dst_base/$name/dst
    mkdir -p "$src" "${dst%/dst}"
    rm -f "$work/why"
    # Not in a condition: set -e would not hold within.
    set +e
    (
        set -e
        trap 'echo "line $LINENO: $BASH_COMMAND" >>"$work/why"' ERR
        "test_$name"
    ) >"$work/log" 2>&1
    status=$?
    set -e
    why=$(head -n 1 "$work/why" 2>/dev/null || true)
    case $status in
        0) ok=$((ok + 1)) && echo "ok       ${name//_/ } ($((SECONDS - began)) s)" ;;
        "$CANNOT") not_run=$((not_run + 1)) && echo "NOT RUN  ${name//_/ }: $why" ;;
        *)
            failed=$((failed + 1))
            echo "FAILED   ${name//_/ }: ${why:-status $status}"
            sed 's/^/           /' "$work/log" | tail -n 20
            ;;
    esac
    [ -n "${KEEP-}" ] || rm -rf -- "${src_base:?}/$name" "${dst_base:?}/$name" "$work/state" "$work/away" "$work/local"
}

chosen() {
    local name pattern
    for name in $(in_order); do
        [ $# -gt 0 ] || echo "$name"
        for pattern in "$@"; do
            if [[ $name == *"$pattern"* ]]; then
                echo "$name"
                break
            fi
        done
    done
}

TREEHAUL=${TREEHAUL:-$repository/target/release/treehaul}
# One that is not found would not be run, and nobody would know.
[ "$(in_order | sort)" = "$(all_tests | sort)" ] || stop "a test's name is not as it should be: $(diff <(in_order | sort) <(all_tests | sort))"
if [ "${1-}" = --list ]; then
    in_order
    exit
fi
check_surroundings
work=$(mktemp -d "${TMPDIR:-/tmp}/treehaul-lustre.XXXXXX")
src_base=$(mktemp -d "$LUSTRE_SRC/treehaul-test-$$.XXXXXX")
dst_base=$(mktemp -d "$LUSTRE_DST/treehaul-test-$$.XXXXXX")
chmod 755 "$src_base" "$dst_base"
alone=(env -u TREEHAUL_BROKER -u TREEHAUL_MEMCACHED TREEHAUL_CONFIG= "TREEHAUL_STATE_DIR=$work/state")
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# What the directories above hand down is not what is tried.
lfs setstripe -d "$src_base" "$dst_base" 2>/dev/null || true
ok=0 failed=0 not_run=0
mapfile -t names < <(chosen "$@")
[ "${#names[@]}" -gt 0 ] || stop "no test is called like that; --list names them"
for name in "${names[@]}"; do
    run "$name"
done
echo "$ok ok, $failed failed, $not_run not run"
[ "$failed" = 0 ]
