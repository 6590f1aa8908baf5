//! Runs the VM tests, or one command, as root in a throw-away VM that has real VFIO groups.

pub mod fakeid;
pub mod initramfs;
pub mod kernel;
mod programs;
mod qemu;

use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::packages::{C, VM, version_key};
use crate::scratch::Scratch;
use crate::{Result, process};
use kernel::Kernel;

const HELP: &str = "\
Runs the VM tests, or one command, as root in a throw-away VM that has real VFIO groups.

  tests/vm/run [OPTION]... [NAME...]          build everything and run the tests (those with a NAME in their name)
  tests/vm/run [OPTION]... -- CMD [ARG...]    run CMD in the guest instead; /bin/holder is always there

  --kernel DIR    another kernel: DIR/vmlinuz and DIR/*.ko or DIR/lib/modules (default: Debian's, through apt;
                  tests/vm/build-kernel makes one with IOMMUFD and mediated devices)
  -f SRC[:DST]    put a host file into the guest (DST default /bin/NAME); repeatable
  -a WORDS        add words to the kernel's command line
  -t SECONDS      end the VM after this time (default 900); the exit status is 124

Environment: VFIO_PROBE_VM_KERNEL=DIR as --kernel, VFIO_PROBE_VM_ACCEL=tcg|kvm (default tcg), CARGO_TARGET_DIR.";

/// What the command line and the environment ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    kernel: Option<PathBuf>,
    files: Vec<GuestFile>,
    append: String,
    seconds: u64,
    names: Vec<String>,
    command: Vec<String>,
}

/// A host file and its path in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct GuestFile {
    source: PathBuf,
    destination: PathBuf,
}

impl GuestFile {
    /// A program, in the guest's /bin.
    fn program(source: PathBuf) -> Self {
        let destination = Path::new("/bin").join(source.file_name().unwrap_or_default());
        Self { source, destination }
    }

    /// Parses SRC[:DST].
    fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((source, destination)) => Self { source: source.into(), destination: destination.into() },
            None => Self::program(text.into()),
        }
    }
}

impl Options {
    /// Returns None if the help text is due.
    fn parse(arguments: &[String]) -> Result<Option<Self>> {
        let mut options = Self { seconds: 900, ..Self::default() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--kernel" => options.kernel = Some(value()?.into()),
                "-f" => options.files.push(GuestFile::parse(value()?)),
                "-a" => options.append.clone_from(value()?),
                "-t" => options.seconds = value()?.parse().map_err(|_| "-t needs a number of seconds")?,
                "--" => options.command = arguments.by_ref().cloned().collect(),
                _ if argument.starts_with('-') => return Ok(None),
                _ => options.names.push(argument.clone()),
            }
        }
        Ok(Some(options))
    }
}

/// Runs the command. The exit status is the guest's, 124 after the time limit, and 2 if there is no VM.
///
/// # Errors
///
/// Never fails; errors are printed.
pub fn vm(context: &mut Context, arguments: &[String]) -> Result<u8> {
    Ok(run(context, arguments).unwrap_or_else(|error| {
        eprintln!("vm: {error}");
        2
    }))
}

fn run(context: &mut Context, arguments: &[String]) -> Result<u8> {
    let Some(mut options) = Options::parse(arguments)? else {
        eprintln!("{HELP}");
        return Ok(2);
    };
    if options.kernel.is_none() {
        options.kernel =
            context.get("VFIO_PROBE_VM_KERNEL").filter(|kernel| !kernel.is_empty()).map(PathBuf::from);
    }
    context.need(VM)?;
    context.need(C)?;
    let cache = context.cache.join("vm");
    let caller = std::env::current_dir()?;
    let kernel = Kernel::prepare(context, &cache, options.kernel.map(|directory| caller.join(directory)))?;
    // Debian's kernel has no such module. The tests of GPUs by name are not possible without it.
    if kernel.is_debian
        && let Err(error) = fakeid::prepare(context, &kernel)
    {
        say(&error.to_string());
    }
    let busybox = busybox(context, &cache)?;
    let work = Scratch::new()?;
    let mut files: Vec<GuestFile> = options.files;
    files.iter_mut().for_each(|file| file.source = caller.join(&file.source));
    files.push(GuestFile::program(programs::holder(context, work.path())?));
    let mut command = options.command;
    if command.is_empty() {
        files.extend(programs::tests(context, work.path())?);
        command = [vec!["/bin/vm-guest-tests".into()], options.names].concat();
    }
    let initrd = initramfs::make(context, work.path(), &busybox, &kernel, &files, &command)?;
    let machine = qemu::Machine::new(context, &kernel.image, &initrd, &options.append, options.seconds)?;
    let version = process::output(context.command("qemu-system-x86_64").arg("--version"))?;
    let first_line = version.lines().next().unwrap_or_default();
    say(&format!("kernel {}, {first_line}, {}", kernel.name, machine.accelerator()));
    machine.boot(context, work.path())
}

/// Prints a line about the VM.
fn say(text: &str) {
    eprintln!("vm: {text}");
}

/// Returns a static busybox: the host's, otherwise Debian's, in CACHE/busybox.
///
/// # Errors
///
/// Fails if there is none and Debian's cannot be downloaded.
pub fn busybox(context: &Context, cache: &Path) -> Result<PathBuf> {
    let is_static = |program: &PathBuf| !process::succeeds(context.command("ldd").arg(program));
    if let Some(program) = context.find("busybox").filter(is_static) {
        return Ok(program);
    }
    let directory = cache.join("busybox");
    let program = directory.join("bin/busybox");
    if !program.exists() {
        if context.find("apt-get").is_none() {
            return Err("missing: a static busybox (on Debian the package busybox-static)".into());
        }
        if context.newest_package("^busybox-static$").is_none() {
            context.update_apt();
        }
        process::make_directory(cache)?;
        context.unpack_package("busybox-static", &directory)?;
    }
    Ok(program)
}

/// Returns the newest of some directories by the versions in their names.
fn newest(paths: Vec<PathBuf>, begin: &str) -> Option<PathBuf> {
    let named = paths.into_iter().filter(|path| process::file_name(path).starts_with(begin));
    named.max_by_key(|path| version_key(&process::file_name(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_files_and_names_are_parsed() {
        let options = parse("--kernel /k -f a/b -f c:/d -a quiet -t 7 kind_ model").unwrap().unwrap();
        assert_eq!(options.kernel, Some("/k".into()));
        let destinations: Vec<_> =
            options.files.iter().map(|file| file.destination.to_str().unwrap()).collect();
        assert_eq!(destinations, ["/bin/b", "/d"]);
        assert_eq!((options.append.as_str(), options.seconds), ("quiet", 7));
        assert_eq!(options.names, ["kind_", "model"]);
    }

    #[test]
    fn words_after_two_dashes_are_the_command() {
        assert_eq!(parse("-- ls -l --").unwrap().unwrap().command, ["ls", "-l", "--"]);
    }

    #[test]
    fn option_without_value_and_unknown_option_are_refused() {
        assert_eq!(parse("-t").unwrap_err().to_string(), "-t needs a value");
        assert_eq!(parse("--nonsense").unwrap(), None);
    }
}
