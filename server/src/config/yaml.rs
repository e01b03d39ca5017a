//! YAML as a tree whose nodes know their line, and sections of it that know which keys were asked
//! for, so that an unknown key is an error that names the line and the key that was probably meant.

use saphyr_parser::{Event, Parser, ScalarStyle};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;

/// Nodes of one file, aliases expanded. A fleet of 50,000 static targets has fewer; a file that
/// multiplies aliases has more.
const MAX_NODES: usize = 1_000_000;
/// Depth of nesting; the schema needs nine.
const MAX_DEPTH: usize = 64;

/// Something wrong at a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// 1-based; 0 where no line is to blame.
    pub line: usize,
    /// What and where, in words.
    pub reason: String,
}

/// What reading gives.
pub(crate) type Result<T> = std::result::Result<T, Problem>;

/// One node of the document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// 1-based line on which it starts.
    pub line: usize,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Nothing after the colon, `~` or `null`.
    Null,
    /// Text as written, quotes taken off; `plain` if it had none.
    Scalar {
        /// The text.
        text: String,
        /// Whether it was written without quotes.
        plain: bool,
    },
    /// Bytes of a `!!binary` that are no text.
    Binary(Vec<u8>),
    /// A list.
    Sequence(Vec<Node>),
    /// Keys with their own lines, in order.
    Mapping(Vec<(Node, Node)>),
}

impl Node {
    /// A node that stands in no file.
    pub fn new(value: Value) -> Self {
        Self { line: 0, value }
    }

    /// A text node that stands in no file.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Value::Scalar { text: text.into(), plain: true })
    }

    /// Whether the node is null.
    pub fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    /// An error at this node.
    pub fn problem(&self, reason: impl Into<String>) -> Problem {
        Problem { line: self.line, reason: reason.into() }
    }

    /// The node as text; null is the empty text.
    pub fn as_text(&self, path: &str) -> Result<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Ok(text),
            Value::Null => Ok(""),
            Value::Binary(bytes) => Err(self.problem(format!("{path}: {} is not UTF-8", quote_bytes(bytes)))),
            Value::Sequence(_) => Err(self.problem(format!("{path}: expected a text, found a list"))),
            Value::Mapping(_) => Err(self.problem(format!("{path}: expected a text, found a mapping"))),
        }
    }

    /// The items of a list; null is the empty list.
    pub fn as_list(&self, path: &str) -> Result<&[Node]> {
        match &self.value {
            Value::Sequence(items) => Ok(items),
            Value::Null => Ok(&[]),
            _ => Err(self.problem(format!("{path}: expected a list, found {}", self.describe()))),
        }
    }

    /// The entries of a mapping; null is the empty mapping.
    pub fn as_mapping(&self, path: &str) -> Result<&[(Node, Node)]> {
        match &self.value {
            Value::Mapping(entries) => Ok(entries),
            Value::Null => Ok(&[]),
            _ => {
                let place = if path.is_empty() { "the file" } else { path };
                Err(self.problem(format!("{place}: expected a mapping, found {}", self.describe())))
            }
        }
    }

    fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Scalar { text, .. } => {
                let short: String = text.chars().take(40).collect();
                format!("the text {short:?}")
            }
            Value::Binary(_) => "binary data".to_owned(),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// Go's rendering of bytes that are no text, as `"\xff"`.
pub(crate) fn quote_bytes(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        out.push_str(&chunk.valid().escape_debug().to_string());
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

/// Reads the one document of a file; an empty file is null.
pub(crate) fn parse(text: &str) -> Result<Node> {
    let mut reader = TreeReader {
        events: Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)),
        anchors: HashMap::new(),
        n_nodes: 0,
    };
    reader.document()
}

struct TreeReader<'t> {
    events: Parser<'t, saphyr_parser::StrInput<'t>>,
    anchors: HashMap<usize, (Node, usize)>,
    n_nodes: usize,
}

