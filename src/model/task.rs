//! Tasks: the messages that dir actors and file actors work on.
//!
//! Invariant: a task names directories by a [`RelPath`] and entries by checked names, also after it
//! was read from a message; and running it twice, even at the same time, gives the same result.

use super::path::{PathError, RelPath, check_name};
use super::{Kind, Metadata, Timestamp};
use serde::{Deserialize, Serialize};

/// Most entries in one task.
pub const MAX_TASK_ENTRIES: usize = 1024;

/// What is known of an entry when its task is posted: bits of a name's tag. Hints, never promises, but for
/// [`EXTRA`](tag::EXTRA) and those of `verify`, which choose what is done.
pub mod tag {
    /// The target did not have it before.
    pub const FRESH: u8 = 1;
    /// The directory that holds it changed since the last pass: it may have been moved here.
    pub const MOVED: u8 = 2;
    /// A directory that only the target has.
    pub const EXTRA: u8 = 4;
    /// In [`Task::Finish`](super::Task::Finish): working files of dead workers must be looked for.
    pub const SWEEP: u8 = 128;
    /// In [`Task::Finish`](super::Task::Finish): the directory is not counted yet.
    pub const UNCOUNTED: u8 = 64;
    /// In [`Task::Remove`](super::Task::Remove): a directory.
    pub const DIRECTORY: u8 = 128;
    /// Times in the source say nothing about the target, for it and for everything below it.
    pub const ALL: u8 = 8;
    /// Only the source has it.
    pub const MISSING: u8 = 16;
    /// With [`EXTRA`]: whether the source has it too has not been looked at yet.
    pub const UNSURE: u8 = 32;
    /// It is counted and reported already. In [`Task::Pick`](super::Task::Pick): among what the target was found to have.
    pub const COUNTED: u8 = 64;
}

/// Which actors a task is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Queue {
    /// Dir actors: listing.
    Dirs,
    /// File actors: the entries themselves.
    Files,
    /// File actors, once the walk is quiescent: what is removed, and directories' own attributes.
    Finish,
}

impl Queue {
    /// All of them.
    pub const ALL: [Queue; 3] = [Queue::Dirs, Queue::Files, Queue::Finish];

    /// The word in queue names and messages.
    pub fn noun(self) -> &'static str {
        match self {
            Queue::Dirs => "dirs",
            Queue::Files => "files",
            Queue::Finish => "dirtimes",
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// List sibling directories and route what is in them.
    Dirs {
        /// The directory that holds them.
        parent: RelPath,
        /// Their names, with bits of [`tag`]; none means `parent` itself (the root).
        names: Names,
    },
    /// Route these entries of a directory, as if it held nothing else. Directories above it are made where they
    /// are needed.
    Pick {
        /// The directory.
        dir: RelPath,
        /// What to route.
        names: Names,
    },
    /// Work on entries of one directory.
    Batch {
        /// The directory.
        dir: RelPath,
        /// What to work on.
        entries: Entries,
        /// Bits of [`tag`] for all of them.
        tag: u8,
    },
    /// Work on some chunks of one large file.
    Chunk {
        /// The directory.
        dir: RelPath,
        /// The file's name, and nothing else.
        name: Names,
        /// Which part of it.
        part: Part,
    },
    /// Give sibling directories their final attributes.
    Finish {
        /// The directory that holds them.
        parent: RelPath,
        /// Their names.
        names: Names,
    },
    /// Remove entries of a target directory that the source does not have; and the directory itself, and those
    /// above, if the source does not have them either and nothing is left in them.
    Remove {
        /// The directory.
        dir: RelPath,
        /// What to remove.
        names: Names,
    },
}

/// Some chunks of one large file, and which state of the file they belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// In a copy: names the record on the target that tells the rest.
    pub key: u128,
    /// In a copy: number of the part file that holds the data: chunks of another one are not this task's.
    pub number: u64,
    /// Size of the file, in bytes.
    pub size: u64,
    /// Its modification time.
    pub mtime: Timestamp,
    /// Its change time.
    pub ctime: Timestamp,
    /// Its inode number.
    pub ino: u64,
    /// The first chunk, by number.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Part {
    /// Is the file still in the state that the chunks belong to?
    pub fn is_of(&self, m: &Metadata) -> bool {
        (self.ino, self.size, self.mtime, self.ctime) == (m.ino, m.size, m.mtime, m.ctime)
    }
}

impl Task {
    /// The queue it belongs to.
    pub fn queue(&self) -> Queue {
        match self {
            Task::Dirs { .. } | Task::Pick { .. } => Queue::Dirs,
            Task::Batch { .. } | Task::Chunk { .. } => Queue::Files,
            Task::Finish { .. } | Task::Remove { .. } => Queue::Finish,
        }
    }

