//! Translates Go's dialect of RE2 to that of the regex crate.
//!
//! The two differ in what `\d`, `\s`, `\w` and `\b` mean (ASCII in Go), in escapes (`\Q..\E`, octal,
//! `\<`), in character classes (no nesting and no set operators in Go), in braces that are no
//! repetition, in nested repetition and in flags. What Go refuses is refused here, in its words.
//!
//! Source: Go 1.26, `regexp/syntax/parse.go`.

use super::Re2Error;
use std::iter::Peekable;
use std::str::CharIndices;

/// Deepest nesting of groups, as in Go.
const MAX_NESTING: usize = 1000;
/// Largest repetition count, as in Go.
const MAX_REPEAT: u32 = 1000;

/// What may stand between `[:` and `:]`, behind a `^` perhaps.
const POSIX_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

/// A pattern in the syntax of the regex crate.
pub(super) struct Translated {
    pub(super) pattern: String,
    /// The names of groups and their numbers. Go lets several groups have one name; to the regex crate none has.
    pub(super) names: Vec<(String, usize)>,
}

/// The same pattern in the syntax of the regex crate.
pub(super) fn translate(pattern: &str) -> Result<Translated, Re2Error> {
    let mut translator = Translator {
        pattern,
        chars: pattern.char_indices().peekable(),
        out: String::with_capacity(pattern.len() + 16),
        depth: 0,
        n_groups: 0,
        names: Vec::new(),
        last: Last::Nothing,
    };
    translator.run()?;
    Ok(Translated { pattern: translator.out, names: translator.names })
}

/// What the last piece of the pattern was: decides what a repetition operator means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// Start of the pattern, a group or an alternative: nothing to repeat.
    Nothing,
    /// Something that can be repeated.
    Atom,
    /// Something that can be repeated and ends here in the output; flags were set after it.
    AtomBefore(usize),
    /// A repetition that began at this byte.
    Repeat(usize),
}

struct Translator<'p> {
    pattern: &'p str,
    chars: Peekable<CharIndices<'p>>,
    out: String,
    depth: usize,
    n_groups: usize,
    names: Vec<(String, usize)>,
    last: Last,
}

impl<'p> Translator<'p> {
    fn run(&mut self) -> Result<(), Re2Error> {
        while let Some((at, c)) = self.chars.next() {
            match c {
                '\\' => self.escape(at)?,
                '[' => {
                    let class = self.class(at)?;
                    self.out.push_str(&class);
                    self.last = Last::Atom;
                }
                '(' => self.open_group(at)?,
                ')' => {
                    if self.depth == 0 {
                        return Err(self.error("unexpected )", self.pattern));
                    }
                    self.depth -= 1;
                    self.out.push(')');
                    self.last = Last::Atom;
                }
                '|' => {
                    self.out.push('|');
                    self.last = Last::Nothing;
                }
                '*' | '+' | '?' => self.repeat(at, 1, &c.to_string())?,
                '{' => match braces(&self.pattern[at..]) {
                    Some((min, max, length)) => {
                        if min > MAX_REPEAT
                            || max.is_some_and(|max| max > MAX_REPEAT)
                            || max.is_some_and(|max| max < min)
                        {
                            return Err(self.error("invalid repeat count", &self.pattern[at..at + length]));
                        }
                        self.skip_to(at + length);
                        let text = self.pattern[at..at + length].to_owned();
                        self.repeat(at, length, &text)?;
                    }
                    None => self.literal('{'),
                },
                '.' | '^' | '$' => {
                    self.out.push(c);
                    self.last = Last::Atom;
                }
                c => self.literal(c),
            }
        }
        if self.depth > 0 {
            return Err(self.error("missing closing )", self.pattern));
        }
        Ok(())
    }

    fn error(&self, what: &str, fragment: &str) -> Re2Error {
        Re2Error::new(format!("{what}: `{fragment}`"))
    }

    fn skip_to(&mut self, end: usize) {
        while self.chars.next_if(|&(at, _)| at < end).is_some() {}
    }

    fn position(&mut self) -> usize {
        self.chars.peek().map_or(self.pattern.len(), |&(at, _)| at)
    }

    fn literal(&mut self, c: char) {
        push_literal(&mut self.out, c);
        self.last = Last::Atom;
    }

