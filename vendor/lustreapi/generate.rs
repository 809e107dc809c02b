// Makes Rust of lustreapi.h: read by build.rs, and by the test that compares the result with bindings.rs.

/// Functions of the shared object.
const FUNCTIONS: &str = "llapi_(msg_set_level|get_version_string|get_poollist|search_fsname)";
/// Structures of the kernel's calls.
const TYPES: &str = "lov_user_md_v1|lu_fid|lustre_file_handle|hsm_user_state|lu_project|obdo|obd_ioctl_data\
                     |lmv_user_md|obd_uuid|obd_statfs";
/// Numbers.
const CONSTANTS: &str = "LL_.*|LOV_.*|LMV_.*|LU_.*|LLAPI_.*|OS_.*|OBD_.*|IOC_.*|HS_.*|FILEID_LUSTRE|O_LOV_DELAY_CREATE";

/// The bindings of a header as Rust.
fn generate(header: &str) -> Result<String, String> {
    // The oldest compiler that builds the program, whichever builds this.
    let compiler = bindgen::RustTarget::stable(88, 0).map_err(|e| e.to_string())?;
    let bindings = bindgen::Builder::default()
        .rust_target(compiler)
        .header(header)
        .allowlist_function(FUNCTIONS)
        .allowlist_type(TYPES)
        .allowlist_var(CONSTANTS)
        .dynamic_library_name("LustreApi")
        // Older libraries lack some: each symbol is a result of its own.
        .dynamic_link_require_all(false)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .derive_default(true)
        .derive_debug(false)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .use_core()
        .generate_comments(false)
        .disable_header_comment()
        .formatter(bindgen::Formatter::Prettyplease)
        .generate();
    bindings.map(|bindings| bindings.to_string()).map_err(|e| e.to_string())
}
