//! Builds the Debian packages with dpkg-deb: the plugin, the shared library, and its development files.
//!
//! The control files in deploy/packages are Debian's own, so no other tool is needed.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::target::Target;
use super::{epoch, licenses};
use crate::artifacts::{assignment, remap};
use crate::context::Context;
use crate::packages::{C_LIBRARY, Need};
use crate::scratch::Scratch;
use crate::{Result, process};

/// The templates of control files, and the files of the service.
const SOURCE: &str = "deploy/packages";
const PLUGIN: &str = "vfio-device-plugin";
const LIBRARY: &str = "libvfio-probe1";
const DEVELOPMENT: &str = "libvfio-probe-dev";
const NEEDS: &[Need] = &[
    Need::Program("dpkg-deb", "dpkg"),
    Need::Program("dpkg-shlibdeps", "dpkg-dev"),
    Need::Program("gzip", "gzip"),
    Need::Program("strip", "binutils"),
];

/// Builds the three packages for a target in a directory, and returns their paths. `program` is the static program.
///
/// # Errors
///
/// Fails if the target has no standard library here, and if a part does not build.
pub fn packages(context: &Context, target: &Target, program: &Path, output: &Path) -> Result<Vec<PathBuf>> {
    context.need(NEEDS)?;
    context.need(C_LIBRARY)?;
    target.need_std(context)?;
    process::make_directory(output)?;
    let work = Scratch::new()?;
    let builder = Builder { context, target, work: work.path(), output, upstream: context.version()? };
    let tree = work.join("library");
    builder.install_library(&tree)?;
    Ok(vec![builder.plugin(program)?, builder.c_library(&tree)?, builder.development(&tree)?])
}

/// What all packages have in common.
struct Builder<'a> {
    context: &'a Context,
    target: &'a Target,
    work: &'a Path,
    output: &'a Path,
    /// The version without Debian's revision.
    upstream: String,
}

