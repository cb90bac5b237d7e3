//! A JSON scanner over one record: finds the boundaries of values, and checks their syntax.
//!
//! Owns: the grammar (RFC 8259). Does not own: parsing values. Values that are not wanted are skipped without building
//! anything, which makes decoding of few columns fast.
//! No library is used: sonic-rs overflowed the stack on 100,000 brackets and accepted texts that serde_json refuses.
//! The tests below compare this scanner with serde_json.
//! Invariant: spans it returns lie on character boundaries of the text.

use crate::formats::Fault;

/// Maximum nesting, to protect the stack.
const MAX_DEPTH: usize = 128;

/// The byte range of a value in the text, quotes included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    pub fn of(self, text: &str) -> &str {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

/// A position in a text.
pub struct Scanner<'a> {
    pub text: &'a str,
    bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str, at: usize) -> Self {
        Self { text, bytes: text.as_bytes(), at }
    }

    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Skips white space, then `byte` if it is next. Returns whether it was.
    pub fn take(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Returns the fault of finding something else than `expected` at this position.
    pub fn unexpected(&self, expected: &str) -> Fault {
        let found = match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(found) => format!("'{}'", found.escape_debug()),
            None => "the end of the record".into(),
        };
        Fault::new(format!("malformed JSON: expected {expected} at byte {}, found {found}", self.at))
    }

    /// Checks that only white space follows the record's value.
    pub fn end(&mut self) -> Result<(), Fault> {
        self.skip_space();
        if self.at == self.bytes.len() {
            return Ok(());
        }
        Err(Fault::new(format!(
            "malformed JSON: text follows the value at byte {}: {}",
            self.at,
            shorten(self.text.get(self.at..).unwrap_or_default())
        )))
    }

    /// Skips one value of any kind, checking its syntax.
    pub fn value(&mut self, depth: usize) -> Result<Span, Fault> {
        self.skip_space();
        let start = self.at;
        match self.peek() {
            Some(b'"') => {
                self.string()?;
            }
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal("true")?,
            Some(b'f') => self.literal("false")?,
            Some(b'n') => self.literal("null")?,
            _ => return Err(self.unexpected("a value")),
        }
        Ok(Span { start, end: self.at })
    }

    /// Skips a string; returns the span between its quotes.
    pub fn string(&mut self) -> Result<Span, Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("'\"'"));
        }
        let start = self.at + 1;
        let mut at = start;
        loop {
            match memchr::memchr2(b'"', b'\\', self.bytes.get(at..).unwrap_or_default()) {
                Some(found) if self.bytes[at + found] == b'"' => {
                    self.at = at + found + 1;
                    return Ok(Span { start, end: at + found });
                }
                // Skips the escaped byte. It may begin a longer character, but quotes are never inside one.
                Some(found) => at += found + 2,
                None => {
                    self.at = self.bytes.len();
                    return Err(self.unexpected("the end of a string"));
                }
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), Fault> {
        self.open(depth)?;
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            self.skip_space();
            self.string()?;
            if !self.take(b':') {
                return Err(self.unexpected("':'"));
            }
            self.value(depth + 1)?;
            if self.take(b'}') {
                return Ok(());
            }
            if !self.take(b',') {
                return Err(self.unexpected("',' or '}'"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), Fault> {
        self.open(depth)?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            if self.take(b']') {
                return Ok(());
            }
            if !self.take(b',') {
                return Err(self.unexpected("',' or ']'"));
            }
        }
    }

    fn open(&mut self, depth: usize) -> Result<(), Fault> {
        if depth >= MAX_DEPTH {
            return Err(Fault::new(format!("malformed JSON: nested deeper than {MAX_DEPTH} levels")));
        }
        self.at += 1;
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected("a digit")) } else { Ok(()) }
    }

    fn literal(&mut self, word: &str) -> Result<(), Fault> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        Err(self.unexpected(word))
    }
}

/// Resolves the escapes in a string's content into `out`, which is overwritten.
pub fn unescape(raw: &str, out: &mut String) -> Result<(), Fault> {
    let unknown = || Fault::new("malformed JSON: unknown escape in a string");
    out.clear();
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(rest.get(..at).unwrap_or_default());
        let escape = rest.as_bytes().get(at + 1).copied();
        let mut next = at + 2;
        let plain = match escape {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let (character, used) = unicode(&rest.as_bytes()[next..])?;
                next += used;
                character
            }
            _ => return Err(unknown()),
        };
        out.push(plain);
        rest = rest.get(next..).ok_or_else(unknown)?;
    }
    out.push_str(rest);
    Ok(())
}

/// Decodes the digits after `\u`. Returns the character and the number of bytes used.
fn unicode(bytes: &[u8]) -> Result<(char, usize), Fault> {
    let bad = || Fault::new("malformed JSON: bad \\u escape in a string");
    let unit = |from: usize| -> Result<u32, Fault> {
        let digits = bytes.get(from..from + 4).ok_or_else(bad)?;
        digits.iter().try_fold(0u32, |value, digit| {
            char::from(*digit).to_digit(16).map(|digit| value * 16 + digit).ok_or_else(bad)
        })
    };
    let high = unit(0)?;
    if !(0xD800..0xDC00).contains(&high) {
        return char::from_u32(high).map(|character| (character, 4)).ok_or_else(bad);
    }
    if bytes.get(4..6) != Some(b"\\u") {
        return Err(bad());
    }
    let low = unit(6)?;
    if !(0xDC00..0xE000).contains(&low) {
        return Err(bad());
    }
    let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    char::from_u32(code).map(|character| (character, 10)).ok_or_else(bad)
}

/// Returns a value's text for an error message, cut at 40 characters.
pub fn shorten(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Result<(), Fault> {
        let mut scanner = Scanner::new(text, 0);
        scanner.value(0)?;
        scanner.end()
    }

    #[test]
    fn agrees_with_serde_json() {
        let texts = [
            "{}",
            "[]",
            " [1 , 2.5e-3,\ttrue,false,null ] ",
            r#"{"a":{"b":[{}]},"c":"\"\\"}"#,
            "0",
            "-0.5",
            "\"é😀\"",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "tru",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{a:1}",
            "[1 2]",
            "\"abc",
            "",
            "{} {}",
            "nul",
            "\"\\\"",
            "[",
            "1e+",
            "{\"a\":}",
        ];
        for text in texts {
            let expected = serde_json::from_str::<serde_json::Value>(text).is_ok();
            assert_eq!(whole(text).is_ok(), expected, "{text}: {:?}", whole(text));
        }
    }

    #[test]
    fn refuses_endless_nesting() {
        assert!(whole(&"[".repeat(100_000)).unwrap_err().to_string().contains("nested deeper"));
    }

    #[test]
    fn resolves_escapes() {
        let mut out = String::new();
        unescape(r#"a\n\t\"\\\/\u00e9\ud83d\ude00é"#, &mut out).unwrap();
        assert_eq!(out, "a\n\t\"\\/é😀é");
        for bad in [r"\x", r"\u12", r"\ud83d", r"\ud83dab", r"\udc00", r"\é"] {
            assert!(unescape(bad, &mut out).is_err(), "{bad}");
        }
    }
}
