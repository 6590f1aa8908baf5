//! Which library this is.

use std::ffi::c_char;

/// The ABI's number; grows by one when a program built against an older header must not run with this library.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "an exported name")]
pub extern "C" fn vfp_abi() -> u32 {
    0
}

/// The library's version, `MAJOR.MINOR.PATCH`, NUL-terminated and static: never free it.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "an exported name")]
pub extern "C" fn vfp_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_cargos() {
        #[expect(unsafe_code, reason = "reads what C would read")]
        // SAFETY: vfp_version() promises a static NUL-terminated string.
        let version = unsafe { std::ffi::CStr::from_ptr(super::vfp_version()) };
        assert_eq!(version.to_str(), Ok(env!("CARGO_PKG_VERSION")));
    }

    /// `UPDATE=1` writes the header anew.
    #[test]
    fn the_header_is_up_to_date() {
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let header = here.join("../include/vfio_probe.h");
        let mut made = Vec::new();
        cbindgen::generate(here).unwrap().write(&mut made);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&header, &made).unwrap();
        }
        let checked_in = std::fs::read(&header).unwrap_or_default();
        assert!(made == checked_in, "run UPDATE=1 cargo test -p vfio-probe-ffi");
    }
}
