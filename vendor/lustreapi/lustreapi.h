/*
 * What treehaul uses of Lustre's interface, and nothing else: written by us, from facts of the interface (names, numbers,
 * layouts of structures) as lustre/lustreapi.h, linux/lustre/lustre_user.h, lustre_ioctl.h and lustre_idl.h of
 * Lustre 2.17.0 have them. It includes nothing, so that neither Lustre nor a C compiler's headers are needed to read it.
 *
 * generate.rs makes bindings.rs of it; the allow-list is there.
 */

typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

/* f_type of statfs(2). */
#define LL_SUPER_MAGIC 0x0BD00BD0

/* open(2): the layout comes afterwards (O_NOCTTY | FASYNC, which mean nothing for a regular file). */
#define O_LOV_DELAY_CREATE 0x2100

/* A layout without components, and values that remove a directory's default. */
#define LOV_USER_MAGIC_V1 0x0BD10BD0
#define LOV_OFFSET_DEFAULT 0xffff

struct lov_user_md_v1 {
    uint32_t lmm_magic;
    uint32_t lmm_pattern;
    uint64_t lmm_oi[2];
    uint32_t lmm_stripe_size;
    uint16_t lmm_stripe_count;
    uint16_t lmm_stripe_offset;
};

/* Names an inode in the whole filesystem; its sequence tells the MDT. */
struct lu_fid {
    uint64_t f_seq;
    uint32_t f_oid;
    uint32_t f_ver;
};

/* name_to_handle_at(2) gives such a handle: the inode's fid, and its directory's or zeros. */
#define FILEID_LUSTRE 0x97

struct lustre_file_handle {
    struct lu_fid lfh_child;
    struct lu_fid lfh_parent;
};

/* int: MDT of what is open. */
#define LL_IOC_GET_MDTIDX 0x800466af
/* struct lu_fid: the call returns its MDT. Of a directory only. */
#define LL_IOC_FID2MDTIDX 0xc01066f8

/* HSM state of what is open. */
#define LL_IOC_HSM_STATE_GET 0x802066d3
#define HS_RELEASED 0x00000004

struct hsm_user_state {
    uint32_t hus_states;
    uint32_t hus_archive_id;
    uint32_t hus_in_progress_state;
    uint32_t hus_in_progress_action;
    uint64_t hus_in_progress_location[2];
};

/* Quota project of a child of the open directory, or of itself with an empty name. */
#define LL_IOC_PROJECT 0x411066fd
#define LU_PROJECT_SET 1
#define LU_PROJECT_GET 2

struct lu_project {
    uint32_t project_type;
    uint32_t project_id;
    uint32_t project_xflags;
    uint32_t project_reserved;
    char project_name[256];
};

/* The head of a call with several arguments; inline ones follow it, each padded to 8 bytes. */
#define OBD_IOCTL_VERSION 0x00010004

struct obdo {
    uint64_t o_first[12];
    uint32_t o_flags;
    uint32_t o_nlink;
    uint64_t o_last[13];
};

struct obd_ioctl_data {
    uint32_t ioc_len;
    uint32_t ioc_version;
    uint64_t ioc_cookie;
    uint32_t ioc_conn1;
    uint32_t ioc_conn2;
    struct obdo ioc_obdo1;
    struct obdo ioc_obdo2;
    uint64_t ioc_count;
    uint64_t ioc_offset;
    uint32_t ioc_dev;
    uint32_t ioc_command;
    uint64_t ioc_nid;
    uint32_t ioc_nal;
    uint32_t ioc_type;
    uint32_t ioc_plen1;
    void *ioc_pbuf1;
    uint32_t ioc_plen2;
    void *ioc_pbuf2;
    uint32_t ioc_inllen1;
    char *ioc_inlbuf1;
    uint32_t ioc_inllen2;
    char *ioc_inlbuf2;
    uint32_t ioc_inllen3;
    char *ioc_inlbuf3;
    uint32_t ioc_inllen4;
    char *ioc_inlbuf4;
};

/*
 * Makes a directory below the open one. Type is the mode, first inline argument the name with its NUL, second a
 * lmv_user_md. With the flag in the first obdo an existing one is EEXIST instead of being restriped.
 */
#define LL_IOC_LMV_SETSTRIPE 0xc03066f0
#define OBD_FL_OBDMDEXISTS 0x00000002
#define LMV_USER_MAGIC 0x0CD30CD0

struct lmv_user_md {
    uint32_t lum_magic;
    uint32_t lum_stripe_count;
    uint32_t lum_stripe_offset;
    uint32_t lum_hash_type;
    uint32_t lum_type;
    uint8_t lum_max_inherit;
    uint8_t lum_max_inherit_rr;
    uint16_t lum_padding1;
    uint32_t lum_padding2;
    uint32_t lum_padding3;
    char lum_pool_name[16];
};

/*
 * What one server's part holds. Inline arguments are what kind of part and its index, each a uint32_t; buffers an
 * obd_statfs and an obd_uuid. ENODEV: that was the last; EAGAIN: none has this index; ENODATA: it is not active.
 */
#define IOC_OBD_STATFS 0xc00866a4
#define LL_STATFS_LMV 1
#define LL_STATFS_LOV 2
#define LL_STATFS_NODELAY 4
#define OS_STATFS_READONLY 0x00000002
#define OS_STATFS_NOCREATE 0x00000004
#define OS_STATFS_ENOSPC 0x00000020
#define OS_STATFS_ENOINO 0x00000040

struct obd_uuid {
    char uuid[40];
};

struct obd_statfs {
    uint64_t os_type;
    uint64_t os_blocks;
    uint64_t os_bfree;
    uint64_t os_bavail;
    uint64_t os_files;
    uint64_t os_ffree;
    uint8_t os_fsid[40];
    uint32_t os_bsize;
    uint32_t os_namelen;
    uint64_t os_maxbytes;
    uint32_t os_state;
    uint32_t os_fprecreated;
    uint32_t os_granted;
    uint32_t os_spare[7];
};

/* liblustreapi.so.1: what has no call of the kernel's. */
#define LLAPI_MSG_OFF 0

/* What it prints to standard error. */
void llapi_msg_set_level(int level);
/* The client's version; 0 or a negative error number. */
int llapi_get_version_string(char *version, unsigned int version_size);
/* Pools of a filesystem as NAME.POOL, in the buffer; their number or a negative error number. */
int llapi_get_poollist(const char *name, char **poollist, int list_size, char *buffer, int buffer_size);
/* Name of the filesystem that a path lies on, in at least 9 bytes; 0 or a negative error number. */
int llapi_search_fsname(const char *pathname, char *fsname);
