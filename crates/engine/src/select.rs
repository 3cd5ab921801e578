//! Patterns of table names: `schema.table` with `*` and `?`; without a point, a table of any schema.

use dozo_model::QualifiedName;
use globset::{Glob, GlobMatcher};

use crate::{EngineError, Result};

/// Compiled patterns.
#[derive(Debug, Clone)]
pub struct Patterns(Vec<(String, GlobMatcher)>);

impl Patterns {
    /// Compiles patterns.
    ///
    /// # Errors
    /// [`EngineError::BadPattern`].
    pub fn new(patterns: &[String]) -> Result<Self> {
        let compile = |text: &String| {
            let full = if text.contains('.') { text.clone() } else { format!("*.{text}") };
            Ok((text.clone(), compiled(&full, text)?))
        };
        Ok(Self(patterns.iter().map(compile).collect::<Result<_>>()?))
    }

    /// Tells whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first pattern that matches a table or the root of its tree.
    #[must_use]
    pub fn matching(&self, name: &QualifiedName, root: Option<&QualifiedName>) -> Option<&str> {
        let names: Vec<String> = [Some(name), root].into_iter().flatten().map(ToString::to_string).collect();
        self.0.iter().find(|(_, glob)| names.iter().any(|n| glob.is_match(n))).map(|(text, _)| text.as_str())
    }

    /// Makes sure that every pattern matches something.
    ///
    /// # Errors
    /// [`EngineError::NoMatch`] for the first that does not.
    pub fn all_match<'a>(
        &self,
        tables: impl Iterator<Item = (&'a QualifiedName, Option<&'a QualifiedName>)>,
        place: &str,
    ) -> Result<()> {
        let tables: Vec<_> = tables.collect();
        for (text, glob) in &self.0 {
            let hit = tables.iter().any(|(n, r)| glob.is_match(n.to_string()) || r.is_some_and(|r| glob.is_match(r.to_string())));
            if !hit {
                return Err(EngineError::NoMatch { pattern: text.clone(), place: place.to_owned() });
            }
        }
        Ok(())
    }
}

/// Patterns of columns: `schema.table.column`, or `table.column` in any schema.
#[derive(Debug, Clone)]
pub(crate) struct ColumnPatterns(Vec<GlobMatcher>);

impl ColumnPatterns {
    pub(crate) fn new(patterns: &[String]) -> Result<Self> {
        let compile = |text: &String| {
            let full = if text.matches('.').count() < 2 { format!("*.{text}") } else { text.clone() };
            compiled(&full, text)
        };
        Ok(Self(patterns.iter().map(compile).collect::<Result<_>>()?))
    }

    pub(crate) fn matches(&self, table: &QualifiedName, root: Option<&QualifiedName>, column: &str) -> bool {
        let mut names = [Some(table), root].into_iter().flatten().map(|n| format!("{n}.{column}"));
        names.any(|name| self.0.iter().any(|glob| glob.is_match(&name)))
    }
}

/// Compiles the pattern of a name that has no parts.
pub(crate) fn glob(pattern: &str) -> Result<GlobMatcher> {
    compiled(pattern, pattern)
}

fn compiled(full: &str, shown: &str) -> Result<GlobMatcher> {
    let bad = |e: globset::Error| EngineError::BadPattern { pattern: shown.to_owned(), reason: e.kind().to_string() };
    Ok(Glob::new(full).map_err(bad)?.compile_matcher())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_tables_and_roots() {
        let p = Patterns::new(&["*.tmp_*".into(), "orders".into()]).unwrap();
        let name = |t: &str| QualifiedName::new("public", t);
        assert_eq!(p.matching(&name("tmp_1"), None), Some("*.tmp_*"));
        assert_eq!(p.matching(&name("orders_2026_01"), Some(&name("orders"))), Some("orders"));
        assert_eq!(p.matching(&name("orders_2026_01"), None), None);
        assert!(Patterns::new(&["a[".into()]).is_err());
        let tables = [name("orders")];
        let error = p.all_match(tables.iter().map(|t| (t, None)), "shop").unwrap_err();
        assert_eq!(error.to_string(), "pattern `*.tmp_*` matches no table of shop");
    }
}