    /// The word for what it asks for.
    pub fn noun(&self) -> &'static str {
        match self {
            Task::Dirs { .. } => "dirs",
            Task::Pick { .. } => "pick",
            Task::Batch { .. } => "batch",
            Task::Chunk { .. } => "chunk",
            Task::Finish { .. } => "finish",
            Task::Remove { .. } => "remove",
        }
    }

    /// The directory that it is about, or that holds what it is about.
    pub fn directory(&self) -> &RelPath {
        match self {
            Task::Dirs { parent: path, .. }
            | Task::Finish { parent: path, .. }
            | Task::Pick { dir: path, .. }
            | Task::Batch { dir: path, .. }
            | Task::Chunk { dir: path, .. }
            | Task::Remove { dir: path, .. } => path,
        }
    }

    /// The task that starts a walk.
    pub fn root() -> Self {
        Task::Dirs { parent: RelPath::root(), names: Names::default() }
    }

    /// The name that it is about, if it is only one.
    pub fn only_name(&self) -> Option<&[u8]> {
        match self {
            Task::Dirs { names, .. }
            | Task::Finish { names, .. }
            | Task::Pick { names, .. }
            | Task::Chunk { name: names, .. }
            | Task::Remove { names, .. } => names.iter().next().filter(|_| names.len() == 1).map(|(_, name)| name),
            Task::Batch { entries, .. } => entries.iter().next().filter(|_| entries.len() == 1).map(|e| e.name),
        }
    }

    /// The same work in tasks about one name each.
    pub fn singles(&self) -> Vec<Task> {
        let each = |names: &Names, task: &dyn Fn(Names) -> Task| {
            let one = |(bits, name): (u8, &[u8])| {
                let mut single = Names::default();
                let _ = single.push(bits, name); // was checked when it got here
                task(single)
            };
            names.iter().map(one).collect::<Vec<_>>()
        };
        let singles = match self {
            Task::Dirs { parent, names } => each(names, &|names| Task::Dirs { parent: parent.clone(), names }),
            Task::Finish { parent, names } => each(names, &|names| Task::Finish { parent: parent.clone(), names }),
            Task::Pick { dir, names } => each(names, &|names| Task::Pick { dir: dir.clone(), names }),
            Task::Remove { dir, names } => each(names, &|names| Task::Remove { dir: dir.clone(), names }),
            Task::Chunk { .. } => Vec::new(),
            Task::Batch { dir, entries, tag } => {
                let one = |entry: Entry<'_>| {
                    let mut entries = Entries::default();
                    let _ = entries.push(&entry); // was checked when it got here
                    Task::Batch { dir: dir.clone(), entries, tag: *tag }
                };
                entries.iter().map(one).collect()
            }
        };
        // The root has no name, and a chunk is one already.
        if singles.is_empty() { vec![self.clone()] } else { singles }
    }

    /// Bytes that it holds, for bounds on memory.
    pub fn weight_bytes(&self) -> usize {
        let held = match self {
            Task::Dirs { names, .. }
            | Task::Finish { names, .. }
            | Task::Pick { names, .. }
            | Task::Chunk { name: names, .. }
            | Task::Remove { names, .. } => names.packed.capacity(),
            Task::Batch { entries, .. } => {
                entries.names.packed.capacity() + entries.metadata.capacity() * size_of::<Metadata>()
            }
        };
        size_of::<Task>() + self.directory().as_bytes().len() + held
    }
}

/// Names with a small tag each, packed into one allocation: tag, length, bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "PackedNames", into = "PackedNames")]
pub struct Names {
    packed: Vec<u8>,
    count: usize,
}

#[derive(Serialize, Deserialize)]
struct PackedNames(#[serde(with = "serde_bytes")] Vec<u8>);

impl Names {
    /// Adds a name.
    ///
    /// # Errors
    /// [`PathError`], if it is no name; nothing is added then.
    pub fn push(&mut self, tag: u8, name: &[u8]) -> Result<(), PathError> {
        check_name(name)?;
        let len = u8::try_from(name.len()).map_err(|_| PathError::TooLong)?;
        self.packed.extend_from_slice(&[tag, len]);
        self.packed.extend_from_slice(name);
        self.count += 1;
        Ok(())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.count
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Tag and name, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let mut rest: &[u8] = &self.packed;
        std::iter::from_fn(move || {
            let (&[tag, len], tail) = rest.split_first_chunk::<2>()?;
            let (name, tail) = tail.split_at_checked(usize::from(len))?;
            rest = tail;
            Some((tag, name))
        })
    }
}

impl TryFrom<PackedNames> for Names {
    type Error = PathError;
    fn try_from(raw: PackedNames) -> Result<Self, PathError> {
        let mut rest: &[u8] = &raw.0;
        let mut count = 0;
        while !rest.is_empty() {
            let (&[_, len], tail) = rest.split_first_chunk::<2>().ok_or(PathError::TooLong)?;
            let (name, tail) = tail.split_at_checked(usize::from(len)).ok_or(PathError::TooLong)?;
            check_name(name)?;
            rest = tail;
            count += 1;
        }
        Ok(Names { packed: raw.0, count })
    }
}

impl From<Names> for PackedNames {
    fn from(names: Names) -> Self {
        PackedNames(names.packed)
    }
}

/// Entries of one directory: names with a hint of their kind, and attributes where the listing brought them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Entries {
    names: Names,
    /// One for each name, or none at all.
    metadata: Vec<Metadata>,
}

/// One entry of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its kind as the listing gave it; it may have changed since.
    pub kind: Option<Kind>,
    /// Its attributes, if the listing brought them.
    pub metadata: Option<Metadata>,
}

const KINDS: [Kind; 7] =
    [Kind::File, Kind::Directory, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::BlockDevice, Kind::CharDevice];
const KIND_UNKNOWN: u8 = u8::MAX;

impl Entries {
    /// Adds an entry. Attributes are kept only if every entry has them.
    ///
    /// # Errors
    /// [`PathError`], if the name is none; nothing is added then.
    pub fn push(&mut self, entry: &Entry<'_>) -> Result<(), PathError> {
        let tag = entry.kind.and_then(|k| KINDS.iter().position(|x| *x == k)).map_or(KIND_UNKNOWN, |p| p as u8);
        let complete = self.metadata.len() == self.names.len();
        self.names.push(tag, entry.name)?;
        match entry.metadata {
            Some(m) if complete => self.metadata.push(m),
            _ => self.metadata.clear(),
        }
        Ok(())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        let complete = self.metadata.len() == self.names.len();
        self.names.iter().enumerate().map(move |(i, (tag, name))| Entry {
            name,
            kind: KINDS.get(usize::from(tag)).copied(),
            metadata: if complete { self.metadata.get(i).copied() } else { None },
        })
    }
}
