#!/usr/bin/env python3
"""Compares two trees without a line of treehaul in it.

    treecmp.py [--json] [--atime] [--ignore KIND[,KIND...]] [--ignore-xattrs GLOB[,GLOB...]]
               [--granularity SECONDS] [--examples N] SOURCE TARGET

Kinds of differences: missing, extra, type, size, contents, mode, owner, mtime, atime (only with --atime), target (of a
symlink), device, links (names of one inode are names of one inode on the other side too), xattr, acl, sparse (the
target's file takes more than 64 KiB and a quarter more room than the source's). A symlink's mode is not looked at. A
directory that is missing or extra counts once, with all that is in it.

Names are bytes, symlinks are never followed, and no path is handed to the kernel: the walk goes down by name and up by
"..", so depth does not matter. Runs that are a hole on both sides are not read.

Exit status: 0 the same, 1 different, 2 the comparison itself failed.
"""

import argparse
import errno
import fnmatch
import json
import os
import stat
import sys

BLOCK_BYTES = 1 << 20
SPARSE_SLACK_BYTES = 64 << 10
# A filesystem without these attributes, or one that went away meanwhile.
NO_XATTRS = (errno.ENOTSUP, errno.ENODATA)


class Place:
    """A directory that is held open, and the way back up."""

    def __init__(self, root):
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self.above = []

    def down(self, name):
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.fd)
        self.above.append(self.identity())
        os.close(self.fd)
        self.fd = below

    def up(self):
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = above
        if self.identity() != self.above.pop():
            raise RuntimeError("a directory was moved while it was compared")

    def identity(self):
        here = os.fstat(self.fd)
        return here.st_dev, here.st_ino

    def names(self):
        return {os.fsencode(name) for name in os.listdir(self.fd)}

    def stat(self, name):
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    def xattrs(self, name):
        path = b"/proc/self/fd/%d/%s" % (self.fd, name)
        try:
            return {key: os.getxattr(path, key, follow_symlinks=False)
                    for key in os.listxattr(path, follow_symlinks=False)}
        except OSError as error:
            if error.errno in NO_XATTRS:
                return {}
            raise


def kind(status):
    return stat.S_IFMT(status.st_mode)


def word(status):
    words = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
             stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device"}
    return words.get(kind(status), "unknown")


def printable(path):
    """Nothing in a name may steer a terminal."""
    return repr(path)[2:-1] if path else "."


def shortened(text):
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"


