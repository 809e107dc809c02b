#!/usr/bin/env python3
"""Makes a tree of everything that is easily lost, in a directory that exists and may hold directories already.

    tree.py DIRECTORY

A hard link goes from each directory that is there already to every other one.
"""

import os
import socket
import stat
import struct
import sys

# Beyond PATH_MAX with all levels together.
DEEP_LEVELS, DEEP_NAME = 25, b"d" * 200
NAMES = [b"blank and\ttab", b"new\nline", b"-rf", b"\xff\xfe\x80", "Größe-日本".encode(), b"*?[a]", b"'\"`$(id)\\",
         b"x" * 255, b".hidden", b"~", b"\x01\x1b[31m"]
# cap_net_raw, permitted and effective, in revision 2 of the attribute.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
# user::rw-, user:1234:r-x, group::r--, mask::rwx, other::---
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in [
    (0x01, 6, 0xFFFFFFFF), (0x02, 5, 1234), (0x04, 4, 0xFFFFFFFF), (0x10, 7, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)])


def write(path, data=b"x"):
    with open(path, "xb") as file:
        file.write(data)


def deep(root):
    at = os.open(root, os.O_RDONLY)
    for _ in range(DEEP_LEVELS):
        os.mkdir(DEEP_NAME, dir_fd=at)
        below = os.open(DEEP_NAME, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    file = os.open(b"leaf", os.O_WRONLY | os.O_CREAT, dir_fd=at)
    os.write(file, b"deep")
    os.close(file)
    os.close(at)


def links(directories):
    """Names of one inode in several directories; they may lie on several MDTs."""
    for n, home in enumerate(directories):
        write(f"{home}/inode-{n}", b"%d" % n)
        for other in directories:
            os.link(f"{home}/inode-{n}", f"{other}/name-of-{n}")
    os.mkfifo(f"{directories[0]}/fifo")
    os.link(f"{directories[0]}/fifo", f"{directories[-1]}/fifo-again")


def main():
    root = sys.argv[1]
    directories = sorted(entry.path for entry in os.scandir(root) if entry.is_dir()) or [root]
    links(directories)
    names = os.path.join(os.fsencode(root), b"names")
    os.mkdir(names)
    for name in NAMES:
        write(os.path.join(names, name), name)
    deep(root)

    kinds = f"{root}/kinds"
    os.makedirs(f"{kinds}/empty/directories")
    write(f"{kinds}/empty/file", b"")
    write(f"{kinds}/odd-size", os.urandom((3 << 20) + 17))
    os.symlink("nowhere/at/all", f"{kinds}/dangling")
    os.symlink("/" + "l" * 1000, f"{kinds}/long")
    os.mkfifo(f"{kinds}/fifo")
    os.mknod(f"{kinds}/character", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    os.mknod(f"{kinds}/block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(kinds)
        server.bind("socket")
    with open(f"{kinds}/sparse", "wb") as sparse:
        sparse.truncate(256 << 20)
        os.pwrite(sparse.fileno(), b"in the middle", 100 << 20)

    rights = f"{root}/rights"
    os.mkdir(rights)
    for name, mode in [("setuid", 0o4755), ("setgid", 0o2755), ("nothing", 0), ("all", 0o777)]:
        write(f"{rights}/{name}")
        os.chown(f"{rights}/{name}", 12345, 54321)
        os.chmod(f"{rights}/{name}", mode)
    for name, mode in [("sticky", 0o1777), ("setgid-directory", 0o2775)]:
        os.mkdir(f"{rights}/{name}")
        os.chmod(f"{rights}/{name}", mode)
    os.symlink("all", f"{rights}/owned-symlink")
    os.lchown(f"{rights}/owned-symlink", 7, 8)
    write(f"{rights}/acl")
    os.setxattr(f"{rights}/acl", "system.posix_acl_access", ACL)
    os.setxattr(f"{rights}/sticky", "system.posix_acl_default", ACL)
    write(f"{rights}/capability")
    os.setxattr(f"{rights}/capability", "security.capability", CAPABILITY)

    attributes = f"{root}/attributes"
    os.mkdir(attributes)
    write(f"{attributes}/some")
    for path in (attributes, f"{attributes}/some"):
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "user.bytes", bytes(range(256)))
        os.setxattr(path, "user.large", b"l" * 3000)
        os.setxattr(path, "trusted.treehaul-test", b"of root")

    times = f"{root}/times"
    os.mkdir(times)
    for name, second in [("old", 86_400), ("last-year", 1_700_000_000), ("future", 4_000_000_000)]:
        write(f"{times}/{name}")
        os.utime(f"{times}/{name}", (second + 1, second))
    os.symlink("old", f"{times}/symlink")
    os.utime(f"{times}/symlink", (5, 1_234_567_890), follow_symlinks=False)
    os.utime(times, (1_000_000_000, 1_100_000_000))


if __name__ == "__main__":
    main()