impl Builder<'_> {
    fn version(&self) -> String {
        format!("{}-1", self.upstream)
    }

    fn source(&self, name: &str) -> PathBuf {
        self.context.top.join(SOURCE).join(name)
    }

    fn plugin(&self, program: &Path) -> Result<PathBuf> {
        let package = Package::new(self, PLUGIN)?;
        package.copy(program, "usr/bin/vfio-device-plugin")?;
        package.copy(&self.source("vfio-device-plugin.default"), "etc/default/vfio-device-plugin")?;
        package.copy(
            &self.source("vfio-device-plugin.service"),
            "usr/lib/systemd/system/vfio-device-plugin.service",
        )?;
        package.copy(
            &self.source("vfio-device-plugin.tmpfiles"),
            "usr/lib/tmpfiles.d/vfio-device-plugin.conf",
        )?;
        let pages = self.work.join("man");
        self.write_files("man", &pages)?;
        for page in process::entries(&pages) {
            let text = process::read(&page)?;
            package.add_compressed(text, &format!("usr/share/man/man1/{}", process::file_name(&page)))?;
        }
        let scripts = self.work.join("completions");
        self.write_files("completions", &scripts)?;
        for (script, place) in [
            ("vfio-device-plugin.bash", "bash-completion/completions/vfio-device-plugin"),
            ("_vfio-device-plugin", "zsh/vendor-completions/_vfio-device-plugin"),
            ("vfio-device-plugin.fish", "fish/vendor_completions.d/vfio-device-plugin.fish"),
        ] {
            package.copy(&scripts.join(script), &format!("usr/share/{place}"))?;
        }
        let notices = licenses::third_party(self.context, PLUGIN, &[], self.target, true)?;
        package.documents(&notices)?;
        package.build("")
    }

    /// Writes the man pages or the completion scripts into a directory.
    fn write_files(&self, task: &str, directory: &Path) -> Result {
        let mut xtask = self.context.command("scripts/xtask");
        xtask.arg(task).arg(directory).env("SOURCE_DATE_EPOCH", epoch(self.context)?.to_string());
        process::run(&mut xtask)
    }

    /// Builds the C library for the target and installs it in a directory.
    fn install_library(&self, tree: &Path) -> Result {
        let make = || {
            let mut make = self.context.command("make");
            make.args(["-s", "-C", "ffi", "PREFIX=/usr"]);
            make.arg(format!("LIBDIR=/usr/lib/{}", self.target.gnu));
            make.env("CARGO_BUILD_TARGET", self.target.triple);
            make
        };
        let mut build = make();
        build.arg("CARGOFLAGS=--quiet --locked").env("CARGO_ENCODED_RUSTFLAGS", remap(self.context));
        if !self.target.is_native() {
            let triple = self.target.triple.to_uppercase().replace('-', "_");
            build.env(format!("CARGO_TARGET_{triple}_LINKER"), self.target.tool("gcc"));
        }
        process::run(&mut build)?;
        process::run(make().arg("install").arg(assignment("DESTDIR=", tree)))?;
        let directory = tree.join("usr/lib").join(self.target.gnu);
        let strip = |arguments: &[&str], file: &str| {
            let mut strip = self.context.command(self.target.tool("strip"));
            process::run(
                strip.args(arguments).args(["-R", ".comment", "-R", ".note"]).arg(directory.join(file)),
            )
        };
        strip(&["--strip-unneeded"], &format!("libvfio_probe.so.{}", self.upstream))?;
        strip(&["--strip-debug", "--enable-deterministic-archives"], "libvfio_probe.a")
    }

    fn c_library(&self, tree: &Path) -> Result<PathBuf> {
        let package = Package::new(self, LIBRARY)?;
        let directory = format!("usr/lib/{}", self.target.gnu);
        let file = format!("{directory}/libvfio_probe.so.{}", self.upstream);
        package.copy(&tree.join(&file), &file)?;
        // Debian's shared libraries are no programs.
        std::fs::set_permissions(package.root.join(&file), PermissionsExt::from_mode(0o644))?;
        package.copy_link(tree, &format!("{directory}/libvfio_probe.so.1"))?;
        package.documents(&licenses::third_party(
            self.context,
            "vfio-probe-ffi",
            &[],
            self.target,
            false,
        )?)?;
        package.build(&self.depends(&package.root.join(file))?)
    }

    /// Returns the packages of the libraries that a library needs, by Debian's tool.
    fn depends(&self, library: &Path) -> Result<String> {
        // The tool reads debian/control in its working directory.
        let directory = self.work.join("shlibdeps");
        process::make_directory(&directory.join("debian"))?;
        process::write(
            &directory.join("debian/control"),
            "Source: vfio-probe\n\nPackage: libvfio-probe1\nArchitecture: any\n",
        )?;
        let mut tool = self.context.command("dpkg-shlibdeps");
        tool.current_dir(&directory).args(["-O", "-xlibvfio-probe1", "-e"]).arg(library);
        if !self.target.is_native() {
            tool.arg(format!("-l/usr/{}/lib", self.target.gnu));
        }
        let text = process::output(&mut tool)?;
        let depends = text.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
        Ok(depends.ok_or("dpkg-shlibdeps prints no dependencies")?.to_owned())
    }

    fn development(&self, tree: &Path) -> Result<PathBuf> {
        let package = Package::new(self, DEVELOPMENT)?;
        let directory = format!("usr/lib/{}", self.target.gnu);
        package.copy_link(tree, &format!("{directory}/libvfio_probe.so"))?;
        for file in [
            format!("{directory}/libvfio_probe.a"),
            format!("{directory}/pkgconfig/vfio-probe.pc"),
            format!("{directory}/pkgconfig/vfio-probe-static.pc"),
            "usr/include/vfio_probe.h".to_owned(),
        ] {
            package.copy(&tree.join(&file), &file)?;
        }
        // Both packages have the same documents, and this one needs the other in the same version.
        let documents = package.root.join("usr/share/doc");
        process::make_directory(&documents)?;
        std::os::unix::fs::symlink(LIBRARY, documents.join(DEVELOPMENT))?;
        package.build("")
    }
}

/// One package: the tree of its files.
struct Package<'a> {
    builder: &'a Builder<'a>,
    name: &'static str,
    root: PathBuf,
}

impl<'a> Package<'a> {
    /// Creates the tree with the control files of deploy/packages/NAME.
    fn new(builder: &'a Builder<'a>, name: &'static str) -> Result<Self> {
        let root = builder.work.join(name);
        let package = Self { builder, name, root };
        let overrides = builder.source(name).join("lintian-overrides");
        if overrides.exists() {
            package.copy(&overrides, &format!("usr/share/lintian/overrides/{name}"))?;
        }
        Ok(package)
    }

    /// Copies a file. Programs stay programs.
    fn copy(&self, from: &Path, to: &str) -> Result {
        let to = self.place(to)?;
        std::fs::copy(from, &to).map_err(|error| format!("cannot copy {}: {error}", from.display()))?;
        Ok(())
    }

