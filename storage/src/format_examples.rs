//! The worked examples of docs/format.md, for the tests that write and read them.
//!
//! An example is a fenced block that begins with ```` ```hex NAME ````: bytes of the key, a line `=>`,
//! bytes of the value. What follows a `|` is explanation.

/// Key and value of an example.
///
/// # Panics
/// If the document has no such example, or it is not hexadecimal.
pub(crate) fn example(name: &str) -> (Vec<u8>, Vec<u8>) {
    let document = include_str!("../../docs/format.md");
    let begin = format!("```hex {name}");
    let mut lines = document.lines().skip_while(|line| *line != begin);
    lines.next().unwrap_or_else(|| panic!("docs/format.md has no example {name:?}"));
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut bytes = &mut key;
    for line in lines.take_while(|line| *line != "```") {
        let line = line.split('|').next().unwrap_or_default().trim();
        if line == "=>" {
            bytes = &mut value;
            continue;
        }
        let byte =
            |word| u8::from_str_radix(word, 16).unwrap_or_else(|_| panic!("{word:?} in example {name:?}"));
        bytes.extend(line.split_whitespace().map(byte));
    }
    (key, value)
}
