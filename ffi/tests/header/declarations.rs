//! Orders cbindgen's declarations as a reader needs them, and writes their comments as those of C.

/// The parts of the header in their order: the heading, and the files of src/capi that declare them.
const PARTS: &[(&str, &[&str])] = &[
    ("Status and errors", &["status.rs"]),
    ("Root", &["root.rs"]),
    ("Devices", &["device.rs"]),
    ("Groups", &["group.rs"]),
    ("Peek and probe", &["occupancy.rs"]),
    ("Holders", &["holder.rs"]),
    ("State of a group, in snapshots and watches", &["group_state.rs"]),
    ("Snapshot", &["snapshot.rs"]),
    ("Watch", &["watch.rs", "wait.rs", "watched.rs"]),
    ("Device nodes and hardware", &["device_nodes.rs", "hardware.rs"]),
    ("Names of device models", &["name.rs"]),
    ("Words for constants", &["words.rs"]),
    ("Version of the library", &["version.rs"]),
];

/// One declaration with its comment.
struct Declaration<'a> {
    name: &'a str,
    text: &'a str,
}

/// Returns the declarations below their headings, each part in the order of its sources. `read` returns a file of src/capi.
pub(crate) fn in_reading_order(written: &str, read: impl Fn(&str) -> String) -> String {
    let mut left: Vec<Declaration<'_>> = blocks(written).into_iter().map(declaration).collect();
    let mut parts = Vec::new();
    for (heading, files) in PARTS {
        let mut texts = vec![format!("/* ==== {heading} ==== */")];
        for file in *files {
            let source = read(file);
            let mut found = Vec::new();
            left.retain(|declaration| {
                let place = place_in(&source, declaration.name);
                found.extend(place.map(|place| (place, in_c(declaration))));
                place.is_none()
            });
            assert!(!found.is_empty(), "{file} declares nothing");
            found.sort_by_key(|(place, _)| *place);
            texts.extend(found.into_iter().map(|(_, text)| text));
        }
        parts.push(texts.join("\n\n"));
    }
    let names: Vec<&str> = left.iter().map(|declaration| declaration.name).collect();
    assert!(names.is_empty(), "no file in PARTS declares {names:?}");
    parts.join("\n\n")
}

/// Returns the blocks between empty lines. A block with an empty line inside does not occur.
fn blocks(written: &str) -> Vec<&str> {
    written.split("\n\n").map(str::trim).filter(|block| !block.is_empty()).collect()
}

fn declaration(text: &str) -> Declaration<'_> {
    let code = text.lines().find(|line| !line.starts_with("//")).unwrap_or_default();
    let named = match code.strip_prefix("#define ") {
        Some(define) => define.split(' ').next(),
        // The name of a record or handle is the last word, that of a function is before the parenthesis.
        None if code.starts_with("typedef ") => text.trim_end_matches(';').rsplit([' ', '*']).next(),
        None => code.split('(').next().and_then(|before| before.rsplit([' ', '*']).next()),
    };
    let name = named.filter(|name| name.to_lowercase().starts_with("vfp_"));
    Declaration { name: name.unwrap_or_else(|| panic!("no name in {text}")), text }
}

/// Returns where a source file defines a name.
fn place_in(source: &str, name: &str) -> Option<usize> {
    let is_end = |rest: &str| rest.starts_with([':', ' ', '(', ';']);
    ["pub const ", "pub struct ", "pub type ", " fn "].into_iter().find_map(|kind| {
        let definition = format!("{kind}{name}");
        source.match_indices(&definition).find_map(|(place, _)| {
            is_end(source.get(place + definition.len()..).unwrap_or_default()).then_some(place)
        })
    })
}

/// Returns a declaration with comments of C, without the marks of Rust's documentation and without `struct` where the typedef does.
fn in_c(declaration: &Declaration<'_>) -> String {
    let is_record = declaration.text.contains("typedef struct ");
    let mut lines = Vec::new();
    let mut comment: Vec<String> = Vec::new();
    for line in declaration.text.lines() {
        let code = line.trim_start();
        if let Some(text) = code.strip_prefix("//") {
            comment.push(text.replace('`', ""));
            continue;
        }
        let indent = line.get(..line.len() - code.len()).unwrap_or_default();
        lines.extend(comment_of_c(&std::mem::take(&mut comment), indent));
        lines.push(if is_record { line.into() } else { plain(line) });
    }
    lines.join("\n")
}

/// Returns a constant or a function without `struct`, and a negative number in parentheses.
fn plain(line: &str) -> String {
    match line.strip_prefix("#define ").and_then(|define| define.split_once(" -")) {
        Some((name, number)) => format!("#define {name} (-{number})"),
        None => line.replace("struct vfp_", "vfp_"),
    }
}

fn comment_of_c(lines: &[String], indent: &str) -> Vec<String> {
    match lines {
        [] => Vec::new(),
        [line] => vec![format!("{indent}/*{line} */")],
        lines => {
            let mut all = vec![format!("{indent}/*")];
            all.extend(lines.iter().map(|line| format!("{indent} *{line}")));
            all.push(format!("{indent} */"));
            all
        }
    }
}