def data_from(fd, offset, size):
    """Where the next data begins; `size` if there is none."""
    try:
        return min(os.lseek(fd, offset, os.SEEK_DATA), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        return offset


def first_difference(one, two, size):
    """The offset near which two files of one size differ, or None."""
    at = 0
    while at < size:
        at = min(data_from(one, at, size), data_from(two, at, size))
        if at >= size:
            break
        left, right = os.pread(one, BLOCK_BYTES, at), os.pread(two, BLOCK_BYTES, at)
        if left != right:
            same = len(os.path.commonprefix([left, right]))
            return at + same
        if not left:
            return at
        at += len(left)
    return None


class Comparison:
    def __init__(self, options):
        self.atime = options.atime
        self.ignored = set(options.ignore.split(",")) if options.ignore else set()
        self.foreign = options.ignore_xattrs.split(",") if options.ignore_xattrs else []
        self.step_ns = round(options.granularity * 1e9)
        self.examples = options.examples
        self.counts = {}
        self.shown = {}
        self.entries = 0
        self.bytes = 0
        # Inode on one side -> inode on the other, both ways: hard links are kept if both are functions.
        self.partner = ({}, {})
        self.compared = set()

    def differs(self, what, path, detail=""):
        if what in self.ignored:
            return
        self.counts[what] = self.counts.get(what, 0) + 1
        shown = self.shown.setdefault(what, [])
        if len(shown) < self.examples:
            shown.append((printable(path), detail))

    def trees(self, source, target):
        here, there = Place(source), Place(target)
        self.attributes(b"", here, there, b".", here.stat(b"."), there.stat(b"."))
        self.entries += 1
        path = []
        pending = [self.level(path, here, there)]
        while pending:
            if pending[-1]:
                name = pending[-1].pop()
                here.down(name)
                there.down(name)
                path.append(name)
                pending.append(self.level(path, here, there))
            else:
                pending.pop()
                if pending:
                    here.up()
                    there.up()
                    path.pop()

    def level(self, path, here, there):
        """Compares what is in one directory; returns the child directories that both sides have."""
        ours, theirs = here.names(), there.names()
        at = lambda name: b"/".join(path + [name])
        for name in sorted(ours - theirs):
            self.differs("missing", at(name), word(here.stat(name)))
        for name in sorted(theirs - ours):
            self.differs("extra", at(name), word(there.stat(name)))
        below = []
        for name in sorted(ours & theirs):
            if self.entry(at(name), here, there, name):
                below.append(name)
        return below

    def entry(self, path, here, there, name):
        source, target = here.stat(name), there.stat(name)
        self.entries += 1
        if kind(source) != kind(target):
            self.differs("type", path, f"{word(source)} became {word(target)}")
            return False
        if stat.S_ISREG(source.st_mode):
            self.file(path, here, there, name, source, target)
        elif stat.S_ISLNK(source.st_mode):
            ours, theirs = os.readlink(name, dir_fd=here.fd), os.readlink(name, dir_fd=there.fd)
            if ours != theirs:
                self.differs("target", path, f"{printable(ours)} became {printable(theirs)}")
        elif source.st_rdev != target.st_rdev:
            self.differs("device", path, f"{source.st_rdev:#x} became {target.st_rdev:#x}")
        self.attributes(path, here, there, name, source, target)
        if stat.S_ISDIR(source.st_mode):
            return True
        self.links(path, source, target)
        return False

    def file(self, path, here, there, name, source, target):
        self.bytes += source.st_size
        room, taken = source.st_blocks * 512, target.st_blocks * 512
        if taken > room + room // 4 + SPARSE_SLACK_BYTES:
            self.differs("sparse", path, f"{room} bytes became {taken}")
        if source.st_size != target.st_size:
            self.differs("size", path, f"{source.st_size} became {target.st_size}")
            return
        pair = (source.st_dev, source.st_ino, target.st_dev, target.st_ino)
        if pair in self.compared:
            return
        if source.st_nlink > 1:
            self.compared.add(pair)
        one = two = -1
        try:
            one = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=here.fd)
            two = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=there.fd)
            at = first_difference(one, two, source.st_size)
        finally:
            for fd in (one, two):
                if fd >= 0:
                    os.close(fd)
        if at is not None:
            self.differs("contents", path, f"at byte {at}")

    def attributes(self, path, here, there, name, source, target):
        mode = stat.S_IMODE(source.st_mode), stat.S_IMODE(target.st_mode)
        if mode[0] != mode[1] and not stat.S_ISLNK(source.st_mode):
            self.differs("mode", path, f"{mode[0]:04o} became {mode[1]:04o}")
        owner = (source.st_uid, source.st_gid), (target.st_uid, target.st_gid)
        if owner[0] != owner[1]:
            self.differs("owner", path, f"{owner[0]} became {owner[1]}")
        if self.at_another_time(source.st_mtime_ns, target.st_mtime_ns):
            self.differs("mtime", path, f"{source.st_mtime_ns} became {target.st_mtime_ns}")
        if self.atime and self.at_another_time(source.st_atime_ns, target.st_atime_ns):
            self.differs("atime", path, f"{source.st_atime_ns} became {target.st_atime_ns}")
        ours, theirs = self.own(here.xattrs(name)), self.own(there.xattrs(name))
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                what = "acl" if key.startswith("system.posix_acl_") else "xattr"
                self.differs(what, path, f"{printable(os.fsencode(key))}: {ours.get(key)!r} became {theirs.get(key)!r}")

    def at_another_time(self, one_ns, two_ns):
        return one_ns // self.step_ns != two_ns // self.step_ns

    def own(self, xattrs):
        """Without what belongs to the filesystem and not to the entry."""
        return {key: value for key, value in xattrs.items()
                if not any(fnmatch.fnmatchcase(key, pattern) for pattern in self.foreign)}

    def links(self, path, source, target):
        if source.st_nlink == 1 and target.st_nlink == 1:
            return
        ours, theirs = (source.st_dev, source.st_ino), (target.st_dev, target.st_ino)
        there = self.partner[0].setdefault(ours, theirs)
        back = self.partner[1].setdefault(theirs, ours)
        if there != theirs:
            self.differs("links", path, "is no longer a name of the same inode")
        elif back != ours:
            self.differs("links", path, "became a name of another file's inode")

    def result(self):
        found = {what: {"count": self.counts[what], "examples": self.shown[what]} for what in sorted(self.counts)}
        return {"entries": self.entries, "bytes": self.bytes, "differences": found}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--atime", action="store_true", help="access times too (reading may change the source's)")
    parser.add_argument("--ignore", metavar="KINDS", help="kinds of differences that do not count, by comma")
    parser.add_argument("--ignore-xattrs", metavar="GLOBS", help="extended attributes that do not count, by comma")
    parser.add_argument("--granularity", type=float, default=1e-9, metavar="SECONDS",
                        help="times are cut down to multiples of this on both sides (1 for a Lustre)")
    parser.add_argument("--examples", type=int, default=5, metavar="N", help="paths shown of each kind")
    options = parser.parse_args()
    comparison = Comparison(options)
    try:
        comparison.trees(os.fsencode(options.source), os.fsencode(options.target))
    except (OSError, RuntimeError) as error:
        print(f"treecmp: {error}", file=sys.stderr)
        return 2
    result = comparison.result()
    if options.json:
        print(json.dumps(result))
    else:
        for what, found in result["differences"].items():
            for path, detail in found["examples"]:
                print(f"{what}: {shortened(path)}" + (f": {detail}" if detail else ""))
            rest = found["count"] - len(found["examples"])
            if rest > 0:
                print(f"{what}: and {rest} more")
        verdict = "different" if result["differences"] else "the same"
        print(f"{result['entries']} entries, {result['bytes']} bytes: {verdict}")
    return 1 if result["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
