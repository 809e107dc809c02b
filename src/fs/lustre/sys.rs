//! Calls of Lustre's client and of its library. All `unsafe` of Lustre is here.
//!
//! The kernel's are relative to a descriptor, so that nobody can put another path under them. Elsewhere than on Lustre
//! they give `ENOTTY`.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

/// As `build.rs` makes them of `vendor/lustreapi/lustreapi.h`.
#[allow(dead_code, missing_docs, non_camel_case_types, unsafe_op_in_unsafe_fn, clippy::all, clippy::pedantic)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/lustreapi.rs"));
}

use bindings as c;
pub use c::{LL_SUPER_MAGIC, LOV_OFFSET_DEFAULT, LOV_USER_MAGIC_V1, O_LOV_DELAY_CREATE};

fn returned(n: libc::c_int) -> io::Result<u32> {
    u32::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// A call that reads and writes one structure.
///
/// # Safety
/// The structure is of the type that the number stands for, and any bytes are a value of it.
unsafe fn ioctl<T>(fd: BorrowedFd<'_>, number: u32, argument: &mut T) -> io::Result<u32> {
    // SAFETY: the descriptor is open, and the kernel keeps to the structure, as the caller promises.
    returned(unsafe { libc::ioctl(fd.as_raw_fd(), number as _, std::ptr::from_mut(argument)) })
}

/// MDT of what is open.
pub fn mdt(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut index: libc::c_int = -1;
    // SAFETY: the call takes an int.
    unsafe { ioctl(fd, c::LL_IOC_GET_MDTIDX, &mut index)? };
    u32::try_from(index).map_err(|_| io::Error::from_raw_os_error(libc::ENODATA))
}

/// MDT of a child that is not followed and not opened.
pub fn mdt_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<u32> {
    let mut fid = fid_at(dir, name)?;
    // SAFETY: the call takes a fid.
    unsafe { ioctl(dir, c::LL_IOC_FID2MDTIDX, &mut fid) }
}

/// A `struct file_handle` with room for Lustre's.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: libc::c_int,
    // Its own type is aligned to 8 bytes, and stands at 8.
    lustre: c::lustre_file_handle,
}

fn fid_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<c::lu_fid> {
    let name = CString::new(name)?;
    let bytes = size_of::<c::lustre_file_handle>() as u32;
    let mut handle = Handle { bytes, kind: 0, lustre: c::lustre_file_handle::default() };
    let mut mount: libc::c_int = 0;
    // SAFETY: the name is a C string; the kernel writes no more into the handle than `bytes` says it has room for.
    returned(unsafe {
        let handle = (&raw mut handle).cast::<libc::file_handle>();
        libc::name_to_handle_at(dir.as_raw_fd(), name.as_ptr(), handle, &raw mut mount, 0)
    })?;
    if handle.kind as u32 != c::FILEID_LUSTRE {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    Ok(handle.lustre.lfh_child)
}

/// Are the data of what is open only in an archive? Asks the server.
pub fn is_released(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut state = c::hsm_user_state::default();
    // SAFETY: the call takes this structure.
    unsafe { ioctl(fd, c::LL_IOC_HSM_STATE_GET, &mut state)? };
    Ok(state.hus_states & c::HS_RELEASED != 0)
}

/// Quota project and extended flags (`FS_XFLAG_*`) of a child that is not followed and not opened, as the client
/// remembers them since it last looked.
pub fn project_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<(u32, u32)> {
    let mut argument = project_argument(c::LU_PROJECT_GET, name)?;
    // SAFETY: the call takes this structure.
    unsafe { ioctl(dir, c::LL_IOC_PROJECT, &mut argument)? };
    Ok((argument.project_id, argument.project_xflags))
}

/// Sets quota project and extended flags of a child that is not followed and not opened.
pub fn set_project_at(dir: BorrowedFd<'_>, name: &[u8], id: u32, flags: u32) -> io::Result<()> {
    let mut argument = project_argument(c::LU_PROJECT_SET, name)?;
    (argument.project_id, argument.project_xflags) = (id, flags);
    // SAFETY: the call takes this structure.
    unsafe { ioctl(dir, c::LL_IOC_PROJECT, &mut argument) }.map(drop)
}

fn project_argument(what: u32, name: &[u8]) -> io::Result<c::lu_project> {
    let mut argument = c::lu_project { project_type: what, ..c::lu_project::default() };
    // An empty name would be the directory itself.
    if name.is_empty() || name.len() >= argument.project_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in argument.project_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    Ok(argument)
}

/// The head of a call with several arguments and its inline arguments behind it, as one buffer. Arguments are padded
/// to 8 bytes, and the kernel takes any value but zero for a pointer to one.
fn packed(mut head: c::obd_ioctl_data, inline: [&[u8]; 2]) -> Vec<u64> {
    let words = |bytes: &[u8]| bytes.len().div_ceil(8);
    let head_words = size_of::<c::obd_ioctl_data>() / 8;
    let total = head_words + words(inline[0]) + words(inline[1]);
    head.ioc_len = (total * 8) as u32;
    head.ioc_version = c::OBD_IOCTL_VERSION;
    (head.ioc_inllen1, head.ioc_inllen2) = (inline[0].len() as u32, inline[1].len() as u32);
    head.ioc_inlbuf1 = std::ptr::without_provenance_mut(1);
    head.ioc_inlbuf2 = std::ptr::without_provenance_mut(1);
    let mut buffer = vec![0_u64; total];
    // SAFETY: the buffer is aligned for the head, which is no longer than `head_words`, and any bytes are u64s.
    unsafe { buffer.as_mut_ptr().cast::<c::obd_ioctl_data>().write(head) };
    let mut at = head_words;
    for bytes in inline {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            buffer[at] = u64::from_ne_bytes(word);
            at += 1;
        }
    }
    buffer
}

