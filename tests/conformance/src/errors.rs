//! Gives the same bad input to every language and compares what each reports: the kind, the errno, the place and the text.

use crate::bad_input::{self, BadInput, Expected, Failure};
use crate::{Program, core_calls};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::fs::{Permissions, set_permissions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use vfio_sim_node::Node;

/// The languages of the list, in its order.
const LANGUAGES: [&str; 4] = ["rust", "c", "go", "python"];
const TITLES: [&str; 4] = ["Rust", "C", "Go", "Python"];
/// The page with the table.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");

/// What the languages report, and which of them differ from the list.
pub(crate) struct Compared {
    pub(crate) passed: u32,
    pub(crate) failures: Vec<String>,
    /// What was found, as a table of Markdown.
    pub(crate) table: String,
}

/// Makes all calls in all languages. `plugin` is the program whose command line lists the devices of a root.
pub(crate) fn compare(programs: &[Program], plugin: &str) -> anyhow::Result<Compared> {
    // Root may read all files. A thread of its own gives that up, because capabilities are those of a thread.
    std::thread::scope(|scope| {
        let compared = scope.spawn(|| -> anyhow::Result<Compared> {
            vfio_sim_node::capabilities::obey_file_modes()?;
            let node = node()?;
            ensure!(std::fs::read(node.root().join(LOCKED)).is_err(), "this process can read every file");
            let compared = compare_on(node.root(), programs, plugin);
            // The node removes what it can list.
            set_permissions(node.root().join(CLOSED), Permissions::from_mode(0o700))?;
            compared
        });
        compared.join().map_err(|_| anyhow::anyhow!("the comparison panicked"))?
    })
}

/// A file and a directory without permissions.
const LOCKED: &str = "sys/bus/pci/devices/0000:3d:00.0/uevent";
const CLOSED: &str = "locked";

/// Returns a node with what the list needs.
fn node() -> anyhow::Result<Node> {
    let node = Node::with_eight_gpus()?;
    node.write("sys/bus/pci/devices/0000:4e:00.0/uevent", "nonsense")?;
    node.delete("dev/vfio/56")?;
    node.write("file", "")?;
    node.write("unreadable", "")?;
    std::fs::create_dir(node.root().join(CLOSED))?;
    for path in [LOCKED, "dev/vfio/57", "unreadable", CLOSED] {
        set_permissions(node.root().join(path), Permissions::from_mode(0o000))?;
    }
    Ok(node)
}

fn compare_on(root: &Path, programs: &[Program], plugin: &str) -> anyhow::Result<Compared> {
    let inputs = bad_input::all();
    let arguments: Vec<OsString> = inputs.iter().map(|bad| argument(root, bad)).collect();
    let mut reports: Vec<Vec<Value>> = vec![
        inputs
            .iter()
            .zip(&arguments)
            .map(|(bad, argument)| core_calls::call(root, bad.call, argument).unwrap_or_default())
            .collect(),
    ];
    for language in &LANGUAGES[1..] {
        let program = programs.iter().find(|program| program.name == *language);
        let program = program.with_context(|| format!("no program of {language}"))?;
        reports.push(
            report(program, root, &inputs, &arguments).with_context(|| format!("the calls in {language}"))?,
        );
    }
    let (mut passed, mut failures, mut table) = (0, Vec::new(), String::new());
    for (index, (bad, argument)) in inputs.iter().zip(&arguments).enumerate() {
        let found: Vec<Value> =
            reports.iter().map(|reports| normal(root, reports.get(index).unwrap_or(&Value::Null))).collect();
        for ((language, found), expected) in LANGUAGES.iter().zip(&found).zip(expected(bad)) {
            if is_as_expected(found, &expected) {
                passed += 1;
            } else {
                failures.push(format!("{}: {language}: got {found}, want {expected}", bad.name));
            }
        }
        if let ("open", Expected::Alike(failure)) = (bad.call, &bad.expected) {
            let run_dir = root.join("run");
            let mut list = Command::new(plugin);
            list.args(["list", "--root"]).arg(argument).arg("--run-dir").arg(run_dir);
            let output = list.output().with_context(|| plugin.to_owned())?;
            let errors = normal(root, &Value::String(String::from_utf8_lossy(&output.stderr).into_owned()));
            if errors.as_str().is_some_and(|errors| errors.contains(failure.text)) && !output.status.success()
            {
                passed += 1;
            } else {
                failures.push(format!("{}: command line: got {errors}, want {:?}", bad.name, failure.text));
            }
        }
        row(&mut table, bad, &found);
    }
    let page = std::fs::read_to_string(PAGE).unwrap_or_default();
    if page.contains(&table) {
        passed += 1;
    } else {
        failures.push(
            "docs/errors.md: has another table; print this one by `tests/conformance/run --errors`"
                .to_owned(),
        );
    }
    Ok(Compared { passed, failures, table })
}

fn argument(root: &Path, bad: &BadInput) -> OsString {
    let below = bad.argument.strip_prefix(b"ROOT");
    let text = below.map_or(bad.argument.to_vec(), |below| [root.as_os_str().as_bytes(), below].concat());
    OsString::from_vec(text)
}

/// Makes all calls in another language.
fn report(
    program: &Program,
    root: &Path,
    inputs: &[&BadInput],
    arguments: &[OsString],
) -> anyhow::Result<Vec<Value>> {
    let (executable, words) = program.command.split_first().context("the command is empty")?;
    let calls = inputs.iter().zip(arguments).flat_map(|(bad, argument)| [OsStr::new(bad.call), argument]);
    let output = Command::new(executable).args(words).arg(root).arg("errors").args(calls).output()?;
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let reports: Vec<Value> = serde_json::from_slice(&output.stdout).context("the output is not JSON")?;
    ensure!(reports.len() == inputs.len(), "{} reports for {} calls", reports.len(), inputs.len());
    Ok(reports)
}

/// Replaces the path of the node by `ROOT`.
fn normal(root: &Path, report: &Value) -> Value {
    let text = report.to_string().replace(&*root.to_string_lossy(), "ROOT");
    serde_json::from_str(&text).unwrap_or_default()
}

/// Returns whether a report has all fields that are expected. Where a language has words of its own, only the type and the
/// text are.
fn is_as_expected(found: &Value, expected: &Value) -> bool {
    let fields = expected.as_object();
    fields
        .map_or(found == expected, |fields| fields.iter().all(|(name, value)| found.get(name) == Some(value)))
}

/// Returns what each language must report.
fn expected(bad: &BadInput) -> [Value; 4] {
    match bad.expected {
        Expected::Gives(result) => LANGUAGES.map(|_| json!({ "result": result })),
        Expected::Alike(failure) => LANGUAGES.map(|language| fields(language, &failure)),
        Expected::ExceptC(result, failure) => LANGUAGES.map(|language| match language {
            "c" => fields(language, &failure),
            _ => json!({ "result": result }),
        }),
        Expected::Each(each) => {
            let mut reports =
                LANGUAGES.into_iter().zip(each).map(|(language, (kind, text))| match (language, kind) {
                    (_, "") => Value::Null,
                    (_, "result") => json!({ "result": text }),
                    ("rust" | "python", _) | (_, "ErrClosed") => json!({ "type": kind, "text": text }),
                    _ => fields_of_type(kind, &Failure { kind: "invalid", text, ..Failure::NONE }),
                });
            std::array::from_fn(|_| reports.next().unwrap_or_default())
        }
    }
}

fn fields(language: &str, failure: &Failure) -> Value {
    let class = match (language, failure.kind) {
        ("rust", _) => "Error",
        ("c", kind) => kind,
        ("go", "missing") => "os.ErrNotExist",
        ("go", "denied") => "os.ErrPermission",
        ("go", "malformed") => "ErrMalformed",
        ("go", "too-long") => "ErrTooLong",
        ("go", _) => "syscall.Errno",
        (_, "missing") => "MissingError",
        (_, "denied") => "DeniedError",
        (_, "malformed") => "MalformedError",
        (_, "too-long") => "TooLongError",
        _ => "ProbeError",
    };
    fields_of_type(class, failure)
}

fn fields_of_type(class: &str, failure: &Failure) -> Value {
    let Failure { kind, errno, device, group, path, text } = failure;
    json!({
        "type": class, "kind": kind, "errno": errno, "device": device, "group": group, "path": path, "text": text,
    })
}

/// Appends a row of the table, from what was found.
fn row(table: &mut String, bad: &BadInput, found: &[Value]) {
    let text =
        |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let cell = |value: &Value| match (text(value, "result"), text(value, "type")) {
        (result, _) if !result.is_empty() => format!("returns `{result}`"),
        (_, class) if !class.is_empty() => format!("{class}: `{}`", text(value, "text")),
        _ => "no such input".to_owned(),
    };
    let shown = match bad.expected {
        Expected::Gives(_) => found.first().map(cell).unwrap_or_default(),
        Expected::Alike(_) => {
            let first = found.first().unwrap_or(&Value::Null);
            let errno = first.get("errno").and_then(Value::as_i64).unwrap_or_default();
            format!("{}, errno {errno}: `{}`", text(first, "kind"), text(first, "text"))
        }
        Expected::Each(_) | Expected::ExceptC(..) => {
            let cells = TITLES.iter().zip(found).map(|(title, value)| format!("{title}: {}", cell(value)));
            cells.collect::<Vec<_>>().join("<br>")
        }
    };
    // Cannot fail: the target is a String.
    let _ = writeln!(table, "| {} | `{}` | {shown} |", bad.name, bad.call);
}
