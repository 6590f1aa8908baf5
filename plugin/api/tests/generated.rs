//! Compares the checked-in code with what the .proto files generate. `UPDATE=1 cargo test -p kubelet-api` writes it
//! again.

use std::fs;
use std::path::Path;

#[test]
fn generated_code_is_up_to_date() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["deviceplugin/v1beta1/api.proto", "podresources/v1/api.proto"];
    let out = here.join("src/generated");
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    for (file, package) in files.iter().zip(["v1beta1", "v1"]) {
        let directory = fresh.join(package);
        fs::create_dir_all(&directory).unwrap();
        let descriptors = protox::compile([file], [here.join("proto")]).unwrap();
        tonic_prost_build::configure().out_dir(&directory).compile_fds(descriptors).unwrap();
        let name = format!("{package}.rs");
        let made = fs::read_to_string(directory.join(&name)).unwrap();
        if std::env::var_os("UPDATE").is_some() {
            fs::create_dir_all(&out).unwrap();
            fs::write(out.join(&name), &made).unwrap();
        }
        let checked_in = fs::read_to_string(out.join(&name)).unwrap_or_default();
        assert!(
            made == checked_in,
            "{name} is not what {file} generates: run UPDATE=1 cargo test -p kubelet-api"
        );
    }
}