    /// A repetition operator of `length` bytes at `at`, and the `?` behind it.
    fn repeat(&mut self, at: usize, length: usize, operator: &str) -> Result<(), Re2Error> {
        let lazy = self.chars.next_if(|&(_, c)| c == '?').is_some();
        let end = at + length + usize::from(lazy);
        match self.last {
            Last::Nothing => {
                return Err(self.error("missing argument to repetition operator", &self.pattern[at..end]));
            }
            Last::Repeat(start) => {
                return Err(self.error("invalid nested repetition operator", &self.pattern[start..end]));
            }
            Last::Atom => self.out.push_str(operator),
            Last::AtomBefore(end) => self.out.insert_str(end, operator),
        }
        if lazy {
            match self.last {
                Last::AtomBefore(end) => self.out.insert(end + operator.len(), '?'),
                _ => self.out.push('?'),
            }
        }
        self.last = Last::Repeat(at);
        Ok(())
    }

    fn open_group(&mut self, at: usize) -> Result<(), Re2Error> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(self.error("expression nests too deeply", self.pattern));
        }
        let before = std::mem::replace(&mut self.last, Last::Nothing);
        if self.chars.next_if(|&(_, c)| c == '?').is_none() {
            self.out.push('(');
            self.n_groups += 1;
            return Ok(());
        }
        let rest = &self.pattern[at..];
        for opening in ["(?P<", "(?<"] {
            let Some(named) = rest.strip_prefix(opening).filter(|named| !named.is_empty()) else { continue };
            let Some(end) = named.find('>') else {
                return Err(self.error("invalid named capture", rest));
            };
            let name = &named[..end];
            let word = |c: char| c == '_' || c.is_ascii_alphanumeric();
            if name.is_empty() || !name.chars().all(word) {
                return Err(self.error("invalid named capture", &rest[..opening.len() + end + 1]));
            }
            self.out.push('(');
            self.n_groups += 1;
            self.names.push((name.to_owned(), self.n_groups));
            self.skip_to(at + opening.len() + end + 1);
            return Ok(());
        }
        self.flags(at, before)
    }

    /// `(?flags)` and `(?flags:`. What comes `before` the former is what a repetition behind it repeats.
    fn flags(&mut self, at: usize, before: Last) -> Result<(), Re2Error> {
        // Each flag once, as it was set last: the regex crate refuses repetitions.
        let mut set: Vec<(char, bool)> = Vec::new();
        let (mut negated, mut any) = (false, false);
        for (_, c) in self.chars.by_ref() {
            match c {
                'i' | 'm' | 's' | 'U' => {
                    any = true;
                    set.retain(|&(flag, _)| flag != c);
                    set.push((c, !negated));
                }
                '-' if !negated => (negated, any) = (true, false),
                ':' | ')' if !negated || any => {
                    let end_of_last = self.out.len();
                    let chosen = |on: bool| set.iter().filter(move |flag| flag.1 == on).map(|flag| flag.0);
                    self.out.push_str("(?");
                    self.out.extend(chosen(true));
                    if chosen(false).next().is_some() {
                        self.out.push('-');
                        self.out.extend(chosen(false));
                    }
                    // `(?)` sets nothing; the regex crate has no such form.
                    self.out.push_str(if c == ')' && set.is_empty() { ":" } else { "" });
                    self.out.push(c);
                    if c == ')' {
                        self.depth -= 1;
                        self.last = match before {
                            Last::Atom | Last::Repeat(_) => Last::AtomBefore(end_of_last),
                            Last::Nothing | Last::AtomBefore(_) => before,
                        };
                    }
                    return Ok(());
                }
                _ => break,
            }
        }
        let end = self.position();
        Err(self.error("invalid or unsupported Perl syntax", &self.pattern[at..end]))
    }

    fn escape(&mut self, at: usize) -> Result<(), Re2Error> {
        let Some(&(_, c)) = self.chars.peek() else {
            return Err(Re2Error::new("trailing backslash at end of expression: ``"));
        };
        match c {
            'A' | 'z' => {
                self.chars.next();
                self.out.push('\\');
                self.out.push(c);
                self.last = Last::Atom;
            }
            'b' | 'B' => {
                self.chars.next();
                self.out.push_str(if c == 'b' { r"(?-u:\b)" } else { r"(?-u:\B)" });
                self.last = Last::Atom;
            }
            'Q' => {
                self.chars.next();
                let start = at + 2;
                let quoted = &self.pattern[start..];
                let (quoted, end) = match quoted.find(r"\E") {
                    Some(length) => (&quoted[..length], start + length + 2),
                    None => (quoted, self.pattern.len()),
                };
                for c in quoted.chars() {
                    self.literal(c);
                }
                self.skip_to(end);
            }
            _ => match self.escaped(at)? {
                Escaped::Char(c) => self.literal(c),
                Escaped::Set(set) => {
                    self.out.push('[');
                    self.out.push_str(&set);
                    self.out.push(']');
                    self.last = Last::Atom;
                }
            },
        }
        Ok(())
    }

    /// An escape that means a character or a set of them; the backslash at `at` is consumed.
    fn escaped(&mut self, at: usize) -> Result<Escaped, Re2Error> {
        let Some((c_at, c)) = self.chars.next() else {
            return Err(Re2Error::new("trailing backslash at end of expression: ``"));
        };
        let set = |text: &str| Ok(Escaped::Set(text.to_owned()));
        match c {
            'd' => set("0-9"),
            'D' => set("[^0-9]"),
            's' => set(r"\t\n\x0C\r\x20"),
            'S' => set(r"[^\t\n\x0C\r\x20]"),
            'w' => set("0-9A-Za-z_"),
            'W' => set("[^0-9A-Za-z_]"),
            'p' | 'P' => self.unicode_class(at, c),
            'a' => Ok(Escaped::Char('\u{7}')),
            'f' => Ok(Escaped::Char('\u{c}')),
            'n' => Ok(Escaped::Char('\n')),
            'r' => Ok(Escaped::Char('\r')),
            't' => Ok(Escaped::Char('\t')),
            'v' => Ok(Escaped::Char('\u{b}')),
            'x' => self.hexadecimal(at),
            '1'..='7' if !self.pattern[c_at + 1..].starts_with(|c| matches!(c, '0'..='7')) => {
                Err(self.invalid_escape(at))
            }
            '0'..='7' => {
                let mut value = c.to_digit(8).expect("the pattern holds an octal digit");
                for _ in 0..2 {
                    match self.chars.next_if(|&(_, c)| matches!(c, '0'..='7')) {
                        Some((_, c)) => value = value * 8 + c.to_digit(8).expect("an octal digit"),
                        None => break,
                    }
                }
                char::from_u32(value).map(Escaped::Char).ok_or_else(|| self.invalid_escape(at))
            }
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Ok(Escaped::Char(c)),
            _ => Err(self.invalid_escape(at)),
        }
    }

    fn invalid_escape(&mut self, at: usize) -> Re2Error {
        let end = self.position();
        self.error("invalid escape sequence", &self.pattern[at..end])
    }

    /// Two digits, or some in braces. The first character that is wrong is part of what the error shows.
    fn hexadecimal(&mut self, at: usize) -> Result<Escaped, Re2Error> {
        let (mut value, mut n_digits) = (0u32, 0);
        let braces = self.chars.next_if(|&(_, c)| c == '{').is_some();
        let complete = loop {
            let Some((_, c)) = self.chars.next() else { break false };
            if braces && c == '}' {
                break n_digits > 0;
            }
            let Some(digit) = c.to_digit(16) else {
                // Both characters are read before either is looked at.
                if !braces && n_digits == 0 {
                    self.chars.next();
                }
                break false;
            };
            value = value * 16 + digit;
            n_digits += 1;
            if value > u32::from(char::MAX) {
                break false;
            }
            if !braces && n_digits == 2 {
                break true;
            }
        };
        match char::from_u32(value) {
            Some(c) if complete => Ok(Escaped::Char(c)),
            _ => Err(self.invalid_escape(at)),
        }
    }

    /// `\pN`, `\p{Greek}`, `\p{^Greek}` and their negations.
    fn unicode_class(&mut self, at: usize, letter: char) -> Result<Escaped, Re2Error> {
        let Some((name_at, c)) = self.chars.next() else {
            return Err(self.error("invalid character class range", &self.pattern[at..]));
        };
        let mut name = &self.pattern[name_at..name_at + c.len_utf8()];
        if c == '{' {
            let Some(length) = self.pattern[name_at..].find('}') else {
                return Err(self.error("invalid character class range", &self.pattern[at..]));
            };
            name = &self.pattern[name_at + 1..name_at + length];
            self.skip_to(name_at + length + 1);
        }
        let (name, caret) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
        let word = |c: char| c == '_' || c.is_ascii_alphanumeric();
        if name.is_empty() || !name.chars().all(word) {
            let end = self.position();
            return Err(self.error("invalid character class range", &self.pattern[at..end]));
        }
        let negated = (letter == 'P') != caret;
        let set = match (name, negated) {
            ("Any", false) => r"\x{0}-\x{10FFFF}".to_owned(),
            ("Any", true) => r"[^\x{0}-\x{10FFFF}]".to_owned(),
            (name, false) => format!(r"\p{{{name}}}"),
            (name, true) => format!(r"\P{{{name}}}"),
        };
        if regex_syntax::parse(&format!("[{set}]")).is_err() {
            let end = self.position();
            return Err(self.error("invalid character class range", &self.pattern[at..end]));
        }
        Ok(Escaped::Set(set))
    }

    /// A character class; the bracket at `at` is consumed.
    fn class(&mut self, at: usize) -> Result<String, Re2Error> {
        let missing = |translator: &Self| translator.error("missing closing ]", &translator.pattern[at..]);
        let mut class = String::from("[");
        if self.chars.next_if(|&(_, c)| c == '^').is_some() {
            class.push('^');
        }
        let mut first = true;
        loop {
            let Some(&(item_at, c)) = self.chars.peek() else { return Err(missing(self)) };
            if c == ']' && !first {
                self.chars.next();
                class.push(']');
                return Ok(class);
            }
            // Go's flag PerlX lets a minus stand anywhere.
            first = false;
            if self.pattern[item_at..].starts_with("[:")
                && let Some(length) = self.pattern[item_at + 2..].find(":]")
            {
                let name = &self.pattern[item_at..item_at + length + 4];
                let word = name[2..length + 2].trim_start_matches('^');
                if !POSIX_CLASSES.contains(&word) || name[2..].starts_with("^^") {
                    return Err(self.error("invalid character class range", name));
                }
                class.push_str(name);
                self.skip_to(item_at + name.len());
                continue;
            }
            let low = match self.class_item(item_at, at)? {
                Escaped::Char(c) => c,
                Escaped::Set(set) => {
                    class.push_str(&set);
                    continue;
                }
            };
            push_class_char(&mut class, low);
            let rest = &self.pattern[self.position()..];
            if !rest.starts_with('-') || rest.starts_with("-]") || rest == "-" {
                continue;
            }
            self.chars.next();
            let Some(&(high_at, _)) = self.chars.peek() else { return Err(missing(self)) };
            if let Some(set) = ["\\d", "\\D", "\\s", "\\S", "\\w", "\\W", "\\p", "\\P"]
                .iter()
                .find(|set| self.pattern[high_at..].starts_with(**set))
            {
                return Err(self.error("invalid escape sequence", set));
            }
            let high = self.class_item(high_at, at)?;
            let end = self.position();
            match high {
                Escaped::Char(high) if low <= high => {
                    class.push('-');
                    push_class_char(&mut class, high);
                }
                _ => return Err(self.error("invalid character class range", &self.pattern[item_at..end])),
            }
        }
    }

    fn class_item(&mut self, at: usize, class_at: usize) -> Result<Escaped, Re2Error> {
        match self.chars.next() {
            Some((_, '\\')) => self.escaped(at),
            Some((_, c)) => Ok(Escaped::Char(c)),
            None => Err(self.error("missing closing ]", &self.pattern[class_at..])),
        }
    }
}