/// Makes a directory on one MDT. The process's umask applies, and setgid is dropped.
///
/// # Errors
/// `EEXIST` if the name is taken, by whatever.
pub fn make_dir_on(dir: BorrowedFd<'_>, name: &[u8], mode: u32, index: u32) -> io::Result<()> {
    let name = CString::new(name)?;
    let layout = c::lmv_user_md {
        lum_magic: c::LMV_USER_MAGIC,
        lum_stripe_count: 1,
        lum_stripe_offset: index,
        ..c::lmv_user_md::default()
    };
    // SAFETY: a structure of numbers without padding.
    let layout: [u8; size_of::<c::lmv_user_md>()] = unsafe { std::mem::transmute(layout) };
    let mut head = c::obd_ioctl_data { ioc_type: mode, ..c::obd_ioctl_data::default() };
    head.ioc_obdo1.o_flags = c::OBD_FL_OBDMDEXISTS;
    let mut buffer = packed(head, [name.as_bytes_with_nul(), &layout]);
    // SAFETY: the call takes a buffer that tells its own length, and only reads it.
    returned(unsafe { libc::ioctl(dir.as_raw_fd(), c::LL_IOC_LMV_SETSTRIPE as _, buffer.as_mut_ptr()) }).map(drop)
}

/// Which servers' parts are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Metadata.
    Mdt,
    /// Data.
    Ost,
}

/// What one server's part holds.
pub struct Held {
    /// It takes nothing new.
    pub is_closed: bool,
    /// Bytes of one block.
    pub block_bytes: u64,
    /// Blocks in all, and those that can still be used.
    pub blocks: [u64; 2],
    /// Inodes in all, and those that can still be made.
    pub inodes: [u64; 2],
}

/// The name of one server's part (the filesystem's, a dash, its kind and index), and what it holds. The client tells
/// the name before it asks the part: whatever the error is, one that has a name exists.
///
/// # Errors
/// Without a name: `ENODEV` beyond the last, `EAGAIN` if none has this index, `ENODATA` if it is not active. Any if it
/// does not answer.
pub fn held(root: BorrowedFd<'_>, part: Part, index: u32) -> (String, io::Result<Held>) {
    let kind = match part {
        Part::Mdt => c::LL_STATFS_LMV,
        Part::Ost => c::LL_STATFS_LOV,
    };
    let kind = kind | c::LL_STATFS_NODELAY;
    let (mut statfs, mut uuid) = (c::obd_statfs::default(), c::obd_uuid::default());
    let head = c::obd_ioctl_data {
        ioc_plen1: size_of::<c::obd_statfs>() as u32,
        ioc_pbuf1: (&raw mut statfs).cast(),
        ioc_plen2: size_of::<c::obd_uuid>() as u32,
        ioc_pbuf2: (&raw mut uuid).cast(),
        ..c::obd_ioctl_data::default()
    };
    let mut buffer = packed(head, [&kind.to_ne_bytes(), &index.to_ne_bytes()]);
    // SAFETY: the buffer tells its own length and that of the two structures in it, which live until the call returns.
    let asked = returned(unsafe { libc::ioctl(root.as_raw_fd(), c::IOC_OBD_STATFS as _, buffer.as_mut_ptr()) });
    let closed = c::OS_STATFS_READONLY | c::OS_STATFS_NOCREATE | c::OS_STATFS_ENOSPC | c::OS_STATFS_ENOINO;
    let held = asked.map(|_| Held {
        is_closed: statfs.os_state & closed != 0,
        block_bytes: u64::from(statfs.os_bsize),
        blocks: [statfs.os_blocks, statfs.os_bavail],
        inodes: [statfs.os_files, statfs.os_ffree],
    });
    (text(&uuid.uuid), held)
}

