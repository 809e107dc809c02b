//! Trials of names and of kinds of entries.

use super::{Bench, Outcome, Trial, Weight, kept, missing};
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

/// Components of 250 bytes that make a path longer than `PATH_MAX` (4096).
const DEEP: usize = 20;

pub(super) const TRIALS: [Trial; 9] = [
    Trial {
        topic: "hard links",
        weight: Weight::Loss,
        without: "names of one file become separate files and take its space each; they are counted",
        run: hard_links,
    },
    Trial { topic: "symlinks", weight: Weight::Loss, without: "symlinks fail, each of them", run: symlinks },
    Trial {
        topic: "fifos",
        weight: Weight::Loss,
        without: "they fail; --no-specials leaves them out",
        run: |bench| node(bench, b"fifo", FileType::Fifo, 0),
    },
    Trial {
        topic: "sockets",
        weight: Weight::Loss,
        without: "they fail; --no-specials leaves them out",
        run: |bench| node(bench, b"socket", FileType::Socket, 0),
    },
    Trial {
        topic: "devices",
        weight: Weight::Loss,
        without: "they fail; run as root, or --no-specials leaves them out",
        run: |bench| node(bench, b"device", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
    },
    Trial {
        topic: "names of 255 bytes",
        weight: Weight::Loss,
        without: "longer names fail: shorten them in the source",
        run: long_name,
    },
    Trial {
        topic: "names of any bytes",
        weight: Weight::Loss,
        without: "names that are not UTF-8 fail: rename them in the source, or mount the target otherwise",
        run: odd_name,
    },
    Trial {
        topic: "upper and lower case",
        weight: Weight::Loss,
        without: "of names that differ only in case one replaces the other: choose another target",
        run: case,
    },
    Trial { topic: "paths over 4096 bytes", weight: Weight::Loss, without: "what lies deeper fails", run: deep },
];

fn hard_links(bench: &Bench) -> rustix::io::Result<Outcome> {
    drop(bench.file(b"linked")?);
    rustix::fs::linkat(bench.at(), "linked", bench.at(), "further", AtFlags::empty())?;
    let same = bench.stat(b"linked")?.st_ino == bench.stat(b"further")?.st_ino;
    Ok(if same { kept("yes") } else { missing("two inodes") })
}

fn symlinks(bench: &Bench) -> rustix::io::Result<Outcome> {
    let text = b"../no/such\xff place";
    rustix::fs::symlinkat(&text[..], bench.at(), "symlink")?;
    let read = rustix::fs::readlinkat(bench.at(), "symlink", Vec::new())?;
    Ok(if read.to_bytes() == text { kept("yes") } else { missing("their text changes") })
}

fn node(bench: &Bench, name: &[u8], kind: FileType, device: u64) -> rustix::io::Result<Outcome> {
    rustix::fs::mknodat(bench.at(), name, kind, Mode::RUSR | Mode::WUSR, device)?;
    bench.is_there(name, kind)
}

fn long_name(bench: &Bench) -> rustix::io::Result<Outcome> {
    let name = [b'n'; 255];
    drop(bench.file(&name)?);
    bench.stat(&name).map(|_| kept("yes"))
}

/// Bytes that are no UTF-8, a line end, and what other systems forbid.
fn odd_name(bench: &Bench) -> rustix::io::Result<Outcome> {
    for name in [&b"raw\xff\xfe"[..], b"line\nend", b"a:b*c?\"<>|\\ "] {
        drop(bench.file(name)?);
        bench.stat(name)?;
    }
    Ok(kept("yes"))
}

fn case(bench: &Bench) -> rustix::io::Result<Outcome> {
    drop(bench.file(b"case-a")?);
    match bench.stat(b"CASE-A") {
        Err(Errno::NOENT) => Ok(kept("told apart")),
        Ok(_) => Ok(missing("the same")),
        Err(e) => Err(e),
    }
}

fn deep(bench: &Bench) -> rustix::io::Result<Outcome> {
    let name = [b'd'; 250];
    let mut dir = bench.directory(&name)?;
    for _ in 1..DEEP {
        rustix::fs::mkdirat(&dir, &name[..], Mode::RWXU)?;
        dir = super::open_child(std::os::fd::AsFd::as_fd(&dir), &name)?;
    }
    Ok(kept("yes"))
}
