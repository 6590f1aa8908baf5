//! The file system that the guest starts from.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::GuestFile;
use super::kernel::Kernel;
use crate::context::Context;
use crate::{Result, process};

/// The modules that the guest loads, with those that they need.
const MODULES: [&str; 5] = ["vfio_iommu_type1", "vfio-pci", "e1000", "nvme", "igb"];

/// Makes the archive in WORK and returns its path. The guest's init runs the command.
pub(super) fn make(
    context: &Context,
    work: &Path,
    busybox: &Path,
    kernel: &Kernel,
    files: &[GuestFile],
    command: &[String],
) -> Result<PathBuf> {
    let root = work.join("root");
    for directory in ["bin", "dev", "proc", "sys", "tmp", "run", "var", "modules", "etc"] {
        process::make_directory(&root.join(directory))?;
    }
    std::fs::copy(busybox, root.join("bin/busybox"))?;
    put_program(&root.join("init"), &std::fs::read(context.top.join("tests/vm/init"))?)?;
    put_modules(context, kernel, &MODULES, &root.join("modules"))?;
    for module in process::entries(&kernel.directory) {
        if module.extension().is_some_and(|extension| extension == "ko") {
            std::fs::copy(&module, root.join("modules").join(process::file_name(&module)))?;
        }
    }
    for file in files {
        let relative = file.destination.strip_prefix("/").unwrap_or(&file.destination);
        let destination = root.join(relative);
        process::make_directory(destination.parent().unwrap_or(&root))?;
        process::run(context.command("cp").arg("-aL").arg(&file.source).arg(destination))?;
    }
    let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    put_program(&root.join("cmd"), format!("#!/bin/sh\nexec {}\n", words.join(" ")).as_bytes())?;
    let archive = work.join("initrd");
    pack(context, &root, &archive)?;
    Ok(archive)
}

/// Writes a program.
///
/// # Errors
///
/// Fails with the file's name.
pub fn put_program(path: &Path, text: &[u8]) -> Result {
    process::write(path, text)?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

/// Unpacks modules of a kernel, and those that they need, into a directory. Its file `load` lists them in the order in which they
/// are loaded. A module that is built in or that the kernel lacks is left out.
///
/// # Errors
///
/// Fails if a module cannot be unpacked.
pub fn put_modules(context: &Context, kernel: &Kernel, modules: &[&str], directory: &Path) -> Result {
    let mut loaded = String::new();
    if let Some(version) = &kernel.version {
        for file in module_files(context, kernel, version, modules)? {
            let name = put_module(context, &file, directory)?;
            let _ = writeln!(loaded, "{name}");
        }
    }
    process::write(&directory.join("load"), loaded)
}

/// Returns the files of the modules and of those that they need, in the order in which they are loaded.
fn module_files(context: &Context, kernel: &Kernel, version: &str, modules: &[&str]) -> Result<Vec<PathBuf>> {
    let (mut seen, mut files) = (BTreeSet::new(), Vec::new());
    for module in modules {
        let mut modprobe = context.command("modprobe");
        modprobe.arg("-d").arg(&kernel.directory).args(["-S", version, "--show-depends", module]);
        // It prints `insmod PATH` lines, or nothing for a built-in module, and fails for one that the kernel lacks.
        let output = modprobe.stderr(Stdio::null()).output()?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let file = line.strip_prefix("insmod ").and_then(|rest| rest.split_whitespace().next());
            if let Some(file) = file.filter(|file| seen.insert((*file).to_owned())) {
                files.push(PathBuf::from(file));
            }
        }
    }
    Ok(files)
}

/// Unpacks a module into a directory and returns its name.
fn put_module(context: &Context, file: &Path, directory: &Path) -> Result<String> {
    let name = process::file_name(file);
    let unpack = |program: &str, arguments: &[&str], name: &str| {
        let unpacked = File::create(directory.join(name))?;
        let status = context.command(program).args(arguments).arg(file).stdout(unpacked).status()?;
        if status.success() {
            Ok(name.to_owned())
        } else {
            Err(format!("{program} cannot unpack {}", file.display()).into())
        }
    };
    if let Some(name) = name.strip_suffix(".xz") {
        unpack("xz", &["-dc"], name)
    } else if let Some(name) = name.strip_suffix(".zst") {
        unpack("zstd", &["-qdc"], name)
    } else {
        std::fs::copy(file, directory.join(&name))?;
        Ok(name)
    }
}

/// Packs a directory as the kernel expects it.
///
/// # Errors
///
/// Fails if find or cpio fails.
pub fn pack(context: &Context, root: &Path, archive: &Path) -> Result {
    let mut find = context.command("find");
    let mut find = find.arg(".").current_dir(root).stdout(Stdio::piped()).spawn()?;
    let names = find.stdout.take().ok_or("find has no output")?;
    let mut cpio = context.command("cpio");
    cpio.args(["-o", "-H", "newc", "--quiet", "-R", "0:0"]).current_dir(root);
    let packed = cpio.stdin(names).stdout(File::create(archive)?).status()?;
    if find.wait()?.success() && packed.success() {
        Ok(())
    } else {
        Err("cpio cannot pack the initramfs".into())
    }
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn shell_reads_a_quoted_word_as_it_was() {
        for word in ["plain", "two words", "it's", "$HOME `id` \"x\" \\ *", ""] {
            let script = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }
}
