//! System calls that no library offers as we need them. All `unsafe` of the adapter is here.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Closes a descriptor and tells what the close itself met: NFS and others report late write errors there.
pub fn checked_close(fd: OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is owned and given up here, so it is closed exactly once.
    match unsafe { libc::close(fd.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Locks (or unlocks) a range for writing, for this open file description alone: unlike a process's own locks, two
/// threads keep each other out, and closing another descriptor of the file lets nothing go. Length 0 is all that
/// follows. False if somebody else's lock is in the way.
pub fn lock_range(fd: BorrowedFd<'_>, start: u64, len: u64, lock: bool) -> io::Result<bool> {
    let kind = if lock { libc::F_WRLCK } else { libc::F_UNLCK };
    let far = |_| io::Error::from_raw_os_error(libc::EOVERFLOW);
    // SAFETY: a plain C structure, for which zeros are valid.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = start.try_into().map_err(far)?;
    range.l_len = len.try_into().map_err(far)?;
    // SAFETY: the descriptor is open, and the kernel only reads the structure, which lives until it returns.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const range) } {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            e if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES | libc::EINTR)) => Ok(false),
            e => Err(e),
        },
    }
}

// Numbers are the same on every architecture; Linux 6.13 and later (include/uapi/asm-generic/unistd.h).
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;

/// `struct xattr_args` of `getxattrat(2)`.
#[repr(C, align(8))]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

static HAS_XATTRAT: AtomicBool = AtomicBool::new(true);

/// Names of extended attributes of a child that is not followed, NUL-terminated one after the other.
pub fn list_xattrs_at(dir: BorrowedFd<'_>, name: &[u8], buf: &mut [u8]) -> io::Result<usize> {
    let c_name = CString::new(name)?;
    if HAS_XATTRAT.load(Ordering::Relaxed) {
        // SAFETY: the name is a C string, the buffer is valid for its length, and the kernel writes no more.
        let n = unsafe {
            let flags = libc::AT_SYMLINK_NOFOLLOW;
            libc::syscall(SYS_LISTXATTRAT, dir.as_raw_fd(), c_name.as_ptr(), flags, buf.as_mut_ptr(), buf.len())
        };
        if let Some(result) = outcome(n) {
            return result;
        }
    }
    let path = proc_path(dir, Some(name))?;
    // SAFETY: as above.
    let n = unsafe { libc::llistxattr(path.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    returned(n as libc::c_long)
}

/// The value of one extended attribute of a child that is not followed.
pub fn get_xattr_at(dir: BorrowedFd<'_>, name: &[u8], key: &[u8], buf: &mut [u8]) -> io::Result<usize> {
    let c_name = CString::new(name)?;
    let c_key = CString::new(key)?;
    if HAS_XATTRAT.load(Ordering::Relaxed) {
        let size = u32::try_from(buf.len()).unwrap_or(u32::MAX);
        let mut args = XattrArgs { value: buf.as_mut_ptr() as u64, size, flags: 0 };
        // SAFETY: both names are C strings, `args` names a buffer that is valid for its length.
        let n = unsafe {
            libc::syscall(
                SYS_GETXATTRAT,
                dir.as_raw_fd(),
                c_name.as_ptr(),
                libc::AT_SYMLINK_NOFOLLOW,
                c_key.as_ptr(),
                &raw mut args,
                size_of::<XattrArgs>(),
            )
        };
        if let Some(result) = outcome(n) {
            return result;
        }
    }
    let path = proc_path(dir, Some(name))?;
    // SAFETY: as above.
    let n = unsafe { libc::lgetxattr(path.as_ptr(), c_key.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    returned(n as libc::c_long)
}

/// The result, or none if the kernel has no such call, which is remembered.
fn outcome(n: libc::c_long) -> Option<io::Result<usize>> {
    let result = returned(n);
    match &result {
        // A seccomp filter that does not know the call says EPERM; reading names needs no permission otherwise.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            HAS_XATTRAT.store(false, Ordering::Relaxed);
            None
        }
        _ => Some(result),
    }
}

fn returned(n: libc::c_long) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Gives the calling thread, and those that it starts later, the idle class of I/O: served when nobody else asks.
/// Where that is not allowed, the last place of the usual class.
///
/// # Errors
/// The system's, if it allows neither.
pub fn be_nice() -> io::Result<()> {
    // linux/ioprio.h: the class stands above 13 bits of data.
    const WHO_PROCESS: libc::c_int = 1;
    const IDLE: libc::c_int = 3 << 13;
    const BEST_EFFORT_LAST: libc::c_int = 2 << 13 | 7;
    // SAFETY: takes three numbers; 0 is the caller.
    let set =
        |priority: libc::c_int| returned(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) });
    set(IDLE).or_else(|_| set(BEST_EFFORT_LAST)).map(drop)
}

/// Has a write beyond the limit on a file's size (`ulimit -f`) answered with `EFBIG` instead of killing the process.
///
/// # Errors
/// The system's.
pub fn outlive_file_limits() -> io::Result<()> {
    // SAFETY: no handler is installed that could run; the signal is ignored from now on.
    match unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// `struct fsxattr` of `FS_IOC_FSGETXATTR` (linux/fs.h).
#[repr(C)]
#[derive(Default)]
pub struct FsXattr {
    /// `FS_XFLAG_*`.
    pub flags: u32,
    extent_size: u32,
    extents: u32,
    /// Quota project; 0 is none.
    pub project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `_IOR('X', 31, struct fsxattr)` and `_IOW('X', 32, struct fsxattr)`, the same on every architecture that Rust's
/// standard library supports but mips, powerpc and sparc, which say ENOTTY.
const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;

/// Extended flags and quota project of what a descriptor (not `O_PATH`) holds.
pub fn fsxattr(fd: BorrowedFd<'_>) -> io::Result<FsXattr> {
    let mut found = FsXattr::default();
    // SAFETY: the structure has the layout and the size that the number asks for, and the kernel writes no more.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FSGETXATTR as _, &raw mut found) };
    returned(done.into()).map(|_| found)
}

/// Sets extended flags and quota project of what a descriptor (not `O_PATH`) holds.
pub fn set_fsxattr(fd: BorrowedFd<'_>, wanted: &FsXattr) -> io::Result<()> {
    // SAFETY: as above, and the kernel only reads.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FSSETXATTR as _, &raw const *wanted) };
    returned(done.into()).map(drop)
}

/// Quota project of what a descriptor holds; 0 is none.
pub fn project_of(fd: BorrowedFd<'_>) -> io::Result<u32> {
    fsxattr(fd).map(|found| found.project)
}

// As above; Linux 6.17 and later.
const SYS_FILE_GETATTR: libc::c_long = 468;
const SYS_FILE_SETATTR: libc::c_long = 469;

/// `struct file_attr` of `file_getattr(2)` (linux/fs.h), as it was first.
#[repr(C, align(8))]
#[derive(Default)]
pub struct FileAttr {
    /// `FS_XFLAG_*`.
    flags_64: u64,
    extent_size: u32,
    extents: u32,
    /// Quota project; 0 is none.
    pub project: u32,
    cow_extent_size: u32,
}

impl FileAttr {
    /// `FS_XFLAG_*`; there are no more than 32 of them.
    pub fn flags(&self) -> u32 {
        self.flags_64 as u32
    }

    /// Other ones instead.
    pub fn set_flags(&mut self, flags: u32) {
        self.flags_64 = (self.flags_64 & !u64::from(u32::MAX)) | u64::from(flags);
    }
}

/// Extended flags and quota project of a child that is not followed; without a name, of what an `O_PATH` descriptor
/// holds.
///
/// # Errors
/// `ENOSYS` on older kernels.
pub fn file_attr_at(at: BorrowedFd<'_>, name: Option<&[u8]>) -> io::Result<FileAttr> {
    let mut found = FileAttr::default();
    let (dir, path, flags) = file_attr_place(at, name)?;
    let size = size_of::<FileAttr>();
    // SAFETY: the path is a C string, and the kernel writes no more than `size` bytes.
    let n = unsafe { libc::syscall(SYS_FILE_GETATTR, dir, path.as_ptr(), &raw mut found, size, flags) };
    returned(n).map_err(no_such_call).map(|_| found)
}

/// Sets extended flags and quota project of what an `O_PATH` descriptor holds.
///
/// # Errors
/// As [`file_attr_at`].
pub fn set_file_attr_at(at: BorrowedFd<'_>, wanted: &FileAttr) -> io::Result<()> {
    let (dir, path, flags) = file_attr_place(at, None)?;
    let size = size_of::<FileAttr>();
    // SAFETY: the path is a C string, and the kernel only reads.
    let n = unsafe { libc::syscall(SYS_FILE_SETATTR, dir, path.as_ptr(), &raw const *wanted, size, flags) };
    returned(n).map_err(no_such_call).map(drop)
}

/// The link in `/proc` leads to what the descriptor holds, be it a symlink, and no further.
fn file_attr_place(at: BorrowedFd<'_>, name: Option<&[u8]>) -> io::Result<(libc::c_int, CString, libc::c_int)> {
    match name {
        Some(name) => Ok((at.as_raw_fd(), CString::new(name)?, libc::AT_SYMLINK_NOFOLLOW)),
        None => Ok((libc::AT_FDCWD, proc_path(at, None)?, 0)),
    }
}

/// A seccomp filter that does not know a call says `EPERM`.
fn no_such_call(e: io::Error) -> io::Error {
    if e.raw_os_error() == Some(libc::EPERM) { io::Error::from_raw_os_error(libc::ENOSYS) } else { e }
}

/// Takes an exclusive lock of the open file on all of it, without waiting.
pub fn lock_whole(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as _;
    lock.l_whence = libc::SEEK_SET as _;
    // SAFETY: the structure is valid and the kernel only reads it.
    let done = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    returned(done.into()).map(drop)
}

/// A path to what a descriptor holds, through `/proc`: the only way to some calls on `O_PATH` descriptors.
/// With a name, a child of the directory; calls that do not follow symlinks then stop at the child.
pub fn proc_path(fd: BorrowedFd<'_>, name: Option<&[u8]>) -> io::Result<CString> {
    let mut path = format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes();
    if let Some(name) = name {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    Ok(CString::new(path)?)
}
