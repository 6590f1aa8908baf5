//! The version of the library and of its ABI.

use std::ffi::c_char;

/// Number of the ABI that this header describes. It changes when programs built with an older
/// header are incompatible. It does not change when functions are added or records grow.
pub const VFP_ABI: u32 = 1;

/// Returns VFP_ABI of the library, for programs that load it with dlopen(). The dynamic linker
/// compares it by the soname.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_abi() -> u32 {
    VFP_ABI
}

/// Returns the version of the library, `MAJOR.MINOR.PATCH`. The text is static: do not free it.
#[unsafe(no_mangle)]
pub extern "C" fn vfp_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

#[cfg(test)]
mod tests {
    #[test]
    fn version_is_the_package_version() {
        // SAFETY: vfp_version() returns a static NUL-terminated string.
        let version = unsafe { std::ffi::CStr::from_ptr(super::vfp_version()) };
        assert_eq!(version.to_str(), Ok(env!("CARGO_PKG_VERSION")));
    }
}