/// What an escape stands for.
enum Escaped {
    Char(char),
    /// The inside of a character class of the regex crate.
    Set(String),
}

/// `{n}`, `{n,}` or `{n,m}` at the start of `text`: the counts and the length in bytes.
fn braces(text: &str) -> Option<(u32, Option<u32>, usize)> {
    let end = text.find('}')?;
    let number = |digits: &str| {
        let plain = !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit())
            && (digits.len() == 1 || !digits.starts_with('0'));
        plain.then(|| digits.parse::<u32>().unwrap_or(u32::MAX))
    };
    let inside = &text[1..end];
    let (min, max) = match inside.split_once(',') {
        None => {
            let count = number(inside)?;
            (count, Some(count))
        }
        Some((min, "")) => (number(min)?, None),
        Some((min, max)) => (number(min)?, Some(number(max)?)),
    };
    Some((min, max, end + 1))
}

fn push_literal(out: &mut String, c: char) {
    if c.is_ascii() && !c.is_ascii_alphanumeric() {
        push_class_char(out, c);
    } else {
        out.push(c);
    }
}

/// As a code point, so that no character has a meaning of its own.
fn push_class_char(out: &mut String, c: char) {
    if c.is_ascii_alphanumeric() || !c.is_ascii() {
        out.push(c);
    } else {
        out.push_str(&format!("\\x{:02X}", c as u32));
    }
}