    fn copy_link(&self, tree: &Path, link: &str) -> Result {
        Ok(std::os::unix::fs::symlink(std::fs::read_link(tree.join(link))?, self.place(link)?)?)
    }

    fn add_compressed(&self, text: impl AsRef<[u8]>, to: &str) -> Result {
        let file = self.place(to)?;
        process::write(&file, text)?;
        process::run(self.builder.context.command("gzip").arg("-9n").arg(file))
    }

    /// Returns the path of a file in the tree, and creates its directory.
    fn place(&self, file: &str) -> Result<PathBuf> {
        let path = self.root.join(file);
        process::make_directory(path.parent().unwrap_or(&self.root))?;
        Ok(path)
    }

    fn documents(&self, notices: &str) -> Result {
        let directory = format!("usr/share/doc/{}", self.name);
        self.copy(&self.builder.source("copyright"), &format!("{directory}/copyright"))?;
        self.add_compressed(notices, &format!("{directory}/THIRD-PARTY"))?;
        let changes = process::read(&self.builder.context.top.join("CHANGELOG.md"))?;
        self.add_compressed(changes, &format!("{directory}/changelog"))?;
        self.add_compressed(self.builder.debian_changelog()?, &format!("{directory}/changelog.Debian"))
    }

    /// Writes the control files and builds the package.
    fn build(&self, depends: &str) -> Result<PathBuf> {
        let builder = self.builder;
        let context = builder.context;
        // Debian's modes: everybody may read, the programs stay executable.
        process::run(context.command("chmod").args(["-R", "u=rwX,go=rX"]).arg(&self.root))?;
        let files = files(&self.root)?;
        let mut sum = context.command("md5sum");
        let sums =
            process::output(sum.current_dir(&self.root).args(files.iter().filter(|file| !is_link(file))))?;
        let control = self.root.join("DEBIAN");
        process::make_directory(&control)?;
        std::fs::set_permissions(&control, PermissionsExt::from_mode(0o755))?;
        let sums = sums.replace(&format!("{}/", self.root.display()), "");
        process::write(&control.join("md5sums"), sums + "\n")?;
        for template in process::entries(&builder.source(self.name)) {
            let name = process::file_name(&template);
            if name == "lintian-overrides" {
                continue;
            }
            let is_script = process::read(&template)?.starts_with("#!");
            let text = process::read(&template)?
                .replace("@VERSION@", &builder.version())
                .replace("@UPSTREAM@", &builder.upstream)
                .replace("@ARCHITECTURE@", builder.target.architecture)
                .replace("@DEPENDS@", depends)
                .replace("@INSTALLED_SIZE@", &kibibytes(&files)?.to_string());
            let file = control.join(name);
            process::write(&file, text)?;
            std::fs::set_permissions(file, PermissionsExt::from_mode(if is_script { 0o755 } else { 0o644 }))?;
        }
        let package = builder.output.join(format!(
            "{}_{}_{}.deb",
            self.name,
            builder.version(),
            builder.target.architecture
        ));
        let mut dpkg = context.command("dpkg-deb");
        dpkg.args(["--root-owner-group", "-Zxz", "--build"]).arg(&self.root).arg(&package);
        dpkg.env("SOURCE_DATE_EPOCH", epoch(context)?.to_string());
        process::run(&mut dpkg)?;
        Ok(package)
    }
}

impl Builder<'_> {
    /// Debian's changelog names the package's own changes: there are none besides the version's.
    fn debian_changelog(&self) -> Result<String> {
        let mut date = self.context.command("date");
        date.env("LC_ALL", "C").args(["-u", "-R", "-d", &format!("@{}", epoch(self.context)?)]);
        let control = process::read(&self.source(PLUGIN).join("control"))?;
        let maintainer = control.lines().find_map(|line| line.strip_prefix("Maintainer: "));
        Ok(format!(
            "vfio-probe ({}) unstable; urgency=medium\n\n  * Version {}; changelog.gz has its changes.\n\n -- {}  {}\n",
            self.version(),
            self.upstream,
            maintainer.ok_or("the control file names no maintainer")?,
            process::output(&mut date)?,
        ))
    }
}

fn is_link(path: &Path) -> bool {
    path.is_symlink()
}

/// Returns all files and links below a directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in process::entries(directory) {
        if path.is_dir() && !is_link(&path) {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// The size on disk, for apt. Debian counts in steps of one KiB.
fn kibibytes(files: &[PathBuf]) -> Result<u64> {
    let mut sum = 0;
    for file in files {
        sum += file.symlink_metadata()?.len().div_ceil(1024);
    }
    Ok(sum)
}