impl<'t> TreeReader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, usize)> {
        match self.events.next() {
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            Some(Err(error)) => {
                Err(Problem { line: error.marker().line(), reason: format!("not YAML: {}", error.info()) })
            }
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn document(&mut self) -> Result<Node> {
        let mut root = None;
        loop {
            let (event, line) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root.unwrap_or(Node { line: 1, value: Value::Null })),
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if root.is_some() => {
                    return Err(Problem { line, reason: "a second document in one file".to_owned() });
                }
                event => root = Some(self.node(event, line, 0)?),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, line: usize, depth: usize) -> Result<Node> {
        self.count(1, line)?;
        if depth > MAX_DEPTH {
            return Err(Problem { line, reason: format!("nested more than {MAX_DEPTH} deep") });
        }
        let (anchor, before) = match &event {
            Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(anchor, _)
            | Event::MappingStart(anchor, _) => (*anchor, self.n_nodes),
            _ => (0, 0),
        };
        let value = match event {
            Event::Alias(id) => {
                let Some((node, size)) = self.anchors.get(&id).cloned() else {
                    return Err(Problem { line, reason: "alias of an unknown anchor".to_owned() });
                };
                self.count(size, line)?;
                return Ok(Node { line, value: node.value });
            }
            Event::Scalar(text, style, _, tag) => {
                let tag = tag.map(|tag| tag.suffix.clone());
                scalar(text.into_owned(), style, tag.as_deref()).map_err(|reason| Problem { line, reason })?
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Value::Sequence(items),
                        (event, line) => items.push(self.node(event, line, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => Value::Mapping(self.mapping(depth)?),
            _ => return Err(Problem { line, reason: "unexpected end of the document".to_owned() }),
        };
        let node = Node { line, value };
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.n_nodes - before + 1));
        }
        Ok(node)
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<(Node, Node)>> {
        let mut entries: Vec<(Node, Node)> = Vec::new();
        let mut merged: Vec<(Node, Node)> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, line) = match self.next()? {
                (Event::MappingEnd, _) => break,
                (event, line) => (event, line),
            };
            let key = self.node(event, line, depth + 1)?;
            let (event, value_line) = self.next()?;
            let value = self.node(event, value_line, depth + 1)?;
            if let Value::Scalar { text, plain: true } = &key.value
                && text == "<<"
            {
                merge(&value, &mut merged)?;
                continue;
            }
            if let Value::Scalar { text, .. } = &key.value
                && let Some(first) = lines.insert(text.clone(), line)
            {
                let reason = format!("key {text:?} occurs twice; the first is in line {first}");
                return Err(Problem { line, reason });
            }
            entries.push((key, value));
        }
        for (key, value) in merged {
            if !entries.iter().any(|(other, _)| other.value == key.value) {
                entries.push((key, value));
            }
        }
        Ok(entries)
    }

    fn count(&mut self, n: usize, line: usize) -> Result<()> {
        self.n_nodes += n;
        if self.n_nodes > MAX_NODES {
            return Err(Problem { line, reason: format!("more than {MAX_NODES} values in one file") });
        }
        Ok(())
    }
}

fn merge(value: &Node, into: &mut Vec<(Node, Node)>) -> Result<()> {
    match &value.value {
        Value::Mapping(entries) => into.extend(entries.iter().cloned()),
        Value::Sequence(items) => {
            for item in items {
                into.extend(item.as_mapping("<<")?.iter().cloned());
            }
        }
        _ => return Err(value.problem("<< merges mappings only")),
    }
    Ok(())
}

fn scalar(text: String, style: ScalarStyle, tag: Option<&str>) -> std::result::Result<Value, String> {
    let plain = matches!(style, ScalarStyle::Plain);
    if tag == Some("binary") {
        let bytes = crate::config::units::decode_base64(&text)
            .ok_or_else(|| "!!binary value contains invalid base64 data".to_owned())?;
        return Ok(match String::from_utf8(bytes) {
            Ok(text) => Value::Scalar { text, plain: false },
            Err(error) => Value::Binary(error.into_bytes()),
        });
    }
    if plain && tag != Some("str") && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") {
        return Ok(Value::Null);
    }
    Ok(Value::Scalar { text, plain })
}

/// A mapping of the schema while it is read: remembers which keys were asked for.
pub(crate) struct Section<'n> {
    /// Where it is, as `scrape_configs[0].tls_config`.
    pub path: String,
    /// 1-based line on which it starts.
    pub line: usize,
    entries: Vec<(&'n str, &'n Node, &'n Node)>,
    known: RefCell<Vec<&'static str>>,
}

impl<'n> Section<'n> {
    /// The section at a node; null is an empty section.
    pub fn new(node: &'n Node, path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        let mut entries = Vec::new();
        for (key, value) in node.as_mapping(&path)? {
            entries.push((key.as_text(&path)?, key, value));
        }
        Ok(Self { path, line: node.line, entries, known: RefCell::default() })
    }

