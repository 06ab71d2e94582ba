//! Sizes that depend on the inputs' shapes: `"batch"`, `"2*s0 + 1"`, `"(h - 3)//2"`.

use crate::error::{Error, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the symbols of a graph stand for in one run.
pub type Sizes = BTreeMap<String, i64>;

/// An integer, or an expression over the symbols of a graph's inputs: names, integers, `+ - * //`, parentheses.
/// Division rounds down, as Python's does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// Always this.
    Fixed(i64),
    /// What the expression gives.
    Expr(String),
}

/// How deep parentheses and signs may nest: a file's expression is read by recursion.
const DEPTH: usize = 32;

impl Size {
    /// Its value where the symbols are these.
    ///
    /// # Errors
    /// [`Error::Graph`] where the expression is none, names an unknown symbol, overflows, or divides by zero.
    pub fn eval(&self, sizes: &Sizes) -> Result<i64> {
        match self {
            Size::Fixed(value) => Ok(*value),
            Size::Expr(text) => {
                let mut parser = Parser { text, rest: text.as_bytes(), sizes };
                let value = parser.sum(0)?;
                parser.space();
                if parser.rest.is_empty() { Ok(value) } else { Err(parser.wrong("something after its end")) }
            }
        }
    }

    /// Its value as a dimension.
    ///
    /// # Errors
    /// As [`Size::eval`], and where it is negative.
    pub fn dim(&self, sizes: &Sizes) -> Result<usize> {
        let value = self.eval(sizes)?;
        usize::try_from(value)
            .map_err(|_| Error::Shape(format!("size {self} is {value}: a dimension cannot be negative")))
    }

    /// The symbol, where it is nothing else.
    pub fn symbol(&self) -> Option<&str> {
        match self {
            Size::Expr(text)
                if !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') =>
            {
                (!text.as_bytes()[0].is_ascii_digit()).then_some(text)
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Size::Fixed(value) => value.fmt(f),
            Size::Expr(text) => f.write_str(text),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a [u8],
    sizes: &'a Sizes,
}

impl Parser<'_> {
    fn wrong(&self, what: &str) -> Error {
        Error::Graph(format!("size {:?}: {what}", self.text))
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn take(&mut self, token: &[u8]) -> bool {
        self.space();
        let found = self.rest.starts_with(token);
        if found {
            self.rest = &self.rest[token.len()..];
        }
        found
    }

    fn checked(&self, value: Option<i64>) -> Result<i64> {
        value.ok_or_else(|| self.wrong("overflows, or divides by zero"))
    }

    fn sum(&mut self, depth: usize) -> Result<i64> {
        let mut value = self.product(depth)?;
        loop {
            if self.take(b"+") {
                let right = self.product(depth)?;
                value = self.checked(value.checked_add(right))?;
            } else if self.take(b"-") {
                let right = self.product(depth)?;
                value = self.checked(value.checked_sub(right))?;
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self, depth: usize) -> Result<i64> {
        let mut value = self.term(depth)?;
        loop {
            if self.take(b"*") {
                let right = self.term(depth)?;
                value = self.checked(value.checked_mul(right))?;
            } else if self.take(b"//") {
                let right = self.term(depth)?;
                let floor = |a: i64, b: i64| {
                    let q = a.checked_div(b)?;
                    if a % b != 0 && (a < 0) != (b < 0) { q.checked_sub(1) } else { Some(q) }
                };
                value = self.checked(floor(value, right))?;
            } else {
                return Ok(value);
            }
        }
    }

    fn term(&mut self, depth: usize) -> Result<i64> {
        ensure!(depth < DEPTH, Graph, "size {:?}: nested more than {DEPTH} deep", self.text);
        if self.take(b"-") {
            let value = self.term(depth + 1)?;
            return self.checked(value.checked_neg());
        }
        if self.take(b"(") {
            let value = self.sum(depth + 1)?;
            return if self.take(b")") { Ok(value) } else { Err(self.wrong("a parenthesis is not closed")) };
        }
        let word = self.rest.iter().take_while(|c| c.is_ascii_alphanumeric() || **c == b'_').count();
        let (word, rest) = self.rest.split_at(word);
        self.rest = rest;
        let word = std::str::from_utf8(word).expect("ASCII was taken");
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return word.parse().map_err(|_| self.wrong("a number is none, or too large"));
        }
        let value = self.sizes.get(word).copied();
        value.ok_or_else(|| self.wrong(&format!("{word:?} is no symbol of the inputs")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(text: &str) -> Result<i64> {
        let sizes = Sizes::from([("batch".into(), 7), ("s0".into(), 3)]);
        Size::Expr(text.into()).eval(&sizes)
    }

    #[test]
    fn expressions_are_pythons() {
        assert_eq!(eval("2*batch + 1").unwrap(), 15);
        assert_eq!(eval("(batch - 10)//2").unwrap(), -2);
        assert_eq!(eval("-(s0*s0) - -batch").unwrap(), -2);
        assert_eq!(eval("batch//s0*s0").unwrap(), 6);
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for text in [
            "",
            "batch +",
            "(batch",
            "t",
            "1//0",
            "batch batch",
            "99999999999999999999",
            "9223372036854775807+1",
        ] {
            assert!(eval(text).is_err(), "{text}");
        }
        assert!(eval(&"(".repeat(10_000)).is_err());
        assert!(eval(&"-".repeat(10_000)).is_err());
        assert!(Size::Fixed(-1).dim(&Sizes::new()).is_err());
    }
}
