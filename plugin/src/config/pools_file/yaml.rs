//! Reads a YAML document as a tree of texts, with the line of each value.

use crate::config::pools_error::{PoolsError, excerpt};
use granit_parser::{Event, Parser, ScalarStyle};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Limit for the levels of the document. A list of pools has 5.
const MAX_DEPTH: usize = 16;
/// Limit for what aliases repeat, in bytes. Without it a small file becomes a million values.
const MAX_REPEATED: usize = 512 << 10;
/// What a value counts beside its text, in bytes.
const VALUE: usize = 16;

/// A value and its line.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) value: Value,
    /// The levels of this value.
    depth: usize,
    /// How much an alias of this value repeats, in bytes.
    size: usize,
}

/// A value. A scalar is a text: `0123` and `1e10` are ids of devices as well as numbers.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Text(String),
    List(Vec<Rc<Node>>),
    Keys(Keys),
}

/// The values of a mapping by their keys, each with the line of its key.
pub(super) type Keys = BTreeMap<Rc<str>, (u64, Rc<Node>)>;

impl Node {
    fn new(line: u64, value: Value) -> Rc<Self> {
        let (mut depth, mut size) = (1, VALUE);
        let mut count = |name: usize, child: &Self| {
            depth = depth.max(child.depth + 1);
            size += name + child.size;
        };
        match &value {
            Value::Null => {}
            Value::Text(text) => size += text.len(),
            Value::List(items) => items.iter().for_each(|item| count(0, item)),
            Value::Keys(keys) => keys.iter().for_each(|(name, (_, value))| count(name.len(), value)),
        }
        Rc::new(Self { line, value, depth, size })
    }

    /// Returns the items of a list.
    ///
    /// # Errors
    /// It is another value.
    pub(super) fn list(&self) -> Result<&[Rc<Self>], PoolsError> {
        match &self.value {
            Value::List(items) => Ok(items),
            _ => Err(self.error("expected a list, with `- ` before each item or all items in [ ]")),
        }
    }

    /// Returns the keys of a mapping with their values.
    ///
    /// # Errors
    /// It is another value.
    pub(super) fn keys(&self) -> Result<&Keys, PoolsError> {
        match &self.value {
            Value::Keys(keys) => Ok(keys),
            _ => Err(self.error("expected keys with values, like `vendor: 10de`")),
        }
    }

    /// Returns the text of a scalar.
    ///
    /// # Errors
    /// It is another value, or null.
    pub(super) fn text(&self) -> Result<&str, PoolsError> {
        match &self.value {
            Value::Text(text) => Ok(text),
            Value::Null => Err(self.error("the key has no value; expected a value, or no such key")),
            Value::List(_) | Value::Keys(_) => Err(self.error("expected a single value, not a list or keys")),
        }
    }

    /// Returns an error about this value.
    pub(super) fn error(&self, text: impl Into<String>) -> PoolsError {
        PoolsError::at(self.line, text)
    }
}

/// Parses a text.
///
/// # Errors
/// It is no YAML, has no document or a second one, repeats a key, or nests or repeats more than a list of pools does.
pub(super) fn document(text: &str) -> Result<Rc<Node>, PoolsError> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut tree = Tree::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| PoolsError::of_parser(&error))?;
        tree.add(event, span.start.line() as u64)?;
    }
    tree.document
        .ok_or_else(|| PoolsError::at(1, "the file ends here; expected `pools:` with at least one pool"))
}

/// The tree while it is built.
#[derive(Default)]
struct Tree {
    /// The lists and mappings that have begun, the innermost last.
    open: Vec<Open>,
    /// The values with an anchor, by its number.
    anchors: BTreeMap<usize, Rc<Node>>,
    /// How many values aliases have repeated.
    repeated: usize,
    document: Option<Rc<Node>>,
}

/// A list or mapping that has begun.
struct Open {
    line: u64,
    anchor: usize,
    value: Value,
    /// The key whose value comes next, in a mapping.
    key: Option<(u64, Rc<str>)>,
}

impl Tree {
    fn add(&mut self, event: Event<'_>, line: u64) -> Result<(), PoolsError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_null = style == ScalarStyle::Plain && tag.is_none() && is_null(&text);
                let value = if is_null { Value::Null } else { Value::Text(text.into_owned()) };
                self.place(Node::new(line, value), anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.open(line, anchor, Value::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => self.open(line, anchor, Value::Keys(Keys::new())),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { line, anchor, mut value, .. }) => {
                    if let Value::Keys(keys) = &mut value {
                        merge(keys)?;
                    }
                    self.place(Node::new(line, value), anchor)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                // An anchor that is not there is one around the alias.
                let node = self.anchors.get(&anchor).ok_or_else(|| PoolsError::too_much(line))?;
                self.repeated += node.size;
                if self.repeated > MAX_REPEATED || self.open.len() + node.depth > MAX_DEPTH {
                    return Err(PoolsError::too_much(line));
                }
                self.place_shared(Rc::clone(node))
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, line: u64, anchor: usize, value: Value) -> Result<(), PoolsError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(PoolsError::too_much(line));
        }
        self.open.push(Open { line, anchor, value, key: None });
        Ok(())
    }

    fn place(&mut self, node: Rc<Node>, anchor: usize) -> Result<(), PoolsError> {
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.place_shared(node)
    }

    /// Adds a value to the innermost list or mapping.
    fn place_shared(&mut self, node: Rc<Node>) -> Result<(), PoolsError> {
        let Some(Open { value, key, .. }) = self.open.last_mut() else {
            if self.document.is_some() {
                return Err(PoolsError::at(
                    node.line,
                    "a second document begins; expected one document with all pools",
                ));
            }
            self.document = Some(node);
            return Ok(());
        };
        match (value, key.take()) {
            (Value::Keys(keys), Some((line, name))) => {
                if keys.contains_key(&name) {
                    let text = format!("{} is set twice; expected each key once", excerpt(&name));
                    return Err(PoolsError::at(line, text));
                }
                // The parser places a missing value at the next token.
                let is_null = matches!(node.value, Value::Null);
                let node = if is_null { Node::new(line, Value::Null) } else { node };
                keys.insert(name, (line, node));
            }
            (Value::Keys(_), None) => *key = Some((node.line, node.text()?.into())),
            (Value::List(items), _) => items.push(node),
            (Value::Null | Value::Text(_), _) => {}
        }
        Ok(())
    }
}

/// Replaces the key `<<` by the keys of its mappings, as YAML 1.1 does: a key of the mapping itself and an earlier
/// mapping go first.
fn merge(keys: &mut Keys) -> Result<(), PoolsError> {
    let Some((_, merged)) = keys.remove("<<") else { return Ok(()) };
    let sources = match &merged.value {
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(&merged),
    };
    for source in sources {
        for (name, value) in source.keys()? {
            keys.entry(Rc::clone(name)).or_insert_with(|| value.clone());
        }
    }
    Ok(())
}

/// Returns whether YAML's core schema reads a plain scalar as null.
fn is_null(text: &str) -> bool {
    ["", "~", "null", "Null", "NULL"].contains(&text)
}
