//! The images of containers that do not change with the plugin, as archives that `ctr images import` reads.

use std::path::{Path, PathBuf};

use xtask::context::Context;
use xtask::process;
use xtask::scratch::Scratch;

use super::cache::{Cache, Key};
use crate::Result;

/// The names of the images.
pub const IMAGES: [&str; 3] = ["pause", "holder", "qemu"];
/// Firmware that QEMU loads for a q35 machine without a display.
const FIRMWARE: [&str; 3] = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin"];
const CC: [&str; 6] = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-static"];

/// Makes the archives, NAME.tar each, and returns their directory. `tools` is the directory of the tests' own programs.
///
/// # Errors
///
/// Fails if a program does not compile or a file cannot be copied.
pub fn build(context: &Context, cache: &Cache, tools: &Path) -> Result<PathBuf> {
    let pause = context.top.join("tests/cluster/images/pause.c");
    let qemu = process::output(context.command("qemu-system-x86_64").arg("--version"))?;
    let key = Key::default().recipe(context, "images.rs")?.file(&pause)?;
    cache.part("images", &key.text(process::file_name(tools)).text(qemu), |new| {
        let work = Scratch::new()?;
        compile(context, &pause, &work.join("pause"))?;
        image(context, "pause", "/pause", new, |root| copy(&work.join("pause"), &root.join("pause")))?;
        let holder = |root: &Path| copy(&tools.join("holder"), &root.join("holder"));
        image(context, "holder", "/holder", new, holder)?;
        // The holder starts QEMU with the devices that the plugin's variables name.
        image(context, "qemu", "/holder", new, |root| {
            holder(root)?;
            qemu_root(context, root)
        })
    })
}

/// Makes the archive of an image whose files a function puts into its root directory.
fn image(
    context: &Context,
    name: &str,
    entrypoint: &str,
    to: &Path,
    fill: impl FnOnce(&Path) -> Result,
) -> Result {
    let work = Scratch::new()?;
    let root = work.join("root");
    process::make_directory(&root)?;
    fill(&root)?;
    archive(context, work.path(), name, entrypoint, to)
}

/// Copies a file with its permissions, and makes its directory.
fn copy(from: &Path, to: &Path) -> Result {
    process::make_directory(to.parent().unwrap_or(to))?;
    std::fs::copy(from, to).map_err(|error| format!("cannot copy {}: {error}", from.display()))?;
    Ok(())
}

fn compile(context: &Context, source: &Path, program: &Path) -> Result {
    process::run(context.command("cc").args(CC).arg("-o").arg(program).arg(source))
}

/// Copies QEMU with its libraries and firmware.
fn qemu_root(context: &Context, root: &Path) -> Result {
    let program = context.find("qemu-system-x86_64").ok_or("qemu-system-x86_64 is missing")?;
    let listed = process::output(context.command("ldd").arg(&program))?;
    copy(&program, &root.join("usr/bin/qemu-system-x86_64"))?;
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(Path::new(library), &root.join(library.trim_start_matches('/')))?;
    }
    // Debian builds the emulated processor as a module. Other hosts may have it in the program.
    let module = format!("usr/lib/{0}-linux-gnu/qemu/accel-tcg-{0}.so", std::env::consts::ARCH);
    if Path::new("/").join(&module).exists() {
        copy(&Path::new("/").join(&module), &root.join(&module))?;
    }
    for file in FIRMWARE {
        let places =
            ["/usr/share/qemu", "/usr/share/seabios"].map(|directory| Path::new(directory).join(file));
        let from = places.iter().find(|place| place.exists());
        let from =
            from.ok_or_else(|| format!("QEMU's firmware {file} is missing (on Debian the package seabios)"))?;
        copy(from, &root.join("usr/share/qemu").join(file))?;
    }
    Ok(())
}

/// Packs WORK/root as an image in the format of `docker save`.
fn archive(context: &Context, work: &Path, name: &str, entrypoint: &str, to: &Path) -> Result {
    let packed = work.join("packed");
    process::make_directory(&packed)?;
    let layer = packed.join("layer.tar");
    let mut tar = context.command("tar");
    tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-cf"]).arg(&layer).arg("-C");
    process::run(tar.arg(work.join("root")).arg("."))?;
    let sum = process::output(context.command("sha256sum").arg(&layer))?;
    let digest = sum.split_whitespace().next().ok_or("sha256sum prints nothing")?;
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Entrypoint":["{entrypoint}"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}},"history":[{{"created_by":"tests/cluster"}}]}}"#
    );
    process::write(&packed.join("config.json"), config)?;
    // Without a name: `ctr images import` gives it.
    let manifest = r#"[{"Config":"config.json","RepoTags":[],"Layers":["layer.tar"]}]"#;
    process::write(&packed.join("manifest.json"), manifest)?;
    let mut tar = context.command("tar");
    tar.arg("-cf").arg(to.join(format!("{name}.tar"))).arg("-C").arg(&packed);
    process::run(tar.args(["manifest.json", "config.json", "layer.tar"]))
}
