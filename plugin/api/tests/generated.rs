//! Compares the checked-in code with what the .proto files generate. `UPDATE=1 cargo test -p kubelet-api` writes it
//! again.

use std::fs;
use std::path::Path;

#[test]
fn generated_code_is_up_to_date() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The source, its package, and the module.
    let files = [
        ("deviceplugin/v1beta1", "v1beta1", "v1beta1"),
        ("podresources/v1", "v1", "v1"),
        ("dra/v1", "k8s.io.kubelet.pkg.apis.dra.v1", "dra_v1"),
        ("dra-health/v1", "v1", "dra_health_v1"),
        ("dra-health/v1alpha1", "v1alpha1", "dra_health_v1alpha1"),
        ("pluginregistration/v1", "pluginregistration", "pluginregistration_v1"),
    ];
    let out = here.join("src/generated");
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    for (source, package, module) in files {
        let file = format!("{source}/api.proto");
        let directory = fresh.join(module);
        fs::create_dir_all(&directory).unwrap();
        let descriptors = protox::compile([&file], [here.join("proto")]).unwrap();
        tonic_prost_build::configure().out_dir(&directory).compile_fds(descriptors).unwrap();
        let name = format!("{module}.rs");
        let made = fs::read_to_string(directory.join(format!("{package}.rs"))).unwrap();
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
