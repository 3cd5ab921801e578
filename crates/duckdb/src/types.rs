//! The types of DuckDB, read from the text that its catalog shows.
//!
//! Source: `LogicalType::ToString` of DuckDB 2.0 (`src/common/types.cpp`). User-defined types are shown resolved; JSON keeps its name.

use std::fmt;

use crate::sql::literal;
use dozo_model::quote_ident;

/// A type of DuckDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DuckType {
    /// A type without parameters, by the name that the catalog shows.
    Plain(Plain),
    /// `DECIMAL(width, scale)`
    Decimal(u8, u8),
    /// `ENUM('a', 'b')`
    Enum(Vec<String>),
    /// `T[]`
    List(Box<DuckType>),
    /// `T[n]`
    Array(Box<DuckType>, u32),
    /// `STRUCT(a T, …)`
    Struct(Vec<(String, DuckType)>),
    /// `TUPLE(T, …)`: a struct without names.
    Tuple(Vec<DuckType>),
    /// `MAP(K, V)`
    Map(Box<DuckType>, Box<DuckType>),
    /// `UNION(a T, …)`
    Union(Vec<(String, DuckType)>),
    /// One that this version cannot carry exactly.
    Other(String),
}

macro_rules! plain {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// A type without parameters.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Plain { $($name),* }

        impl Plain {
            fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }

            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

plain! {
    Boolean = "BOOLEAN", TinyInt = "TINYINT", SmallInt = "SMALLINT", Integer = "INTEGER", BigInt = "BIGINT", HugeInt = "HUGEINT",
    UTinyInt = "UTINYINT", USmallInt = "USMALLINT", UInteger = "UINTEGER", UBigInt = "UBIGINT", UHugeInt = "UHUGEINT",
    BigNum = "BIGNUM", Float = "FLOAT", Double = "DOUBLE", Varchar = "VARCHAR", Json = "JSON", Blob = "BLOB", Bit = "BIT",
    Uuid = "UUID", Date = "DATE", Time = "TIME", TimeNs = "TIME_NS", TimeTz = "TIME WITH TIME ZONE", Timestamp = "TIMESTAMP",
    TimestampS = "TIMESTAMP_S", TimestampMs = "TIMESTAMP_MS", TimestampNs = "TIMESTAMP_NS",
    TimestampTz = "TIMESTAMP WITH TIME ZONE", TimestampTzNs = "TIMESTAMPTZ_NS", Interval = "INTERVAL", Geometry = "GEOMETRY",
}

impl fmt::Display for DuckType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |members: &[(String, Self)]| {
            members.iter().map(|(name, t)| format!("{} {t}", quote_ident(name))).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::Plain(plain) => f.write_str(plain.name()),
            Self::Decimal(width, scale) => write!(f, "DECIMAL({width},{scale})"),
            Self::Enum(labels) => {
                write!(f, "ENUM({})", labels.iter().map(|l| literal(l)).collect::<Vec<_>>().join(", "))
            }
            Self::List(inner) => write!(f, "{inner}[]"),
            Self::Array(inner, n) => write!(f, "{inner}[{n}]"),
            Self::Struct(members) => write!(f, "STRUCT({})", named(members)),
            Self::Tuple(members) => {
                write!(f, "TUPLE({})", members.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
            Self::Map(key, value) => write!(f, "MAP({key}, {value})"),
            Self::Union(members) => write!(f, "UNION({})", named(members)),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl DuckType {
    /// Reads a type. What is not known becomes [`DuckType::Other`], and makes whatever holds it so.
    pub(crate) fn parse(text: &str) -> Self {
        let mut parser = Parser { rest: text };
        match parser.whole() {
            Some(found) if parser.rest.is_empty() && !found.holds_other() => found,
            _ => Self::Other(text.to_owned()),
        }
    }

    fn holds_other(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Decimal(..) | Self::Enum(_) => false,
            Self::List(inner) | Self::Array(inner, _) => inner.holds_other(),
            Self::Struct(members) | Self::Union(members) => members.iter().any(|(_, t)| t.holds_other()),
            Self::Tuple(members) => members.iter().any(Self::holds_other),
            Self::Map(key, value) => key.holds_other() || value.holds_other(),
            Self::Other(_) => true,
        }
    }
}

struct Parser<'t> {
    rest: &'t str,
}

impl Parser<'_> {
    fn eat(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }

    /// A type with its `[]` and `[n]`.
    fn whole(&mut self) -> Option<DuckType> {
        let mut found = self.base()?;
        while self.eat("[").is_some() {
            let end = self.rest.find(']')?;
            let size = &self.rest[..end];
            found = if size.is_empty() {
                DuckType::List(Box::new(found))
            } else {
                DuckType::Array(Box::new(found), size.parse().ok()?)
            };
            self.rest = &self.rest[end + 1..];
        }
        Some(found)
    }

    fn base(&mut self) -> Option<DuckType> {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ' '))).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        if !rest.starts_with('(') {
            return Plain::parse(name).map(DuckType::Plain);
        }
        self.eat("(")?;
        let found = match name {
            "DECIMAL" => {
                let end = self.rest.find(')')?;
                let (width, scale) = self.rest[..end].split_once(',')?;
                let found = DuckType::Decimal(width.trim().parse().ok()?, scale.trim().parse().ok()?);
                self.rest = &self.rest[end..];
                found
            }
            "ENUM" => DuckType::Enum(self.list(|p| p.quoted('\''))?),
            "STRUCT" => DuckType::Struct(self.list(Self::member)?),
            "UNION" => DuckType::Union(self.list(Self::member)?),
            "TUPLE" => DuckType::Tuple(self.list(Self::whole)?),
            "MAP" => {
                let key = self.whole()?;
                self.eat(", ")?;
                DuckType::Map(Box::new(key), Box::new(self.whole()?))
            }
            _ => return None,
        };
        self.eat(")")?;
        Some(found)
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.eat(", ").is_some() {
            items.push(item(self)?);
        }
        Some(items)
    }

    fn member(&mut self) -> Option<(String, DuckType)> {
        let name = if self.rest.starts_with('"') {
            self.quoted('"')?
        } else {
            let end = self.rest.find(' ')?;
            let (name, rest) = self.rest.split_at(end);
            self.rest = rest;
            name.to_owned()
        };
        self.eat(" ")?;
        Some((name, self.whole()?))
    }

    /// Text within quotes, which are doubled inside.
    fn quoted(&mut self, quote: char) -> Option<String> {
        let mut chars = self.rest.char_indices().peekable();
        let mut text = String::new();
        if chars.next()?.1 != quote {
            return None;
        }
        loop {
            let (at, c) = chars.next()?;
            if c != quote {
                text.push(c);
            } else if chars.peek().is_some_and(|(_, next)| *next == quote) {
                chars.next();
                text.push(quote);
            } else {
                self.rest = &self.rest[at + 1..];
                return Some(text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_and_written() {
        for text in [
            "INTEGER",
            "TIMESTAMP WITH TIME ZONE[]",
            "DECIMAL(38,5)[3][]",
            "ENUM('a', 'it''s', 'x)', ', ')",
            "STRUCT(\"a b\" INTEGER, \"c\" MAP(VARCHAR, \"UNION\"))",
            "STRUCT(\"a b\" INTEGER, \"c\"\"d\" MAP(VARCHAR, INTEGER[]))",
            "UNION(\"i\" INTEGER, \"s\" STRUCT(\"x\" TUPLE(INTEGER, VARCHAR))[2])",
        ] {
            assert_eq!(DuckType::parse(text).to_string(), text);
        }
        assert_eq!(DuckType::parse("STRUCT(x INTEGER, y \"NULL\")"), DuckType::Other("STRUCT(x INTEGER, y \"NULL\")".into()));
        assert_eq!(DuckType::parse("UNION(i INTEGER, \"s t\" VARCHAR)").to_string(), "UNION(\"i\" INTEGER, \"s t\" VARCHAR)");
        for text in ["VARIANT", "GEOMETRY('OGC:CRS84')", "VARIANT[]", "MAP(INTEGER, VARIANT)", "INTEGER[", "ENUM('a", ""] {
            assert_eq!(DuckType::parse(text), DuckType::Other(text.into()), "{text}");
        }
    }
}
