#!/usr/bin/env python3
"""Tells how files and directories of a Lustre are laid out, without a line of treehaul in it.

    layout.py shape PATH     one line for each component: what a copy should keep
    layout.py first PATH     as shape, of the first mirror only, as if there were no other
    layout.py osts PATH...   indices of the OSTs that hold objects of these files, each once

It reads the attribute lustre.lov itself. A directory that has no default layout of its own shows the filesystem's.
What a file has none of is said as "none". Exit status 2: that is no Lustre, or the layout cannot be understood.
"""

import errno
import os
import struct
import sys

V1, V3, COMPOSITE = 0x0BD10BD0, 0x0BD30BD0, 0x0BD60BD0
ON_MDT, OVERSTRIPED = 0x100, 0x200
STALE, EXTENSION = 0x1, 0x40
NO_END = (1 << 64) - 1


class Part:
    """A component, or a whole plain layout."""

    def __init__(self, blob, start=0, end=NO_END, identity=0, flags=0):
        magic, self.pattern = struct.unpack_from("<II", blob)
        if magic not in (V1, V3):
            raise ValueError(f"a layout of kind {magic:#x}")
        self.size, self.count, self.first = struct.unpack_from("<IHH", blob, 24)
        self.pool = blob[32:48].split(b"\0")[0].decode() if magic == V3 else ""
        self.start, self.end, self.mirror, self.flags = start, end, identity >> 16, flags
        head = 48 if magic == V3 else 32
        objects = range(head, len(blob) - 23, 24)
        self.osts = [struct.unpack_from("<I", blob, at + 20)[0] for at in objects]

    def line(self, with_mirror):
        kind = "mdt" if self.pattern & ON_MDT else "overstriped" if self.pattern & OVERSTRIPED else "raid0"
        words = [f"{self.start}-{'end' if self.end == NO_END else self.end}", kind]
        if kind != "mdt":
            words += [f"count={self.count}", f"size={self.size}"]
        if self.pool:
            words.append(f"pool={self.pool}")
        if self.flags & EXTENSION:
            words.append("extension")
        if with_mirror:
            words.append(f"mirror={self.mirror}")
        return " ".join(words)


def parts_of(path):
    try:
        blob = os.getxattr(path, "lustre.lov", follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return [], 1
        raise
    if struct.unpack_from("<I", blob)[0] != COMPOSITE:
        return [Part(blob)], 1
    entries, mirrors = struct.unpack_from("<HH", blob, 14)
    parts = []
    for n in range(entries):
        identity, flags, start, end, offset, size = struct.unpack_from("<IIQQII", blob, 32 + 48 * n)
        parts.append(Part(blob[offset:offset + size], start, end, identity, flags))
    return parts, mirrors + 1


def main():
    what, paths = sys.argv[1], sys.argv[2:]
    if what == "osts":
        found = {ost for path in paths for part in parts_of(path)[0] for ost in part.osts}
        print(" ".join(map(str, sorted(found))))
        return
    parts, mirrors = parts_of(paths[0])
    if what == "first" and mirrors > 1:
        fresh = [part for part in parts if not part.flags & STALE]
        parts, mirrors = [part for part in parts if part.mirror == fresh[0].mirror], 1
    print("\n".join(part.line(mirrors > 1) for part in parts) or "none")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, struct.error) as error:
        print(f"layout.py: {error}", file=sys.stderr)
        sys.exit(2)
