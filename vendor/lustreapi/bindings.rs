pub const LL_SUPER_MAGIC: u32 = 198183888;
pub const O_LOV_DELAY_CREATE: u32 = 8448;
pub const LOV_USER_MAGIC_V1: u32 = 198249424;
pub const LOV_OFFSET_DEFAULT: u32 = 65535;
pub const FILEID_LUSTRE: u32 = 151;
pub const LL_IOC_GET_MDTIDX: u32 = 2147772079;
pub const LL_IOC_FID2MDTIDX: u32 = 3222300408;
pub const LL_IOC_HSM_STATE_GET: u32 = 2149607123;
pub const HS_RELEASED: u32 = 4;
pub const LL_IOC_PROJECT: u32 = 1091593981;
pub const LU_PROJECT_SET: u32 = 1;
pub const LU_PROJECT_GET: u32 = 2;
pub const OBD_IOCTL_VERSION: u32 = 65540;
pub const LL_IOC_LMV_SETSTRIPE: u32 = 3224397552;
pub const OBD_FL_OBDMDEXISTS: u32 = 2;
pub const LMV_USER_MAGIC: u32 = 215157968;
pub const IOC_OBD_STATFS: u32 = 3221776036;
pub const LL_STATFS_LMV: u32 = 1;
pub const LL_STATFS_LOV: u32 = 2;
pub const LL_STATFS_NODELAY: u32 = 4;
pub const OS_STATFS_READONLY: u32 = 2;
pub const OS_STATFS_NOCREATE: u32 = 4;
pub const OS_STATFS_ENOSPC: u32 = 32;
pub const OS_STATFS_ENOINO: u32 = 64;
pub const LLAPI_MSG_OFF: u32 = 0;
#[repr(C)]
#[derive(Default, Copy, Clone)]
pub struct lov_user_md_v1 {
    pub lmm_magic: u32,
    pub lmm_pattern: u32,
    pub lmm_oi: [u64; 2usize],
    pub lmm_stripe_size: u32,
    pub lmm_stripe_count: u16,
    pub lmm_stripe_offset: u16,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lov_user_md_v1"][::core::mem::size_of::<lov_user_md_v1>() - 32usize];
    ["Alignment of lov_user_md_v1"][::core::mem::align_of::<lov_user_md_v1>() - 8usize];
    [
        "Offset of field: lov_user_md_v1::lmm_magic",
    ][::core::mem::offset_of!(lov_user_md_v1, lmm_magic) - 0usize];
    [
        "Offset of field: lov_user_md_v1::lmm_pattern",
    ][::core::mem::offset_of!(lov_user_md_v1, lmm_pattern) - 4usize];
    [
        "Offset of field: lov_user_md_v1::lmm_oi",
    ][::core::mem::offset_of!(lov_user_md_v1, lmm_oi) - 8usize];
    [
        "Offset of field: lov_user_md_v1::lmm_stripe_size",
    ][::core::mem::offset_of!(lov_user_md_v1, lmm_stripe_size) - 24usize];
    [
        "Offset of field: lov_user_md_v1::lmm_stripe_count",
    ][::core::mem::offset_of!(lov_user_md_v1, lmm_stripe_count) - 28usize];
    [
        "Offset of field: lov_user_md_v1::lmm_stripe_offset",
    ][::core::mem::offset_of!(lov_user_md_v1, lmm_stripe_offset) - 30usize];
};
#[repr(C)]
#[derive(Default, Copy, Clone)]
pub struct lu_fid {
    pub f_seq: u64,
    pub f_oid: u32,
    pub f_ver: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lu_fid"][::core::mem::size_of::<lu_fid>() - 16usize];
    ["Alignment of lu_fid"][::core::mem::align_of::<lu_fid>() - 8usize];
    ["Offset of field: lu_fid::f_seq"][::core::mem::offset_of!(lu_fid, f_seq) - 0usize];
    ["Offset of field: lu_fid::f_oid"][::core::mem::offset_of!(lu_fid, f_oid) - 8usize];
    ["Offset of field: lu_fid::f_ver"][::core::mem::offset_of!(lu_fid, f_ver) - 12usize];
};
#[repr(C)]
#[derive(Default, Copy, Clone)]
pub struct lustre_file_handle {
    pub lfh_child: lu_fid,
    pub lfh_parent: lu_fid,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [
        "Size of lustre_file_handle",
    ][::core::mem::size_of::<lustre_file_handle>() - 32usize];
    [
        "Alignment of lustre_file_handle",
    ][::core::mem::align_of::<lustre_file_handle>() - 8usize];
    [
        "Offset of field: lustre_file_handle::lfh_child",
    ][::core::mem::offset_of!(lustre_file_handle, lfh_child) - 0usize];
    [
        "Offset of field: lustre_file_handle::lfh_parent",
    ][::core::mem::offset_of!(lustre_file_handle, lfh_parent) - 16usize];
};
#[repr(C)]
#[derive(Default, Copy, Clone)]
pub struct hsm_user_state {
    pub hus_states: u32,
    pub hus_archive_id: u32,
    pub hus_in_progress_state: u32,
    pub hus_in_progress_action: u32,
    pub hus_in_progress_location: [u64; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of hsm_user_state"][::core::mem::size_of::<hsm_user_state>() - 32usize];
    ["Alignment of hsm_user_state"][::core::mem::align_of::<hsm_user_state>() - 8usize];
    [
        "Offset of field: hsm_user_state::hus_states",
    ][::core::mem::offset_of!(hsm_user_state, hus_states) - 0usize];
    [
        "Offset of field: hsm_user_state::hus_archive_id",
    ][::core::mem::offset_of!(hsm_user_state, hus_archive_id) - 4usize];
    [
        "Offset of field: hsm_user_state::hus_in_progress_state",
    ][::core::mem::offset_of!(hsm_user_state, hus_in_progress_state) - 8usize];
    [
        "Offset of field: hsm_user_state::hus_in_progress_action",
    ][::core::mem::offset_of!(hsm_user_state, hus_in_progress_action) - 12usize];
    [
        "Offset of field: hsm_user_state::hus_in_progress_location",
    ][::core::mem::offset_of!(hsm_user_state, hus_in_progress_location) - 16usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct lu_project {
    pub project_type: u32,
    pub project_id: u32,
    pub project_xflags: u32,
    pub project_reserved: u32,
    pub project_name: [::core::ffi::c_char; 256usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lu_project"][::core::mem::size_of::<lu_project>() - 272usize];
    ["Alignment of lu_project"][::core::mem::align_of::<lu_project>() - 4usize];
    [
        "Offset of field: lu_project::project_type",
    ][::core::mem::offset_of!(lu_project, project_type) - 0usize];
    [
        "Offset of field: lu_project::project_id",
    ][::core::mem::offset_of!(lu_project, project_id) - 4usize];
    [
        "Offset of field: lu_project::project_xflags",
    ][::core::mem::offset_of!(lu_project, project_xflags) - 8usize];
    [
        "Offset of field: lu_project::project_reserved",
    ][::core::mem::offset_of!(lu_project, project_reserved) - 12usize];
    [
        "Offset of field: lu_project::project_name",
    ][::core::mem::offset_of!(lu_project, project_name) - 16usize];
};
impl Default for lu_project {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Default, Copy, Clone)]
pub struct obdo {
    pub o_first: [u64; 12usize],
    pub o_flags: u32,
    pub o_nlink: u32,
    pub o_last: [u64; 13usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of obdo"][::core::mem::size_of::<obdo>() - 208usize];
    ["Alignment of obdo"][::core::mem::align_of::<obdo>() - 8usize];
    ["Offset of field: obdo::o_first"][::core::mem::offset_of!(obdo, o_first) - 0usize];
    ["Offset of field: obdo::o_flags"][::core::mem::offset_of!(obdo, o_flags) - 96usize];
    [
        "Offset of field: obdo::o_nlink",
    ][::core::mem::offset_of!(obdo, o_nlink) - 100usize];
    ["Offset of field: obdo::o_last"][::core::mem::offset_of!(obdo, o_last) - 104usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct obd_ioctl_data {
    pub ioc_len: u32,
    pub ioc_version: u32,
    pub ioc_cookie: u64,
    pub ioc_conn1: u32,
    pub ioc_conn2: u32,
    pub ioc_obdo1: obdo,
    pub ioc_obdo2: obdo,
    pub ioc_count: u64,
    pub ioc_offset: u64,
    pub ioc_dev: u32,
    pub ioc_command: u32,
    pub ioc_nid: u64,
    pub ioc_nal: u32,
    pub ioc_type: u32,
    pub ioc_plen1: u32,
    pub ioc_pbuf1: *mut ::core::ffi::c_void,
    pub ioc_plen2: u32,
    pub ioc_pbuf2: *mut ::core::ffi::c_void,
    pub ioc_inllen1: u32,
    pub ioc_inlbuf1: *mut ::core::ffi::c_char,
    pub ioc_inllen2: u32,
    pub ioc_inlbuf2: *mut ::core::ffi::c_char,
    pub ioc_inllen3: u32,
    pub ioc_inlbuf3: *mut ::core::ffi::c_char,
    pub ioc_inllen4: u32,
    pub ioc_inlbuf4: *mut ::core::ffi::c_char,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of obd_ioctl_data"][::core::mem::size_of::<obd_ioctl_data>() - 576usize];
    ["Alignment of obd_ioctl_data"][::core::mem::align_of::<obd_ioctl_data>() - 8usize];
    [
        "Offset of field: obd_ioctl_data::ioc_len",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_len) - 0usize];
    [
        "Offset of field: obd_ioctl_data::ioc_version",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_version) - 4usize];
    [
        "Offset of field: obd_ioctl_data::ioc_cookie",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_cookie) - 8usize];
    [
        "Offset of field: obd_ioctl_data::ioc_conn1",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_conn1) - 16usize];
    [
        "Offset of field: obd_ioctl_data::ioc_conn2",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_conn2) - 20usize];
    [
        "Offset of field: obd_ioctl_data::ioc_obdo1",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_obdo1) - 24usize];
    [
        "Offset of field: obd_ioctl_data::ioc_obdo2",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_obdo2) - 232usize];
    [
        "Offset of field: obd_ioctl_data::ioc_count",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_count) - 440usize];
    [
        "Offset of field: obd_ioctl_data::ioc_offset",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_offset) - 448usize];
    [
        "Offset of field: obd_ioctl_data::ioc_dev",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_dev) - 456usize];
    [
        "Offset of field: obd_ioctl_data::ioc_command",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_command) - 460usize];
    [
        "Offset of field: obd_ioctl_data::ioc_nid",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_nid) - 464usize];
    [
        "Offset of field: obd_ioctl_data::ioc_nal",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_nal) - 472usize];
    [
        "Offset of field: obd_ioctl_data::ioc_type",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_type) - 476usize];
    [
        "Offset of field: obd_ioctl_data::ioc_plen1",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_plen1) - 480usize];
    [
        "Offset of field: obd_ioctl_data::ioc_pbuf1",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_pbuf1) - 488usize];
    [
        "Offset of field: obd_ioctl_data::ioc_plen2",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_plen2) - 496usize];
    [
        "Offset of field: obd_ioctl_data::ioc_pbuf2",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_pbuf2) - 504usize];
    [
        "Offset of field: obd_ioctl_data::ioc_inllen1",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_inllen1) - 512usize];
    [
        "Offset of field: obd_ioctl_data::ioc_inlbuf1",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_inlbuf1) - 520usize];
    [
        "Offset of field: obd_ioctl_data::ioc_inllen2",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_inllen2) - 528usize];
    [
        "Offset of field: obd_ioctl_data::ioc_inlbuf2",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_inlbuf2) - 536usize];
    [
        "Offset of field: obd_ioctl_data::ioc_inllen3",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_inllen3) - 544usize];
    [
        "Offset of field: obd_ioctl_data::ioc_inlbuf3",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_inlbuf3) - 552usize];
    [
        "Offset of field: obd_ioctl_data::ioc_inllen4",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_inllen4) - 560usize];
    [
        "Offset of field: obd_ioctl_data::ioc_inlbuf4",
    ][::core::mem::offset_of!(obd_ioctl_data, ioc_inlbuf4) - 568usize];
};
impl Default for obd_ioctl_data {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Default, Copy, Clone)]
pub struct lmv_user_md {
    pub lum_magic: u32,
    pub lum_stripe_count: u32,
    pub lum_stripe_offset: u32,
    pub lum_hash_type: u32,
    pub lum_type: u32,
    pub lum_max_inherit: u8,
    pub lum_max_inherit_rr: u8,
    pub lum_padding1: u16,
    pub lum_padding2: u32,
    pub lum_padding3: u32,
    pub lum_pool_name: [::core::ffi::c_char; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of lmv_user_md"][::core::mem::size_of::<lmv_user_md>() - 48usize];
    ["Alignment of lmv_user_md"][::core::mem::align_of::<lmv_user_md>() - 4usize];
    [
        "Offset of field: lmv_user_md::lum_magic",
    ][::core::mem::offset_of!(lmv_user_md, lum_magic) - 0usize];
    [
        "Offset of field: lmv_user_md::lum_stripe_count",
    ][::core::mem::offset_of!(lmv_user_md, lum_stripe_count) - 4usize];
    [
        "Offset of field: lmv_user_md::lum_stripe_offset",
    ][::core::mem::offset_of!(lmv_user_md, lum_stripe_offset) - 8usize];
    [
        "Offset of field: lmv_user_md::lum_hash_type",
    ][::core::mem::offset_of!(lmv_user_md, lum_hash_type) - 12usize];
    [
        "Offset of field: lmv_user_md::lum_type",
    ][::core::mem::offset_of!(lmv_user_md, lum_type) - 16usize];
    [
        "Offset of field: lmv_user_md::lum_max_inherit",
    ][::core::mem::offset_of!(lmv_user_md, lum_max_inherit) - 20usize];
    [
        "Offset of field: lmv_user_md::lum_max_inherit_rr",
    ][::core::mem::offset_of!(lmv_user_md, lum_max_inherit_rr) - 21usize];
    [
        "Offset of field: lmv_user_md::lum_padding1",
    ][::core::mem::offset_of!(lmv_user_md, lum_padding1) - 22usize];
    [
        "Offset of field: lmv_user_md::lum_padding2",
    ][::core::mem::offset_of!(lmv_user_md, lum_padding2) - 24usize];
    [
        "Offset of field: lmv_user_md::lum_padding3",
    ][::core::mem::offset_of!(lmv_user_md, lum_padding3) - 28usize];
    [
        "Offset of field: lmv_user_md::lum_pool_name",
    ][::core::mem::offset_of!(lmv_user_md, lum_pool_name) - 32usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct obd_uuid {
    pub uuid: [::core::ffi::c_char; 40usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of obd_uuid"][::core::mem::size_of::<obd_uuid>() - 40usize];
    ["Alignment of obd_uuid"][::core::mem::align_of::<obd_uuid>() - 1usize];
    [
        "Offset of field: obd_uuid::uuid",
    ][::core::mem::offset_of!(obd_uuid, uuid) - 0usize];
};
impl Default for obd_uuid {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Copy, Clone)]
pub struct obd_statfs {
    pub os_type: u64,
    pub os_blocks: u64,
    pub os_bfree: u64,
    pub os_bavail: u64,
    pub os_files: u64,
    pub os_ffree: u64,
    pub os_fsid: [u8; 40usize],
    pub os_bsize: u32,
    pub os_namelen: u32,
    pub os_maxbytes: u64,
    pub os_state: u32,
    pub os_fprecreated: u32,
    pub os_granted: u32,
    pub os_spare: [u32; 7usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of obd_statfs"][::core::mem::size_of::<obd_statfs>() - 144usize];
    ["Alignment of obd_statfs"][::core::mem::align_of::<obd_statfs>() - 8usize];
    [
        "Offset of field: obd_statfs::os_type",
    ][::core::mem::offset_of!(obd_statfs, os_type) - 0usize];
    [
        "Offset of field: obd_statfs::os_blocks",
    ][::core::mem::offset_of!(obd_statfs, os_blocks) - 8usize];
    [
        "Offset of field: obd_statfs::os_bfree",
    ][::core::mem::offset_of!(obd_statfs, os_bfree) - 16usize];
    [
        "Offset of field: obd_statfs::os_bavail",
    ][::core::mem::offset_of!(obd_statfs, os_bavail) - 24usize];
    [
        "Offset of field: obd_statfs::os_files",
    ][::core::mem::offset_of!(obd_statfs, os_files) - 32usize];
    [
        "Offset of field: obd_statfs::os_ffree",
    ][::core::mem::offset_of!(obd_statfs, os_ffree) - 40usize];
    [
        "Offset of field: obd_statfs::os_fsid",
    ][::core::mem::offset_of!(obd_statfs, os_fsid) - 48usize];
    [
        "Offset of field: obd_statfs::os_bsize",
    ][::core::mem::offset_of!(obd_statfs, os_bsize) - 88usize];
    [
        "Offset of field: obd_statfs::os_namelen",
    ][::core::mem::offset_of!(obd_statfs, os_namelen) - 92usize];
    [
        "Offset of field: obd_statfs::os_maxbytes",
    ][::core::mem::offset_of!(obd_statfs, os_maxbytes) - 96usize];
    [
        "Offset of field: obd_statfs::os_state",
    ][::core::mem::offset_of!(obd_statfs, os_state) - 104usize];
    [
        "Offset of field: obd_statfs::os_fprecreated",
    ][::core::mem::offset_of!(obd_statfs, os_fprecreated) - 108usize];
    [
        "Offset of field: obd_statfs::os_granted",
    ][::core::mem::offset_of!(obd_statfs, os_granted) - 112usize];
    [
        "Offset of field: obd_statfs::os_spare",
    ][::core::mem::offset_of!(obd_statfs, os_spare) - 116usize];
};
impl Default for obd_statfs {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
pub struct LustreApi {
    __library: ::libloading::Library,
    pub llapi_msg_set_level: Result<
        unsafe extern "C" fn(level: ::core::ffi::c_int),
        ::libloading::Error,
    >,
    pub llapi_get_version_string: Result<
        unsafe extern "C" fn(
            version: *mut ::core::ffi::c_char,
            version_size: ::core::ffi::c_uint,
        ) -> ::core::ffi::c_int,
        ::libloading::Error,
    >,
    pub llapi_get_poollist: Result<
        unsafe extern "C" fn(
            name: *const ::core::ffi::c_char,
            poollist: *mut *mut ::core::ffi::c_char,
            list_size: ::core::ffi::c_int,
            buffer: *mut ::core::ffi::c_char,
            buffer_size: ::core::ffi::c_int,
        ) -> ::core::ffi::c_int,
        ::libloading::Error,
    >,
    pub llapi_search_fsname: Result<
        unsafe extern "C" fn(
            pathname: *const ::core::ffi::c_char,
            fsname: *mut ::core::ffi::c_char,
        ) -> ::core::ffi::c_int,
        ::libloading::Error,
    >,
}
impl LustreApi {
    pub unsafe fn new<P>(path: P) -> Result<Self, ::libloading::Error>
    where
        P: AsRef<::std::ffi::OsStr>,
    {
        let path = path.as_ref();
        let library = ::libloading::Library::new(path)?;
        Self::from_library(library)
    }
    pub unsafe fn from_library<L>(library: L) -> Result<Self, ::libloading::Error>
    where
        L: Into<::libloading::Library>,
    {
        let __library = library.into();
        let llapi_msg_set_level = __library
            .get(b"llapi_msg_set_level\0")
            .map(|sym| *sym);
        let llapi_get_version_string = __library
            .get(b"llapi_get_version_string\0")
            .map(|sym| *sym);
        let llapi_get_poollist = __library.get(b"llapi_get_poollist\0").map(|sym| *sym);
        let llapi_search_fsname = __library
            .get(b"llapi_search_fsname\0")
            .map(|sym| *sym);
        Ok(LustreApi {
            __library,
            llapi_msg_set_level,
            llapi_get_version_string,
            llapi_get_poollist,
            llapi_search_fsname,
        })
    }
    pub unsafe fn llapi_msg_set_level(&self, level: ::core::ffi::c_int) {
        (self
            .llapi_msg_set_level
            .as_ref()
            .expect("Expected function, got error."))(level)
    }
    pub unsafe fn llapi_get_version_string(
        &self,
        version: *mut ::core::ffi::c_char,
        version_size: ::core::ffi::c_uint,
    ) -> ::core::ffi::c_int {
        (self
            .llapi_get_version_string
            .as_ref()
            .expect("Expected function, got error."))(version, version_size)
    }
    pub unsafe fn llapi_get_poollist(
        &self,
        name: *const ::core::ffi::c_char,
        poollist: *mut *mut ::core::ffi::c_char,
        list_size: ::core::ffi::c_int,
        buffer: *mut ::core::ffi::c_char,
        buffer_size: ::core::ffi::c_int,
    ) -> ::core::ffi::c_int {
        (self
            .llapi_get_poollist
            .as_ref()
            .expect(
                "Expected function, got error.",
            ))(name, poollist, list_size, buffer, buffer_size)
    }
    pub unsafe fn llapi_search_fsname(
        &self,
        pathname: *const ::core::ffi::c_char,
        fsname: *mut ::core::ffi::c_char,
    ) -> ::core::ffi::c_int {
        (self
            .llapi_search_fsname
            .as_ref()
            .expect("Expected function, got error."))(pathname, fsname)
    }
}
