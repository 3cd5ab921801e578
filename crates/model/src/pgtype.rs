//! The Postgres types that dozo carries, by the form their values have on the wire.
//!
//! One value of this enum decides everything about a column: how its COPY BINARY bytes are read and written,
//! which Parquet type holds it (`docs/format.md`), which *send* function computes its fingerprint in SQL.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A Postgres type as dozo carries it. A domain is its base type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PgType {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric`; `None` = without precision.
    Numeric(Option<NumericMod>),
    /// `money` with the decimals of the server's `lc_monetary`.
    Money {
        /// Decimals.
        scale: u8,
    },
    /// `text`
    Text,
    /// `character varying`
    Varchar,
    /// `character`, blanks kept.
    Bpchar,
    /// `name`
    Name,
    /// `"char"`
    Char,
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time without time zone`
    Time,
    /// `time with time zone`
    Timetz,
    /// `timestamp without time zone`
    Timestamp,
    /// `timestamp with time zone`
    Timestamptz,
    /// `interval`
    Interval,
    /// `uuid`
    Uuid,
    /// `json`, kept to the letter.
    Json,
    /// `jsonb`
    Jsonb,
    /// `oid`
    Oid,
    /// `xid`
    Xid,
    /// `cid`
    Cid,
    /// `inet`
    Inet,
    /// `cidr`
    Cidr,
    /// `macaddr`
    Macaddr,
    /// `macaddr8`
    Macaddr8,
    /// `bit`
    Bit,
    /// `bit varying`
    Varbit,
    /// An enum, by its label.
    Enum,
    /// `citext`
    Citext,
    /// `hstore`
    Hstore,
    /// `vector` and `halfvec` of pgvector.
    Vector,
    /// `sparsevec` of pgvector.
    Sparsevec,
    /// `geometry` or `geography` of PostGIS; values with this SRID are readable.
    Geometry {
        /// Spatial reference, 0 = none.
        srid: i32,
    },
    /// A composite type, field by field.
    Composite(Vec<CompositeField>),
    /// An array of one of these; one dimension from 1 is a LIST, all others go to `_dozo_exact`.
    Array(Box<PgType>),
    /// An array of a domain over one of these: its binary form names the domain by a number that differs between databases.
    DomainArray(Box<PgType>),
    /// `xml`; its text is what is stored, not what its output function says: that one leaves out the XML declaration.
    Xml,
    /// Any other type, by its text.
    AsText,
    /// A text of a database that does not know its encoding: bytes.
    Raw(Box<PgType>),
    /// The text of a value, whatever its type: the table is kept in a form that holds texts, and its fingerprint is `t1`.
    Printed(Box<PgType>),
}

/// A field of a composite type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CompositeField {
    /// Name.
    pub name: String,
    /// Type.
    #[serde(rename = "type")]
    pub wire: PgType,
}

/// For whom files are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// For Athena, Trino, Spark and DuckDB alike.
    #[default]
    Lake,
    /// With the logical types UUID and TIME, which not all of them read.
    Native,
}

impl Profile {
    /// Tells whether it is the one that goes without saying.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns its name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lake => "lake",
            Self::Native => "native",
        }
    }
}

/// Precision and scale of a constrained `numeric`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NumericMod {
    /// Decimal digits in all, 1 to 1000.
    pub precision: u16,
    /// Digits after the point, -1000 to 1000.
    pub scale: i16,
}

impl NumericMod {
    /// Reads the type modifier (`make_numeric_typmod` in `numeric.c`); `None` for `-1`.
    #[must_use]
    pub fn from_typmod(typmod: i32) -> Option<Self> {
        if typmod < 4 {
            return None;
        }
        let packed = typmod - 4;
        let precision = u16::try_from((packed >> 16) & 0xffff).ok()?;
        let scale = i16::try_from(((packed & 0x7ff) ^ 1024) - 1024).ok()?;
        Some(Self { precision, scale })
    }

    /// Returns the precision and scale of the Parquet DECIMAL that holds every finite value exactly, if one does.
    #[must_use]
    pub fn decimal(self) -> Option<(u8, i8)> {
        let (p, s) = (i32::from(self.precision), i32::from(self.scale));
        let (p, s) = if s < 0 {
            (p - s, 0)
        } else if s > p {
            (s, s)
        } else {
            (p, s)
        };
        (p <= 38).then(|| (u8::try_from(p).expect("1 to 38"), i8::try_from(s).expect("0 to 38")))
    }
}

impl PgType {
    /// Returns the fixed width of a value on the wire, where it has one.
    #[must_use]
    pub fn fixed_width(&self) -> Option<usize> {
        match self {
            Self::Bool | Self::Char => Some(1),
            Self::Int2 => Some(2),
            Self::Int4 | Self::Float4 | Self::Date | Self::Oid | Self::Xid | Self::Cid => Some(4),
            Self::Macaddr => Some(6),
            Self::Int8
            | Self::Float8
            | Self::Money { .. }
            | Self::Time
            | Self::Timestamp
            | Self::Timestamptz
            | Self::Macaddr8 => Some(8),
            Self::Timetz => Some(12),
            Self::Interval | Self::Uuid => Some(16),
            _ => None,
        }
    }

    /// Tells whether the column travels as text, in COPY and in the fingerprint: its own binary form embeds numbers of types
    /// that differ between databases, or is not known.
    #[must_use]
    pub fn travels_as_text(&self) -> bool {
        match self {
            Self::AsText
            | Self::Printed(_)
            | Self::Xml
            | Self::Hstore
            | Self::Vector
            | Self::Sparsevec
            | Self::Geometry { .. }
            | Self::Composite(_)
            | Self::DomainArray(_) => true,
            Self::Array(inner) => matches!(**inner, Self::Enum | Self::Citext) || inner.travels_as_text(),
            Self::Raw(inner) => inner.travels_as_text(),
            _ => false,
        }
    }

    /// Returns the type whose text it is; itself, where it is none.
    #[must_use]
    pub fn unprinted(&self) -> &Self {
        if let Self::Printed(inner) = self { inner } else { self }
    }

    /// Tells whether a value holds XML: a server without libxml makes such a column, but reads no value.
    #[must_use]
    pub fn holds_xml(&self) -> bool {
        match self {
            Self::Xml => true,
            Self::Array(inner) | Self::DomainArray(inner) | Self::Raw(inner) | Self::Printed(inner) => inner.holds_xml(),
            Self::Composite(fields) => fields.iter().any(|f| f.wire.holds_xml()),
            _ => false,
        }
    }

    /// Returns the name of the Parquet type that holds it.
    #[must_use]
    pub fn parquet(&self, profile: Profile) -> String {
        match self {
            Self::Bool => "BOOLEAN".into(),
            Self::Int2 => "INT32 (INT16)".into(),
            Self::Int4 => "INT32".into(),
            Self::Int8 | Self::Oid | Self::Xid | Self::Cid => "INT64".into(),
            Self::Float4 => "FLOAT".into(),
            Self::Float8 => "DOUBLE".into(),
            Self::Numeric(m) => {
                m.and_then(NumericMod::decimal).map_or_else(|| "STRING".into(), |(p, s)| format!("DECIMAL({p},{s})"))
            }
            Self::Money { scale } => format!("DECIMAL(19,{scale})"),
            Self::Bytea | Self::Raw(_) => "BINARY".into(),
            Self::Geometry { .. } => "BINARY (WKB)".into(),
            Self::Date => "DATE".into(),
            Self::Timestamp => "TIMESTAMP(MICROS)".into(),
            Self::Timestamptz => "TIMESTAMP(MICROS, UTC)".into(),
            Self::Interval => "STRUCT<months,days,micros>".into(),
            Self::Time if profile == Profile::Native => "TIME(MICROS)".into(),
            Self::Uuid if profile == Profile::Native => "UUID".into(),
            Self::Array(inner) | Self::DomainArray(inner) => format!("LIST<{}>", inner.parquet(profile)),
            Self::Vector => "LIST<FLOAT>".into(),
            Self::Sparsevec => "STRUCT<dimensions,indices,values>".into(),
            Self::Hstore => "MAP<STRING,STRING>".into(),
            Self::Composite(fields) => {
                let fields: Vec<String> = fields.iter().map(|f| format!("{} {}", f.name, f.wire.parquet(profile))).collect();
                format!("STRUCT<{}>", fields.join(", "))
            }
            Self::Text
            | Self::Varchar
            | Self::Bpchar
            | Self::Name
            | Self::Char
            | Self::Time
            | Self::Timetz
            | Self::Uuid
            | Self::Json
            | Self::Jsonb
            | Self::Inet
            | Self::Cidr
            | Self::Macaddr
            | Self::Macaddr8
            | Self::Bit
            | Self::Varbit
            | Self::Citext
            | Self::Xml
            | Self::AsText
            | Self::Printed(_)
            | Self::Enum => "STRING".into(),
        }
    }
}

impl fmt::Display for PgType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numeric(Some(m)) => write!(f, "numeric({},{})", m.precision, m.scale),
            Self::Numeric(None) => f.write_str("numeric"),
            Self::Money { scale } => write!(f, "money({scale})"),
            Self::Array(inner) => write!(f, "{inner}[]"),
            Self::DomainArray(inner) => write!(f, "domain {inner}[]"),
            Self::Raw(inner) => write!(f, "raw {inner}"),
            Self::Printed(inner) => write!(f, "text of {inner}"),
            Self::Geometry { srid } => write!(f, "geometry({srid})"),
            Self::Composite(fields) => {
                let fields: Vec<String> = fields.iter().map(|c| format!("{:?} {}", c.name, c.wire)).collect();
                write!(f, "composite({})", fields.join(", "))
            }
            other => write!(f, "{}", format!("{other:?}").to_lowercase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typmod(p: i32, s: i32) -> i32 {
        ((p << 16) | (s & 0x7ff)) + 4
    }

    #[test]
    fn typmods_and_decimals() {
        for (p, s, decimal) in [
            (15, 2, Some((15, 2))),
            (38, 38, Some((38, 38))),
            (5, -2, Some((7, 0))),
            (2, 5, Some((5, 5))),
            (39, 0, None),
            (38, -1, None),
            (1000, 1000, None),
        ] {
            let m = NumericMod::from_typmod(typmod(p, s)).unwrap();
            assert_eq!((i32::from(m.precision), i32::from(m.scale)), (p, s));
            assert_eq!(m.decimal(), decimal, "numeric({p},{s})");
        }
        assert_eq!(NumericMod::from_typmod(-1), None);
    }
}
