//! Which library this is.

use std::ffi::c_char;

/// The ABI's number in this header. It grows by one when a program built against an older header must not run with the
/// library; it does not when functions are added or records grow.
pub const VFP_ABI: u32 = 1;

/// The library's VFP_ABI, for programs that load it by hand: the linker sees to it by the soname.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_abi() -> u32 {
    VFP_ABI
}

/// The library's version, `MAJOR.MINOR.PATCH`, NUL-terminated and static: never free it.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_cargos() {
        // SAFETY: vfp_version() promises a static NUL-terminated string.
        let version = unsafe { std::ffi::CStr::from_ptr(super::vfp_version()) };
        assert_eq!(version.to_str(), Ok(env!("CARGO_PKG_VERSION")));
    }
}