/// What stands before the first NUL.
fn text(chars: &[libc::c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Bytes for a version, and for a filesystem's name.
const TEXT_BYTES: usize = 256;
/// Most pools that are asked for; a filesystem has a handful.
const MAX_POOLS: usize = 2000;
/// Bytes of one: filesystem, dot, pool and NUL.
const POOL_BYTES: usize = 32;

/// The library, as far as it is there. Its calls share buffers, so one is made at a time.
pub struct Api(Mutex<c::LustreApi>);

/// A call of the library: `None` if it has no such symbol, or says no.
macro_rules! call {
    ($api:ident . $symbol:ident ( $($argument:expr),* )) => {{
        let done = $api.$symbol.as_ref().ok().map(|symbol| unsafe { symbol($($argument),*) });
        done.filter(|n| *n >= 0)
    }};
}

impl Api {
    /// Opens the library; none if it is not there.
    pub fn open(name: &OsStr) -> Option<Self> {
        // SAFETY: what a library does when it is loaded cannot be known; this one's maker is the administrator, who
        // also mounted the filesystem.
        let api = unsafe { c::LustreApi::new(name) };
        let api = api.inspect_err(|e| tracing::debug!(error = %e, "Lustre's library cannot be opened")).ok()?;
        if let Ok(set_level) = api.llapi_msg_set_level.as_ref() {
            // SAFETY: takes a number.
            unsafe { set_level(c::LLAPI_MSG_OFF as libc::c_int) };
        }
        Some(Api(Mutex::new(api)))
    }

    /// Version of the client.
    pub fn version(&self) -> Option<String> {
        let api = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut version = [0; TEXT_BYTES];
        // SAFETY: writes a C string of at most this many bytes.
        call!(api.llapi_get_version_string(version.as_mut_ptr(), TEXT_BYTES as u32))?;
        Some(text(&version)).filter(|version| !version.is_empty())
    }

    /// Name of the filesystem that a path lies on.
    pub fn filesystem_of(&self, path: &CStr) -> Option<String> {
        let api = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut name = [0; TEXT_BYTES];
        // SAFETY: reads a C string and writes one of 8 characters at most.
        call!(api.llapi_search_fsname(path.as_ptr(), name.as_mut_ptr()))?;
        Some(text(&name)).filter(|name| !name.is_empty())
    }

    /// Pools of a filesystem, as `NAME.POOL`.
    pub fn pools(&self, filesystem: &CStr) -> Option<Vec<String>> {
        let api = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = vec![0; MAX_POOLS * POOL_BYTES];
        let mut list = vec![std::ptr::null_mut(); MAX_POOLS];
        let (list_size, buffer_size) = (list.len() as libc::c_int, buffer.len() as libc::c_int);
        // SAFETY: reads a C string; writes at most as many pointers and bytes as it is told there is room for.
        let n = call!(api.llapi_get_poollist(
            filesystem.as_ptr(),
            list.as_mut_ptr(),
            list_size,
            buffer.as_mut_ptr(),
            buffer_size
        ))?;
        let start = buffer.as_ptr().addr();
        // The pointers lead into the buffer; only where they lead is taken from them.
        let names = list.iter().take(n as usize).map(|at| at.addr().wrapping_sub(start));
        Some(names.filter_map(|at| buffer.get(at..)).map(text).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;
    use std::os::fd::AsFd;

    #[test]
    fn a_call_is_laid_out_as_the_kernel_reads_it() {
        assert_eq!(size_of::<c::obd_ioctl_data>(), 576);
        assert_eq!(offset_of!(c::obd_ioctl_data, ioc_type), 476);
        assert_eq!(offset_of!(c::obd_ioctl_data, ioc_inllen1), 512);
        assert_eq!(offset_of!(c::obd_ioctl_data, ioc_inllen2), 528);
        assert_eq!((offset_of!(c::obdo, o_flags), size_of::<c::obdo>()), (96, 208));
        assert_eq!(
            (size_of::<c::obd_statfs>(), size_of::<c::lu_project>(), size_of::<c::lmv_user_md>()),
            (144, 272, 48)
        );
        assert_eq!(offset_of!(Handle, lustre), 8);
        let buffer = packed(c::obd_ioctl_data::default(), [b"ninebytes", b"four"]);
        let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(bytes.len(), 576 + 16 + 8);
        let at = |offset: usize| u32::from_ne_bytes(bytes[offset..offset + 4].try_into().unwrap());
        assert_eq!((at(0), at(4), at(512), at(528)), (600, 0x0001_0004, 9, 4));
        assert!(at(520) != 0 && at(536) != 0);
        assert_eq!(&bytes[576..], b"ninebytes\0\0\0\0\0\0\0four\0\0\0\0");
    }

    #[test]
    fn elsewhere_every_call_says_so_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "x").unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        let refused = [
            mdt(fd.as_fd()).err(),
            mdt_at(fd.as_fd(), b"f").err(),
            is_released(fd.as_fd()).err(),
            project_at(fd.as_fd(), b"f").err(),
            set_project_at(fd.as_fd(), b"f", 1, 0).err(),
            make_dir_on(fd.as_fd(), b"d", 0o700, 0).err(),
            held(fd.as_fd(), Part::Ost, 0).1.err(),
        ];
        for error in refused {
            let errno = error.and_then(|e| e.raw_os_error());
            assert!(matches!(errno, Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::EOVERFLOW)), "{errno:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused() {
        assert!(project_argument(c::LU_PROJECT_GET, &[b'n'; 255]).is_ok());
        assert!(project_argument(c::LU_PROJECT_GET, &[b'n'; 256]).is_err());
        assert!(project_argument(c::LU_PROJECT_GET, b"").is_err());
    }
}
