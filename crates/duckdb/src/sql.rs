//! Names and texts in SQL.

use dozo_model::quote_ident;

/// Quotes a text.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Quotes the parts of a qualified name.
pub(crate) fn qualified(parts: &[&str]) -> String {
    parts.iter().map(|p| quote_ident(p)).collect::<Vec<_>>().join(".")
}