    /// Path of a key in it.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// An error about this section as a whole.
    pub fn problem(&self, reason: impl Into<String>) -> Problem {
        Problem { line: self.line, reason: reason.into() }
    }

    /// An error at the value of `key`, or at the section where the key is not there.
    pub fn problem_at(&self, key: &str, reason: impl Into<String>) -> Problem {
        let line =
            self.entries.iter().find(|(name, ..)| *name == key).map_or(self.line, |(_, key, _)| key.line);
        Problem { line, reason: reason.into() }
    }

    /// The value of a key of the schema, null included.
    pub fn node(&self, key: &'static str) -> Option<&'n Node> {
        self.known.borrow_mut().push(key);
        self.entries.iter().find(|(name, ..)| *name == key).map(|(.., value)| *value)
    }

    /// The value of a key of the schema, null counted as absent.
    pub fn get(&self, key: &'static str) -> Option<&'n Node> {
        self.node(key).filter(|node| !node.is_null())
    }

    /// A text, `None` where absent or null.
    pub fn text(&self, key: &'static str) -> Result<Option<String>> {
        self.get(key).map(|node| node.as_text(&self.path_of(key)).map(str::to_owned)).transpose()
    }

    /// A list of texts, empty where absent.
    pub fn texts(&self, key: &'static str) -> Result<Vec<String>> {
        let path = self.path_of(key);
        let Some(node) = self.get(key) else { return Ok(Vec::new()) };
        node.as_list(&path)?
            .iter()
            .enumerate()
            .map(|(i, item)| item.as_text(&format!("{path}[{i}]")).map(str::to_owned))
            .collect()
    }

    /// A truth value, as YAML 1.1 spells them.
    pub fn boolean(&self, key: &'static str) -> Result<Option<bool>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        match node.as_text(&self.path_of(key))? {
            "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => {
                Ok(Some(true))
            }
            "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => {
                Ok(Some(false))
            }
            other => {
                Err(node.problem(format!("{}: expected true or false, found {other:?}", self.path_of(key))))
            }
        }
    }

    /// Anything that `FromStr` reads.
    pub fn number<T: std::str::FromStr>(&self, key: &'static str, what: &str) -> Result<Option<T>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        let text = node.as_text(&self.path_of(key))?;
        text.replace('_', "")
            .parse()
            .map(Some)
            .map_err(|_| node.problem(format!("{}: expected {what}, found {text:?}", self.path_of(key))))
    }

    /// A duration in milliseconds.
    pub fn duration_ms(&self, key: &'static str) -> Result<Option<i64>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        crate::config::units::parse_duration(node.as_text(&self.path_of(key))?)
            .map(Some)
            .map_err(|reason| node.problem(format!("{}: {reason}", self.path_of(key))))
    }

    /// A size in bytes.
    pub fn size_bytes(&self, key: &'static str) -> Result<Option<i64>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        crate::config::units::parse_size(node.as_text(&self.path_of(key))?)
            .map(Some)
            .map_err(|reason| node.problem(format!("{}: {reason}", self.path_of(key))))
    }

    /// Texts by name, sorted.
    pub fn text_map(&self, key: &'static str) -> Result<Vec<(String, String)>> {
        let path = self.path_of(key);
        let Some(node) = self.get(key) else { return Ok(Vec::new()) };
        let mut pairs = Vec::new();
        for (name, value) in node.as_mapping(&path)? {
            let name = name.as_text(&path)?.to_owned();
            let value = value.as_text(&format!("{path}.{name}"))?.to_owned();
            pairs.push((name, value));
        }
        pairs.sort();
        Ok(pairs)
    }

    /// Tells the section about keys that others read.
    pub fn knows(&self, keys: &[&'static str]) {
        self.known.borrow_mut().extend_from_slice(keys);
    }

    /// Refuses keys that nobody asked for.
    pub fn finish(&self) -> Result<()> {
        let known = self.known.borrow();
        let Some((name, key, _)) = self.entries.iter().find(|(name, ..)| !known.contains(name)) else {
            return Ok(());
        };
        let place = if self.path.is_empty() { String::new() } else { format!(" in {}", self.path) };
        let hint = match crate::cli::nearest(name, known.iter().copied()) {
            Some(meant) => format!("; did you mean {meant:?}?"),
            None => String::new(),
        };
        Err(key.problem(format!("unknown key {name:?}{place}{hint}")))
    }
}

/// Writes a tree as block YAML, two spaces a level, as Go's writer lays it out.
pub(crate) fn write(node: &Node) -> String {
    let mut out = String::new();
    write_node(&mut out, node, 0);
    out
}

