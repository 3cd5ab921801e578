//! Which paths belong to a file set: patterns as in `.gitignore` (<https://git-scm.com/docs/gitignore#_pattern_format>).

use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::{FilesError, Result};

/// Compiled patterns.
#[derive(Debug, Clone)]
pub struct Rules {
    include: Option<Gitignore>,
    exclude: Gitignore,
}

impl Rules {
    /// Compiles patterns; without any to include, everything belongs to it.
    ///
    /// # Errors
    /// [`FilesError::Pattern`].
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        Ok(Self { include: (!include.is_empty()).then(|| compile(include)).transpose()?, exclude: compile(exclude)? })
    }

    /// Tells whether a path below the root belongs to it: it, or a folder above it, is included and not excluded.
    #[must_use]
    pub fn takes(&self, path: &Path, is_folder: bool) -> bool {
        let included = self.include.as_ref().is_none_or(|rules| rules.matched_path_or_any_parents(path, is_folder).is_ignore());
        included && !self.leaves_out(path, is_folder)
    }

    /// Tells whether a path is excluded; of a folder that is, nothing belongs to it.
    #[must_use]
    pub fn leaves_out(&self, path: &Path, is_folder: bool) -> bool {
        self.exclude.matched_path_or_any_parents(path, is_folder).is_ignore()
    }
}

fn compile(patterns: &[String]) -> Result<Gitignore> {
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        let bad = |reason: String| FilesError::Pattern { pattern: pattern.clone(), reason };
        builder.add_line(None, pattern).map_err(|e| bad(e.to_string()))?;
    }
    builder.build().map_err(|e| FilesError::Pattern { pattern: patterns.join(" "), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(include: &[&str], exclude: &[&str]) -> Rules {
        let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        Rules::new(&owned(include), &owned(exclude)).unwrap()
    }

    #[test]
    fn patterns_mean_what_gitignore_says() {
        let project = rules(&["sources/**/*.csv", "profiles.yml", "macros/", "!macros/draft.sql"], &["*.tmp", "/target/"]);
        let takes = |path: &str| project.takes(Path::new(path), false);
        assert!(takes("sources/a.csv") && takes("sources/x/y/b.csv") && takes("profiles.yml") && takes("deep/profiles.yml"));
        assert!(takes("macros/a.sql") && takes("macros/x/b.sql") && !takes("macros/draft.sql"));
        assert!(!takes("sources/a.txt") && !takes("other/a.csv") && !takes("macros/a.tmp"));
        let all = rules(&[], &["*.tmp", "/target/", "!keep.tmp"]);
        let takes = |path: &str| all.takes(Path::new(path), false);
        assert!(takes("a") && takes("x/target/a") && takes("keep.tmp") && !takes("target/a") && !takes("x/y.tmp"));
        assert!(all.leaves_out(Path::new("target"), true) && !all.leaves_out(Path::new("target"), false));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let bad = Rules::new(&["[z-a].csv".to_owned()], &[]).unwrap_err();
        assert!(bad.to_string().contains("`[z-a].csv`"), "{bad}");
    }
}