fn write_node(out: &mut String, node: &Node, indent: usize) {
    match &node.value {
        Value::Mapping(entries) if !entries.is_empty() => write_entries(out, entries, indent, false),
        Value::Sequence(items) if !items.is_empty() => write_items(out, items, indent),
        _ => {
            out.push_str(&inline(node));
            out.push('\n');
        }
    }
}

fn write_entries(out: &mut String, entries: &[(Node, Node)], indent: usize, continues: bool) {
    for (i, (key, value)) in entries.iter().enumerate() {
        if i > 0 || !continues {
            out.extend(std::iter::repeat_n(' ', indent));
        }
        out.push_str(&inline(key));
        out.push(':');
        match &value.value {
            Value::Mapping(entries) if !entries.is_empty() => {
                out.push('\n');
                write_entries(out, entries, indent + 2, false);
            }
            // Go's writer puts the dashes of a list under its key.
            Value::Sequence(items) if !items.is_empty() => {
                out.push('\n');
                write_items(out, items, indent);
            }
            _ => {
                out.push(' ');
                out.push_str(&inline(value));
                out.push('\n');
            }
        }
    }
}

fn write_items(out: &mut String, items: &[Node], indent: usize) {
    for item in items {
        out.extend(std::iter::repeat_n(' ', indent));
        out.push_str("- ");
        match &item.value {
            Value::Mapping(entries) if !entries.is_empty() => write_entries(out, entries, indent + 2, true),
            Value::Sequence(items) if !items.is_empty() => {
                out.push('\n');
                write_items(out, items, indent + 2);
            }
            _ => {
                out.push_str(&inline(item));
                out.push('\n');
            }
        }
    }
}

fn inline(node: &Node) -> String {
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Scalar { text, plain: true } if is_plain(text) => text.clone(),
        Value::Scalar { text, .. } if is_plain(text) && !looks_typed(text) => text.clone(),
        Value::Scalar { text, .. } => {
            let mut out = String::new();
            // Writing to a string cannot fail.
            let _ = chronolith_model::labels::write_quoted(&mut out, text);
            out
        }
        Value::Binary(bytes) => quote_bytes(bytes),
        Value::Sequence(_) => "[]".to_owned(),
        Value::Mapping(_) => "{}".to_owned(),
    }
}

/// Whether a text can stand without quotes and be read back as the same text.
fn is_plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let starts_well = !"-?:,[]{}#&*!|>'\"%@` ".contains(first)
        || (first == '-' && text.len() > 1 && !text.starts_with("- "));
    starts_well
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.chars().any(char::is_control)
}

/// Whether YAML would read the text as something other than a text.
fn looks_typed(text: &str) -> bool {
    text.parse::<f64>().is_ok()
        || matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" | "null" | "~"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_know_their_lines() {
        let root = parse("a: 1\nb:\n  - x\n  - y: z\n").unwrap();
        let Value::Mapping(entries) = &root.value else { panic!("{root:?}") };
        assert_eq!(entries[1].0.line, 2);
        let Value::Sequence(items) = &entries[1].1.value else { panic!() };
        assert_eq!(items[1].line, 4);
    }

    #[test]
    fn aliases_and_merge_keys_expand() {
        let root = parse("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n").unwrap();
        let section = Section::new(&root, "").unwrap();
        let b = Section::new(section.get("b").unwrap(), "b").unwrap();
        assert_eq!(b.text("x").unwrap().as_deref(), Some("1"));
        assert_eq!(b.text("y").unwrap().as_deref(), Some("3"));
    }

    #[test]
    fn aliases_that_multiply_are_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..9 {
            let prev = i - 1;
            let refs = vec![format!("*a{prev}"); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        assert!(parse(&text).unwrap_err().reason.contains("more than"));
    }

    #[test]
    fn a_key_twice_names_both_lines() {
        let problem = parse("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!(problem.line, 3);
        assert!(problem.reason.contains("line 1"));
    }

    #[test]
    fn deep_nesting_is_refused_not_overflowed() {
        let text = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        assert!(parse(&text).is_err());
    }

    #[test]
    fn written_trees_read_back_as_they_were() {
        let text = "a: 1\nb:\n- x\n- y: \"# no\"\n  z: \"true\"\nc: {}\nd: \": x\"\n";
        let node = parse(text).unwrap();
        assert_eq!(write(&node), text);
    }
}
